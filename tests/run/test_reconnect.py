"""A program whose connection breaks goes on; one that waits too long is told.

Real workers on a software GPU, and a relay between program and node that breaks connections.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.run.test_run import CUDA, ROOT, SOFTWARE, environment

PROGRAM = str(Path(__file__).with_name("reconnect_program.py"))


def relayed(cuts: str, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs ``command`` behind a relay that makes ``cuts``, see :mod:`bench.network`."""
    return subprocess.run(
        [*SOFTWARE, sys.executable, "-m", "bench.network", "--cut", cuts, "--", *command],
        env=environment(**env), capture_output=True, text=True, timeout=90, cwd=ROOT,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("cuts", "threads", "tls"),
    [
        ("3000000:2", 1, "off"),  # the cable is pulled for two seconds
        ("500:0.2,2000000:0.3:rst,30000000:0.2:fin,5000:0.3:mute,60000000:0.2:rst", 2, "off"),
        ("2000000:0.1:rst,30000000:1", 2, "on"),
    ],
)
def test_results_are_right_though_the_connection_breaks(cuts: str, threads: int, tls: str) -> None:
    done = relayed(
        cuts, sys.executable, PROGRAM, "5", str(threads), CARREL_LOG="info", CARREL_TLS=tls
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "right" in done.stdout.splitlines(), done.stdout
    assert f"relay: {cuts.count(',') + 1} cuts" in done.stdout, "the program was over too soon"
    assert "the connection is back" in done.stderr
    assert "ended: the program ended" in done.stderr  # and is not waited for


def test_nothing_is_printed_by_default() -> None:
    done = relayed("3000000:0.3", sys.executable, PROGRAM, "2", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "relay: 1 cuts, 2 connections" in done.stdout
    assert not [line for line in done.stderr.splitlines() if "connection" in line], done.stderr


def test_a_node_that_stays_away_is_an_error() -> None:
    program = (
        CUDA.partition("free, total")[0]
        + """
data = bytes(1 << 20)
cuda.cuMemcpyHtoD_v2(address, data, len(data))
print("status", cuda.cuCtxSynchronize(), flush=True)
"""
    )
    started = time.monotonic()
    done = relayed("30000:60", sys.executable, "-c", program, CARREL_RECONNECT_S="1")
    assert "status 46" in done.stdout, done.stdout + done.stderr  # DEVICE_UNAVAILABLE
    assert "the connection to the GPU host broke" in done.stderr
    assert time.monotonic() - started < 20  # not the worker's half minute either


def test_a_killed_worker_is_not_waited_for() -> None:
    program = (
        CUDA
        + """
input()
print("status", cuda.cuCtxSynchronize(), flush=True)
"""
    )
    process = subprocess.Popen(
        [*SOFTWARE, sys.executable, "-c", program],
        env=environment(CARREL_TRANSPORT="tcp"), cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout
    assert process.stdin
    assert process.stdout.readline().startswith("ready")
    started = time.monotonic()
    for child in psutil.Process(process.pid).children(recursive=True):
        if "--ledger-slot" in child.cmdline():
            os.kill(child.pid, signal.SIGKILL)
    process.stdin.write("\n")
    out, errors = process.communicate(timeout=60)
    assert "status 46" in out, out + errors
    assert "the process that served this session on the GPU host is gone" in errors
    assert time.monotonic() - started < 15
