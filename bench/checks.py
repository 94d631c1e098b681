"""What ``make gpu`` checks: the same programs natively and through Carrel, each against its
results.

Every set answers with a dictionary for the results file, and prints as it goes. A set whose tools
are not here raises :class:`NotRun`, with a line that says what is missing.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "tests" / "programs"
SAMPLES = ROOT / "tests" / "cudart" / "samples.cu"
#: The programs of samples.cu; "properties" is left out, for it expects those of the software GPU.
SAMPLE_NAMES = (
    "vector_add", "reduction", "symbols", "streams", "pitched", "managed", "threads",
    "errors", "pools",
)  # fmt: skip
_PROGRAM_TIMEOUT_S = 300
_CONFORMANCE_TIMEOUT_S = 3 * 3600


class NotRun(Exception):
    """Something that the checks need is not here; the message says what, and how to get it."""


@dataclass(frozen=True)
class Way:
    """How a program is started so that it finds its GPU: natively, or through Carrel."""

    prefix: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)

    def run(self, command: Sequence[str]) -> dict[str, Any]:
        """Seconds, whether it ended well, and if not its last words."""
        start = time.perf_counter()
        try:
            done = subprocess.run(
                [*self.prefix, *command], cwd=ROOT, env={**os.environ, **self.env},
                capture_output=True, text=True, timeout=_PROGRAM_TIMEOUT_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return {
                "passed": False, "seconds": _PROGRAM_TIMEOUT_S,
                "error": f"not done after {_PROGRAM_TIMEOUT_S} s",
            }  # fmt: skip
        result: dict[str, Any] = {
            "passed": done.returncode == 0,
            "seconds": round(time.perf_counter() - start, 3),
        }
        if done.returncode:
            result["error"] = (done.stderr or done.stdout)[-1000:]
        return result


def _both(name: str, command: Sequence[str], native: Way, remote: Way) -> dict[str, Any]:
    pair = {"native": native.run(command), "remote": remote.run(command)}
    cells = "   ".join(
        f"{way} {'ok' if one['passed'] else 'FAILED':6} {one['seconds']:7.2f} s"
        for way, one in pair.items()
    )
    print(f"{name:24} {cells}", flush=True)
    return pair


def programs(native: Way, remote: Way) -> dict[str, Any]:
    """The numba and cuda-python programs of tests/programs, which check themselves."""
    missing = [one for one in ("numba_cuda", "numpy", "cuda") if not importlib.util.find_spec(one)]
    if missing:
        raise NotRun(f"{', '.join(missing)} not found: pip install 'numba-cuda>=0.30,<0.31' numpy")
    return {
        program.stem: _both(program.stem, [sys.executable, str(program)], native, remote)
        for program in sorted(PROGRAMS.glob("*.py"))
        if not program.name.startswith(("test_", "_", "conftest"))
    }


def samples(native: Way, remote: Way, *, real: bool) -> dict[str, Any]:
    """CUDA C++ of tests/cudart, built by nvcc with the shared runtime; machine code if ``real``."""
    nvcc, include, runtime = _toolkit()
    with tempfile.TemporaryDirectory(prefix="carrel-samples-") as folder:
        program = Path(folder) / "samples"
        (Path(folder) / "libcudart.so").symlink_to(runtime)
        code = ["-arch=native"] if real else ["-gencode", "arch=compute_80,code=compute_80"]
        done = subprocess.run(
            [str(nvcc), "-cudart", "shared", *code, "-I", str(include), "-L", folder,
             "-Xlinker", f"-rpath={runtime.parent}", "-o", str(program), str(SAMPLES)],
            capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        if done.returncode:
            raise NotRun(f"{nvcc} does not compile {SAMPLES.name}:\n{done.stderr[-2000:]}")
        return {
            name: _both(f"samples {name}", [str(program), name], native, remote)
            for name in SAMPLE_NAMES
        }


def _toolkit() -> tuple[Path, Path, Path]:
    """nvcc, its headers, its shared runtime: the system's, or PyPI's (nvidia-cuda-nvcc)."""
    homes = []
    if found := shutil.which("nvcc"):
        homes.append(Path(found).resolve().parents[1])
    spec = importlib.util.find_spec("nvidia")
    for place in (spec.submodule_search_locations or []) if spec else []:
        homes += [home for home in Path(place).glob("cu1*") if (home / "bin" / "nvcc").exists()]
    for home in homes:
        for folder in ("lib64", "lib", "targets/x86_64-linux/lib"):
            for runtime in sorted((home / folder).glob("libcudart.so.1[0-9]")):
                return home / "bin" / "nvcc", home / "include", runtime.resolve()
    if homes:
        raise NotRun(f"no shared libcudart beside {homes[0]}/bin/nvcc")
    raise NotRun("nvcc not found: install the CUDA toolkit, or pip install nvidia-cuda-nvcc")


def conformance(native: Way | None, remote: Way, *, sample: bool, jobs: int) -> dict[str, Any]:
    """numba-cuda's own tests; what passes natively and fails remotely is ours to mend."""
    if not importlib.util.find_spec("numba_cuda") or not importlib.util.find_spec("pytest_timeout"):
        raise NotRun("numba-cuda's tests need numba-cuda, pytest and pytest-timeout")
    found: dict[str, dict[str, str]] = {}
    for name, way in (("native", native), ("remote", remote)):
        if way is None:
            continue
        with tempfile.TemporaryDirectory(prefix="carrel-conformance-") as folder:
            outcomes = Path(folder) / "outcomes.json"
            command = [
                sys.executable, str(ROOT / "tests" / "conformance" / "run.py"),
                "--under", shlex.join(way.prefix), "--jobs", str(jobs), "--reach", "0",
                "--output", str(Path(folder) / "page.md"), "--outcomes", str(outcomes),
                *(["--sample"] if sample else []),
            ]  # fmt: skip
            done = subprocess.run(
                command, cwd=ROOT, env={**os.environ, **way.env}, timeout=_CONFORMANCE_TIMEOUT_S
            )
            if not outcomes.exists():
                raise NotRun(f"numba-cuda's tests could not be run (status {done.returncode})")
            found[name] = {one["test"]: one["outcome"] for one in json.loads(outcomes.read_text())}
    ran = ("passed", "failed", "crashed", "hung")
    result: dict[str, Any] = {}
    for name, outcomes_by_test in found.items():
        passed = sum(one == "passed" for one in outcomes_by_test.values())
        total = sum(one in ran for one in outcomes_by_test.values())
        result[name] = {"passed": passed, "ran": total}
        print(f"numba-cuda's tests, {name}: {passed} of {total} that ran passed", flush=True)
    reference = found.get("native", {})
    result["only_native_passes"] = sorted(
        test
        for test, outcome in found["remote"].items()
        if outcome in ran and outcome != "passed" and reference.get(test, "passed") == "passed"
    )
    for test in result["only_native_passes"]:
        print(f"    passes natively only: {test}")
    return result
