"""What a program and its neighbours see when something goes wrong on a slice.

Each scenario is a real program under ``carrel-run`` on a private node with a software GPU.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil

BIN = Path(sys.executable).parent
CARREL_RUN = BIN / "carrel-run"

PRELUDE = """
import json, os, subprocess, sys, time
import numpy as np
from numba import cuda

@cuda.jit
def add(x, y, out):
    i = cuda.grid(1)
    if i < x.size:
        out[i] = x[i] + y[i]

@cuda.jit
def poke(a, index):
    a[index] = 1.0

def check_sum():
    x = np.arange(1000, dtype=np.float32)
    out = np.zeros_like(x)
    add[8, 128](x, 2 * x, out)
    np.testing.assert_array_equal(out, 3 * x)
"""


def start(program: str, vram: str = "256MiB") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [CARREL_RUN, "--software-gpu", f"vram={vram}", "--",
         sys.executable, "-c", PRELUDE + textwrap.dedent(program)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run(program: str, vram: str = "256MiB") -> tuple[str, str]:
    """Runs ``program`` to its successful end; returns what it wrote to stdout and stderr."""
    process = start(program, vram)
    try:
        out, err = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.terminate()
        raise
    assert process.returncode == 0, f"exit status {process.returncode}\n{out}\n{err}"
    return out, err


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if child.name() == "carrel-worker"
    ]


def test_allocation_beyond_the_slice() -> None:
    out, err = run(
        """
        kept = cuda.to_device(np.arange(1 << 20, dtype=np.float32))
        try:
            cuda.device_array(300 << 20, np.uint8)
        except cuda.cudadrv.driver.CudaAPIError as error:
            print(error)
        else:
            raise AssertionError("300 MiB fitted into 256 MiB")
        np.testing.assert_array_equal(kept.copy_to_host(), np.arange(1 << 20, dtype=np.float32))
        check_sum()
        free, total = cuda.current_context().get_memory_info()
        assert total == 256 << 20, total
        assert free <= total - (4 << 20), free
        smi = json.loads(subprocess.check_output(["carrel-smi", "--json"]))
        print(json.dumps(smi))
        """
    )
    error, smi = out.strip().splitlines()
    assert "OUT_OF_MEMORY" in error
    assert "out of memory: 300.0 MiB asked for" in err
    assert "of the slice's 256 MiB are free" in err
    shown = json.loads(smi)
    assert shown["vram_total_bytes"] == 256 << 20
    assert 4 << 20 <= shown["vram_used_bytes"] <= 256 << 20


def test_out_of_bounds_hurts_only_its_own_process() -> None:
    out, _ = run(
        """
        # A neighbour on the same lease, alive before, during and after.
        neighbour = subprocess.Popen(
            [sys.executable, "-c", os.environ["NEIGHBOUR"]],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert neighbour.stdout.readline().strip() == "ready"
        a = cuda.to_device(np.zeros(16))
        poke[1, 1](a, 1 << 40)
        for attempt in range(2):  # sticky, as in CUDA
            try:
                cuda.synchronize()
            except cuda.cudadrv.driver.CudaAPIError as error:
                print(error)
            else:
                raise AssertionError("the error was lost")
        print(neighbour.communicate("go on\\n", timeout=60)[0].strip())
        os._exit(neighbour.returncode)
        """.replace(
            'os.environ["NEIGHBOUR"]',
            repr(
                PRELUDE
                + "kept = cuda.to_device(np.arange(1 << 20, dtype=np.float32))\n"
                + "check_sum()\nprint('ready', flush=True)\nsys.stdin.readline()\n"
                + "np.testing.assert_array_equal(kept.copy_to_host(), np.arange(1 << 20))\n"
                + "check_sum()\nprint('neighbour unharmed')\n"
            ),
        )
    )
    lines = out.strip().splitlines()
    assert "ILLEGAL_ADDRESS" in lines[0]
    assert "ILLEGAL_ADDRESS" in lines[1]
    assert lines[-1] == "neighbour unharmed"


def test_killed_worker_is_an_error_and_a_new_process_attaches_again() -> None:
    process = start(
        """
        check_sum()
        print("ready", flush=True)
        sys.stdin.readline()
        start = time.monotonic()
        try:
            cuda.to_device(np.zeros(1000))
            cuda.synchronize()
        except Exception as error:
            print(type(error).__name__, error)
        else:
            raise AssertionError("the lost worker was not noticed")
        assert time.monotonic() - start < 10
        code = PRELUDE + "check_sum(); print('attached again')"
        print(subprocess.check_output([sys.executable, "-c", code], text=True).strip(), flush=True)
        os._exit(0)
        """.replace("PRELUDE", repr(PRELUDE))
    )
    assert process.stdin
    assert process.stdout
    try:
        assert process.stdout.readline().strip() == "ready"
        [worker] = workers_of(process)
        worker.send_signal(signal.SIGKILL)
        out, err = process.communicate("go on\n", timeout=120)
    finally:
        if process.poll() is None:
            process.terminate()
    assert process.returncode == 0, out + err
    assert "attached again" in out
    assert "the GPU session ended" in err, err  # one line that says what happened, and what to do


def test_fork_and_spawn() -> None:
    out, err = run(
        """
        check_sum()
        child = os.fork()
        if child == 0:
            try:
                cuda.to_device(np.zeros(8))
                os._exit(3)
            except Exception as error:
                sys.stderr.write(f"in the child: {error}\\n")
                os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0, status
        check_sum()  # the parent's session is untouched
        code = PRELUDE + "check_sum(); print('spawned child has its own')"
        print(subprocess.check_output([sys.executable, "-c", code], text=True).strip())
        """.replace("PRELUDE", repr(PRELUDE))
    )
    assert "spawned child has its own" in out
    assert "in the child" in err
    assert "fork" in err  # Carrel's own line says why


def test_nothing_is_left_behind_when_interrupted() -> None:
    process = start(
        """
        check_sum()
        print("ready", flush=True)
        time.sleep(60)
        """
    )
    assert process.stdout
    assert process.stdout.readline().strip() == "ready"
    family = [process.pid, *(c.pid for c in psutil.Process(process.pid).children(recursive=True))]
    assert len(family) >= 3  # carrel-run, the program, its worker
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=20)
    deadline = time.monotonic() + 5
    while any(psutil.pid_exists(pid) for pid in family) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [pid for pid in family if psutil.pid_exists(pid)] == []
    assert process.returncode == 128 + signal.SIGTERM


def test_what_kernels_print_appears_on_the_programs_own_streams() -> None:
    out, err = run(
        """
        @cuda.jit
        def hello(a):
            print("hello from thread", cuda.threadIdx.x, a[0])
        hello[1, 2](cuda.to_device(np.full(1, 7.5)))
        cuda.synchronize()
        print("after", flush=True)
        poke[1, 1](cuda.to_device(np.zeros(4)), 1 << 40)
        try:
            cuda.synchronize()
        except cuda.cudadrv.driver.CudaAPIError:
            os._exit(0)
        """
    )
    assert out.splitlines() == [
        "hello from thread 0 7.500000",
        "hello from thread 1 7.500000",
        "after",
    ]
    assert "illegal global memory access" in err


def test_a_killed_program_takes_its_worker_along_out_of_a_long_call() -> None:
    """The GPU never finishes, so the worker is in a copy that waits for it."""
    process = start(
        """
        check_sum()
        child = subprocess.Popen(
            [sys.executable, "-c", os.environ["PROGRAM"]], stdout=subprocess.PIPE, text=True)
        assert child.stdout.readline().strip() == "ready"
        time.sleep(3)  # until it stands in its copy
        print("kill", child.pid, flush=True)
        sys.stdin.readline()
        check_sum()
        """.replace(
            'os.environ["PROGRAM"]',
            repr(
                PRELUDE
                + "@cuda.jit\ndef forever(a):\n    while a[0] == 0:\n        pass\n\n"
                + "flag = cuda.to_device(np.zeros(1, np.int32))\n"
                + "big = cuda.device_array(96 << 20, np.uint8)\n"
                + "forever[1, 1](flag)\nprint('ready', flush=True)\n"
                + "big.copy_to_device(np.zeros(96 << 20, np.uint8))\n"
            ),
        ),
    )
    assert process.stdout
    word, pid = process.stdout.readline().split()
    assert word == "kill"
    assert len(workers_of(process)) == 2
    os.kill(int(pid), signal.SIGKILL)
    deadline = time.monotonic() + 20
    while len(workers_of(process)) > 1:
        assert time.monotonic() < deadline, "the worker of a killed program lives on"
        time.sleep(0.1)
    out, err = process.communicate("\n", timeout=60)
    assert process.returncode == 0, out + err


def test_a_program_may_be_stopped_for_longer_than_any_network_timeout() -> None:
    process = start(
        """
        big = cuda.to_device(np.arange(96 << 20, dtype=np.float32))
        print("now", flush=True)
        for _ in range(3):
            back = big.copy_to_host()
        np.testing.assert_array_equal(back, np.arange(96 << 20, dtype=np.float32))
        print("done")
        """,
        "1GiB",
    )
    assert process.stdout
    assert process.stdout.readline() == "now\n"
    (program,) = (
        child for child in psutil.Process(process.pid).children() if child.name() != "carrel-worker"
    )
    time.sleep(0.05)
    program.suspend()
    time.sleep(40)
    program.resume()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "done\n"), err
