"""Runs numba-cuda's own tests on the software GPU and writes docs/conformance.md.

    python tests/conformance/run.py [--direct] [--under COMMAND] [--only REGEX] [--sample]
                                    [--jobs N] [--output PATH]

The tests come in numba-cuda's wheel. Every file runs in a process of its own, through
``carrel-run --software-gpu`` (or, with ``--direct``, on the software GPU's library itself, which
tells the driver's faults from the remote path's; or under another command, such as
``--under "carrel-run --"`` for a real GPU and ``--under ""`` for the same without Carrel). A test
that crashes or hangs its process counts as failed, and the rest of its file runs in a new one.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PACKAGES = ("cudapy", "cudadrv")
SOFTWARE_GPU = "vram=4GiB"
TEST_SECONDS = 120
FILE_SECONDS = 1200
MOST_CRASHES = 20  # of one file, before the rest of it is given up


@dataclass
class Outcome:
    """What became of one test. ``outcome``: passed, failed, skipped, xfailed, crashed, hung."""

    test: str
    outcome: str
    message: str = ""
    seconds: float = 0.0

    @property
    def ran(self) -> bool:
        return self.outcome in ("passed", "failed", "crashed", "hung")


@dataclass
class Target:
    """How a test process is started."""

    prefix: list[str]
    environment: dict[str, str] = field(default_factory=dict)


def through_carrel_run() -> Target:
    """On a private node, as a user of ``carrel-run`` would."""
    command = Path(sys.executable).with_name("carrel-run")
    return Target([str(command), "--software-gpu", SOFTWARE_GPU, "--"])


def direct(directory: str, library: Path) -> Target:
    """The software GPU's library in the test's own process."""
    os.symlink(library.resolve(), Path(directory) / "libcuda.so.1")
    return Target([], {"LD_LIBRARY_PATH": directory, "CARREL_SOFTGPU": SOFTWARE_GPU})


def tests_directory() -> Path:
    """Where numba-cuda's tests lie. Raises ImportError when it is not installed."""
    spec = importlib.util.find_spec("numba_cuda")
    if spec is None or spec.origin is None:
        raise ImportError("numba-cuda is not installed; install the extra `demo`")
    return Path(spec.origin).parent / "numba" / "cuda" / "tests"


def test_files(only: str) -> list[Path]:
    root = tests_directory()
    files = [p for name in PACKAGES for p in sorted((root / name).glob("test_*.py"))]
    return [p for p in files if re.search(only, f"{p.parent.name}/{p.name}")]


def module_of(path: Path) -> str:
    """The name under which numba-cuda's import hook knows a test file."""
    return f"numba.cuda.tests.{path.parent.name}.{path.stem}"


def argument_of(test: str) -> str:
    """What selects a test (``cudapy/test_x.py::Class::method``) with pytest's ``--pyargs``."""
    file, _, rest = test.partition("::")
    return f"{module_of(Path(file))}::{rest}"


def run_pytest(
    target: Target, arguments: list[str], record: Path, seconds: float
) -> tuple[int | None, str]:
    """One pytest process: its exit status (None: it hung and was ended) and its last output."""
    command = [
        *target.prefix,
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--import-mode=importlib",
        "-p",
        "no:cacheprovider",
        "-p",
        "recorder",
        "--rootdir",
        str(tests_directory()),
        "-o",
        "addopts=",
        f"--timeout={TEST_SECONDS}",
        "--timeout-method=thread",
        "--pyargs",
        *arguments,
    ]
    environment = {
        **os.environ,
        **target.environment,
        "CARREL_CONFORMANCE_RECORD": str(record),
        "PYTHONPATH": str(HERE),
    }
    with tempfile.TemporaryFile(mode="w+", errors="replace") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            cwd=record.parent,
            start_new_session=True,
        )
        try:
            status: int | None = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            status = None
        output.seek(0)
        return status, output.read()[-4000:]


def read_record(record: Path) -> tuple[dict[str, Outcome], str | None]:
    """Outcomes by test, and the test that was running when the record breaks off."""
    outcomes: dict[str, Outcome] = {}
    running: str | None = None
    if not record.exists():
        return outcomes, running
    for line in record.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        test = entry["test"]
        if entry["event"] == "start":
            running = test
        elif entry["event"] == "uncollected":
            outcomes[test] = Outcome(test, "failed", "not collected: " + entry["message"])
        elif entry["event"] == "outcome":
            known = outcomes.get(test)
            if known is None or entry["outcome"] == "failed":
                outcomes[test] = Outcome(test, entry["outcome"], entry["message"], entry["seconds"])
            if entry["when"] == "setup" and entry["outcome"] == "skipped":
                running = None
        elif entry["event"] == "end":
            running = None
    if running in outcomes and outcomes[running].outcome == "failed":
        running = None
    return outcomes, running


def run_file(target: Target, tests: list[str], directory: Path, label: str) -> list[Outcome]:
    """Runs pytest arguments (a file, or single tests of it) until every test has an outcome."""
    outcomes: dict[str, Outcome] = {}
    for attempt in range(MOST_CRASHES):
        record = directory / f"{label}-{attempt}.jsonl"
        skip = [f"--deselect={test}" for test in outcomes]
        status, tail = run_pytest(target, [*tests, *skip], record, FILE_SECONDS)
        found, running = read_record(record)
        outcomes |= found
        if status in (0, 1, 5) and running is None:
            break
        if running is None:
            if not found:
                name = f"{label} (the whole file)"
                outcomes[name] = Outcome(name, "crashed", f"exit status {status}: {tail[-1500:]}")
            break
        how = "hung" if status is None or "Timeout" in tail else "crashed"
        outcomes[running] = Outcome(running, how, f"exit status {status}: {tail[-1500:]}")
    return list(outcomes.values())


# What a failure's message says about its cause; the first that matches counts.
CAUSES: tuple[tuple[str, str], ...] = (
    (r"not collected", "the test file needs a package that is not installed"),
    (
        r"BrokenProcessPool|No module named 'cuda\.tests|'cuda\.tests\.",
        "pytest's importlib mode gives the test module a name that no other process can import",
    ),
    (r"^exit status", "the test ended its process, or took more than two minutes"),
    (r"cuIpc", "memory shared between processes is not supported"),
    (r"(?i)nvjitlink|LTO", "needs nvJitLink or link-time optimisation"),
    (r"(?i)machine code of|NO_BINARY_FOR_GPU|cubin|fatbin", "needs machine code of a real GPU"),
    (r"CUDA_ERROR_NOT_SUPPORTED|NOT_SUPPORTED", "a driver function that is not supported"),
    (r"INVALID_PTX|ptxas|JIT compilation failed", "PTX that the engine does not take"),
    (r"ILLEGAL_ADDRESS", "illegal address"),
    (r"MISALIGNED", "misaligned address"),
    (r"ILLEGAL_INSTRUCTION", "illegal instruction"),
    (r"LAUNCH_TIMEOUT|Timeout", "too slow"),
    (r"CUDA_ERROR_\w+|CudaAPIError|CUDAError", "another driver error"),
    (r"(?i)not equal|!=|mismatch|AssertionError", "a result that differs"),
)


def cause_of(outcome: Outcome) -> str:
    for pattern, cause in CAUSES:
        if re.search(pattern, outcome.message):
            return cause
    return "other"


def report(outcomes: list[Outcome], seconds: float, how: str) -> str:
    """The page: totals, and every failure by cause."""
    from importlib.metadata import version

    count = Counter(o.outcome for o in outcomes)
    ran = [o for o in outcomes if o.ran]
    failed = [o for o in ran if o.outcome != "passed"]
    rate = 100 * (len(ran) - len(failed)) / len(ran) if ran else 0.0
    lines = [
        "# Conformance",
        "",
        f"numba-cuda {version('numba-cuda')}'s own tests, run {how}. "
        "Written by `make conformance`.",
        "",
        "| outcome | tests |",
        "|---|---:|",
        f"| passed | {count['passed']} |",
        f"| failed | {len(failed)} |",
        f"| skipped by numba-cuda (needs what is not here) | {count['skipped']} |",
        f"| expected to fail | {count['xfailed']} |",
        f"| **of those that ran, passed** | **{rate:.1f} %** |",
        "",
        f"It took {seconds / 60:.0f} minutes.",
        "",
    ]
    by_cause: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in failed:
        by_cause[cause_of(outcome)].append(outcome)
    if failed:
        lines += ["## Failures by cause", ""]
    for cause, group in sorted(by_cause.items(), key=lambda item: -len(item[1])):
        lines += [f"### {cause[0].upper()}{cause[1:]} ({len(group)})", ""]
        for outcome in sorted(group, key=lambda o: o.test):
            first = next((s for s in outcome.message.splitlines() if s.strip()), outcome.outcome)
            first = first.replace("`", "'").replace("|", "¦")[:160]
            lines.append(f"* `{outcome.test}`: {outcome.outcome}; `{first}`")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def sample(outcomes: list[Outcome], size: int, seconds: float) -> list[str]:
    """A spread over all files: the quickest passing tests of each, in turn, within ``seconds``."""
    by_file: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in sorted(outcomes, key=lambda o: o.seconds):
        if outcome.outcome == "passed" and outcome.seconds < 2:
            by_file[outcome.test.split("::")[0]].append(outcome)
    chosen: list[Outcome] = []
    while by_file and len(chosen) < size and sum(o.seconds for o in chosen) < seconds:
        for name in list(by_file):
            # From the middle: the quickest test of a file is often an empty one.
            group = by_file[name]
            chosen.append(group.pop(len(group) // 2))
            if not group:
                del by_file[name]
    return sorted(o.test for o in chosen[:size])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--direct", action="store_true", help="without the remote path")
    parser.add_argument(
        "--under", metavar="COMMAND", help="what every test process is started with"
    )
    parser.add_argument("--sample", action="store_true", help="only the tests of sample.txt")
    parser.add_argument(
        "--library", type=Path, default=ROOT / "remote_gpu" / "lib" / "libcarrel-softgpu.so"
    )
    parser.add_argument("--only", default="", help="regular expression on package/file.py")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "conformance.md")
    parser.add_argument("--outcomes", type=Path, help="also write every outcome as JSON")
    parser.add_argument("--write-sample", action="store_true", help="choose sample.txt anew")
    parser.add_argument("--reach", type=float, default=70.0, help="percent that must pass")
    options = parser.parse_args()

    files = test_files(options.only)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="carrel-conformance-") as directory:
        if options.under is not None:
            target = Target(shlex.split(options.under))
        else:
            target = direct(directory, options.library) if options.direct else through_carrel_run()

        def one(path: Path) -> list[Outcome]:
            label = f"{path.parent.name}-{path.stem}"
            found = run_file(target, [module_of(path)], Path(directory), label)
            bad = sum(o.ran and o.outcome != "passed" for o in found)
            print(f"{path.parent.name}/{path.name}: {len(found)} tests, {bad} failed", flush=True)
            return found

        if options.sample:  # in one process, for it takes a minute only
            sampled = (HERE / "sample.txt").read_text(encoding="utf-8").split()
            tests = [argument_of(test) for test in sampled]
            outcomes = run_file(target, tests, Path(directory), "sample")
        else:
            with ThreadPoolExecutor(options.jobs) as pool:
                outcomes = [o for found in pool.map(one, files) for o in found]
    how = "directly on the software GPU" if options.direct else "through `carrel-run`"
    how += f" with `{SOFTWARE_GPU}`"
    if options.under is not None:
        how = f"under `{options.under}`" if options.under else "on the machine's own GPU"
    page = report(outcomes, time.monotonic() - started, how)
    options.output.write_text(page, encoding="utf-8")
    if options.outcomes:
        options.outcomes.write_text(json.dumps([vars(o) for o in outcomes], indent=1))
    if options.write_sample:
        chosen = sample(outcomes, size=150, seconds=60)
        (HERE / "sample.txt").write_text("\n".join(chosen) + "\n", encoding="utf-8")
    ran = [o for o in outcomes if o.ran]
    passed = sum(o.outcome == "passed" for o in ran)
    print(f"{passed} of {len(ran)} tests that ran passed; see {options.output}")
    return 0 if ran and 100 * passed >= options.reach * len(ran) else 1


if __name__ == "__main__":
    sys.exit(main())
