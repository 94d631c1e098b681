"""``make gpu``: the numba programs and the driver benchmark on a real GPU, native beside remote.

Every program of ``tests/programs`` runs natively and through a worker on the real driver, in one
run; the driver benchmark likewise. Writes ``bench/results/<gpu>.json`` with GPU and driver named.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import driver, machine

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "tests" / "programs"
REMOTE = [sys.executable, "-m", "remote_gpu.run", "--"]


def gpu() -> dict[str, str]:
    """Name and driver of the first GPU, from NVIDIA's own tool."""
    done = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    name, version, memory = (field.strip() for field in done.stdout.splitlines()[0].split(","))
    return {"name": name, "driver": version, "memory": memory}


_PROGRAM_TIMEOUT_S = 120


def run_program(prefix: Sequence[str], program: Path) -> dict[str, Any]:
    """Runs one numba program; seconds, and whether it found its results right."""
    start = time.perf_counter()
    try:
        done = subprocess.run(
            [*prefix, sys.executable, str(program)],
            cwd=ROOT, capture_output=True, text=True, timeout=_PROGRAM_TIMEOUT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        error = f"not done after {_PROGRAM_TIMEOUT_S} s"
        return {"passed": False, "seconds": _PROGRAM_TIMEOUT_S, "error": error}
    result: dict[str, Any] = {
        "passed": done.returncode == 0,
        "seconds": round(time.perf_counter() - start, 3),
    }
    if done.returncode:
        result["error"] = (done.stderr or done.stdout)[-1000:]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--output", type=Path, default=None)
    arguments = parser.parse_args()
    device = gpu()
    print(f"{device['name']}, driver {device['driver']}", flush=True)

    programs: dict[str, Any] = {}
    for program in sorted(PROGRAMS.glob("*.py")):
        if program.name.startswith(("test_", "_", "conftest")):
            continue
        native, remote = run_program([], program), run_program(REMOTE, program)
        programs[program.stem] = {"native": native, "remote": remote}
        print(
            f"{program.stem:24} native {'ok' if native['passed'] else 'FAILED':6} "
            f"{native['seconds']:7.2f} s   remote {'ok' if remote['passed'] else 'FAILED':6} "
            f"{remote['seconds']:7.2f} s",
            flush=True,
        )

    slug = re.sub(r"[^a-z0-9]+", "-", device["name"].lower()).strip("-")
    output = arguments.output or ROOT / "bench" / "results" / f"{slug}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    result = {"machine": machine.describe(), "gpu": device, "programs": programs}
    output.write_text(json.dumps(result, indent=2) + "\n")  # should the rest fail

    native, remote = driver.run([]), driver.run(REMOTE)
    remote["attach_ms"], native["attach_ms"] = driver.attach_ms(REMOTE), driver.attach_ms([])
    print(f"\n{'figure':24} {'native':>12} {'remote':>12}")
    for figure in sorted(set(native) & set(remote) - {"device", "driver_version"}):
        print(f"{figure:24} {float(native[figure]):12.4g} {float(remote[figure]):12.4g}")

    result["driver"] = {"native": native, "remote": remote}
    output.write_text(json.dumps(result, indent=2) + "\n")
    failed = [name for name, p in programs.items() if not p["remote"]["passed"]]
    print(f"\nwritten to {output}; {len(programs) - len(failed)} of {len(programs)} programs pass")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
