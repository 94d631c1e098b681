"""Builds and runs ``native/driver_bench.cpp``: what CUDA calls cost a program, beside raw TCP."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from remote_gpu.codegen import abi

from . import programs


def build() -> Path:
    """Compiles the benchmark program; returns its path."""
    programs.BUILD.mkdir(parents=True, exist_ok=True)
    abi.write(programs.BUILD / "cuda_abi.hpp")
    return programs.build("driver_bench", f"-I{programs.BUILD}", "-ldl")


def run(prefix: Sequence[str]) -> dict[str, float | str]:
    """All figures of one run under ``prefix`` (``carrel-run … --``, or nothing: native).

    Waiting is measured with everything on a single CPU: where the system puts two processes that
    wake each other decides their round trip by more than what either does (raw TCP on loopback
    took 7 µs on one CPU and 48 µs on two of the same machine).

    All of it goes over TCP, as between two machines; the figures that begin with ``shm_`` are those
    of a program on the GPU's own host, beside TCP's in the same place (``shm_sync_ratio`` on all
    CPUs, where the two ends need not take turns, ``shm_sync_ratio_1cpu`` on one, where they must).
    """
    figures = _run(prefix, "all")
    spread = _run(prefix, "sync")
    shm = {name: _run(prefix, name, transport="auto") for name in ("sync", "copies")}
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        together, shm_together = _run(prefix, "sync"), _run(prefix, "sync", transport="auto")
    finally:
        os.sched_setaffinity(0, allowed)
    return figures | together | {
        "shm_sync_us": shm["sync"]["sync_us"],
        "shm_sync_ratio": float(shm["sync"]["sync_us"]) / float(spread["sync_us"]),
        "shm_sync_ratio_1cpu": float(shm_together["sync_us"]) / float(together["sync_us"]),
        "shm_h2d_gib_s": shm["copies"]["h2d_gib_s"],
        "shm_d2h_gib_s": shm["copies"]["d2h_gib_s"],
    }  # fmt: skip


def launches_per_s(prefix: Sequence[str]) -> float:
    """Launches per second, pipelined, over TCP on loopback."""
    return float(_run(prefix, "launches")["launches_per_s"])


def _run(prefix: Sequence[str], mode: str, transport: str = "tcp") -> dict[str, float | str]:
    done = subprocess.run(
        [*prefix, str(build()), mode],
        capture_output=True, text=True, timeout=900,
        env={**os.environ, "CARREL_TRANSPORT": transport},
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"bench: driver_bench failed ({done.returncode})\n{done.stdout}{done.stderr}")
    figures: dict[str, float | str] = json.loads(done.stdout.splitlines()[-1])
    return figures


#: Runs inside the slice, so that each start of the program is timed without the node's own.
_ATTACH = """
import subprocess, sys, time
for _ in range(int(sys.argv[2])):
    start = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    print(subprocess.run([sys.argv[1], "attach", str(start)], check=True,
                         capture_output=True, text=True).stdout.strip())
"""


def attach_ms(prefix: Sequence[str], times: int = 15) -> float:
    """Median milliseconds from a process's start to its first CUDA calls answered."""
    done = subprocess.run(
        [*prefix, sys.executable, "-c", _ATTACH, str(build()), str(times)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"bench: attach failed ({done.returncode})\n{done.stdout}{done.stderr}")
    time.sleep(0.1)
    return statistics.median(float(line) for line in done.stdout.split())
