"""``carrel-run``, real workers on a software GPU: status, signals, and nothing left behind."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
CARREL_RUN = [sys.executable, "-m", "remote_gpu.run"]
SOFTWARE = [*CARREL_RUN, "--software-gpu", "vram=256MiB", "--"]

# Opens CUDA through the driver API, so that a worker runs; no more packages than ctypes.
CUDA = """
import ctypes, os, signal, sys, time
cuda = ctypes.CDLL("libcuda.so.1")
def check(result):
    if result:
        name = ctypes.c_char_p()
        cuda.cuGetErrorName(result, ctypes.byref(name))
        raise SystemExit(f"CUDA: {name.value}")
check(cuda.cuInit(0))
context, address = ctypes.c_void_p(), ctypes.c_uint64()
check(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0))
check(cuda.cuCtxSetCurrent(context))
check(cuda.cuMemAlloc_v2(ctypes.byref(address), 4 << 20))
free, total = ctypes.c_size_t(), ctypes.c_size_t()
check(cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)))
print("ready", total.value >> 20, os.getpid(), flush=True)
"""


def environment(**more: str) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("CARREL_", "JUPYTERHUB_"))}
    bin_dir = str(Path(sys.executable).parent)
    return clean | {"PYTHONPATH": str(ROOT), "PATH": f"{bin_dir}:{clean['PATH']}"} | more


def run(*command: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=environment(**env), capture_output=True, text=True, timeout=90
    )


def start(program: str, *, command: list[str] = SOFTWARE, **more: Any) -> subprocess.Popen[str]:
    """Starts ``program`` after the CUDA prelude; returns once its worker runs."""
    process = subprocess.Popen(
        [*command, sys.executable, "-c", CUDA + program],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more,
    )  # fmt: skip
    assert process.stdout
    line = process.stdout.readline()
    if not line.startswith("ready"):
        raise AssertionError(line + process.communicate(timeout=30)[1])
    return process


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def eventually(what: Callable[[], Any], why: str, within_s: float = 10) -> None:
    deadline = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {why}"
        time.sleep(0.02)


def ended(processes: list[psutil.Process]) -> bool:
    return all(not p.is_running() or p.status() == psutil.STATUS_ZOMBIE for p in processes)


@pytest.fixture
def left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], set[Path]]:
    """What there is in temporary and shared-memory directories that was not there before."""
    for variable in ("TMPDIR", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path))

    def files() -> set[Path]:
        shared = {path for path in Path("/dev/shm").iterdir() if "carrel" in path.name.lower()}
        return {*tmp_path.iterdir(), *shared}

    before = files()
    return lambda: files() - before


# --- what the program gets ------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 1, 7, 255])
def test_exit_status(status: int) -> None:
    assert run(*SOFTWARE, "sh", "-c", f"exit {status}").returncode == status


def test_status_of_a_program_that_a_signal_ended() -> None:
    assert run(*SOFTWARE, "sh", "-c", "kill -SEGV $$").returncode == 128 + signal.SIGSEGV


def test_streams_and_arguments_pass_through() -> None:
    done = subprocess.run(
        [*SOFTWARE, "sh", "-c", 'cat; echo "$@" >&2', "sh", "--vram", "a b"],
        env=environment(), input="in\n", capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("in\n", "--vram a b\n")


def test_a_slice_of_the_gpu() -> None:
    done = run(
        *CARREL_RUN, "--software-gpu", "vram=1GiB,sms=4", "--vram", "192MiB", "--tflops", "3",
        "--name", "lesson 1", "--", sys.executable, "-c",
        CUDA + "import subprocess; subprocess.run(['nvidia-smi', '--json'], check=True)",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, _, shown = done.stdout.partition("\n")
    assert first.split()[1] == "192"
    shown_slice = json.loads(shown, parse_constant=pytest.fail)  # JSON has no NaN or Infinity
    assert shown_slice["vram_total_bytes"] == 192 << 20
    assert 4 << 20 <= shown_slice["vram_used_bytes"] < 192 << 20
    assert shown_slice["tflops"] == 3.0
    assert [process["name"] for process in shown_slice["processes"]] == ["lesson 1"]


def test_beyond_the_slice() -> None:
    program = CUDA + "big = cuda.cuMemAlloc_v2(ctypes.byref(address), 300 << 20); print(big)"
    done = run(*SOFTWARE, sys.executable, "-c", program)
    assert done.stdout.splitlines()[-1] == "2"  # CUDA_ERROR_OUT_OF_MEMORY


def test_two_programs_share_the_slice() -> None:
    program = CUDA + (
        "import subprocess\n"
        "check(cuda.cuMemAlloc_v2(ctypes.byref(address), 160 << 20))\n"
        "child = '''" + CUDA + "print(cuda.cuMemAlloc_v2(ctypes.byref(address), 128 << 20))'''\n"
        "done = subprocess.run([sys.executable, '-c', child], capture_output=True, text=True)\n"
        "print(done.stdout)"
    )
    done = run(*SOFTWARE, sys.executable, "-c", program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "2", done.stdout + done.stderr


def test_no_secret_in_arguments() -> None:
    process = start("sys.stdin.read()", stdin=subprocess.PIPE)
    keys = [psutil.Process(p.pid).environ().get("CARREL_LEASE_KEY") for p in family(process)]
    (key,) = {key for key in keys if key}
    for member in [psutil.Process(process.pid), *family(process)]:
        assert key not in " ".join(member.cmdline())
    workers = [p for p in family(process) if p.name() == "carrel-worker"]
    assert len(workers) == 1
    assert key not in workers[0].environ().values()
    process.communicate("", timeout=20)


# --- ends -----------------------------------------------------------------------------------------


def test_nothing_is_left_behind(left_behind: Callable[[], set[Path]]) -> None:
    process = start("sys.stdin.read()", stdin=subprocess.PIPE)
    members = family(process)
    assert {"carrel-worker"} <= {p.name() for p in members}
    (port,) = {c.laddr.port for c in psutil.Process(process.pid).net_connections("tcp")
               if c.status == psutil.CONN_LISTEN}  # fmt: skip
    process.communicate("", timeout=20)
    assert process.returncode == 0
    assert ended(members)
    assert not [c for c in psutil.net_connections("tcp")
                if c.laddr.port == port and c.status == psutil.CONN_LISTEN]  # fmt: skip
    assert left_behind() == set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted(number: signal.Signals, left_behind: Callable[[], set[Path]]) -> None:
    process = start("signal.signal(signal.SIGINT, signal.SIG_DFL); time.sleep(60)")
    members = family(process)
    process.send_signal(number)
    process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert ended(members)
    assert left_behind() == set()


def test_a_program_may_handle_its_signals() -> None:
    process = start(
        "signal.signal(signal.SIGTERM, lambda *_: (print('caught'), sys.exit(5)))\ntime.sleep(60)"
    )
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=10)
    assert (out, process.returncode) == ("caught\n", 5)


def test_killed(left_behind: Callable[[], set[Path]]) -> None:
    process = start("time.sleep(60)")
    members = family(process)
    assert len(members) == 2
    process.kill()
    process.communicate(timeout=10)
    eventually(lambda: ended(members), "worker and program end with carrel-run")
    assert left_behind() == set()


@pytest.mark.parametrize("after_s", [0.02, 0.1, 0.2, 0.3, 0.5, 0.8])
def test_interrupted_while_it_starts(after_s: float, left_behind: Callable[[], set[Path]]) -> None:
    process = subprocess.Popen(
        [*SOFTWARE, "sleep", "60"], env=environment(), stderr=subprocess.PIPE, text=True
    )
    time.sleep(after_s)
    members = family(process)
    process.terminate()
    _, err = process.communicate(timeout=10)
    assert process.returncode in (128 + signal.SIGTERM, -signal.SIGTERM)
    assert "Traceback" not in err
    eventually(lambda: ended(members), "all ended")
    assert left_behind() == set()


def test_control_c_on_a_terminal_arrives_once() -> None:
    """The terminal interrupts both processes; the program must not be interrupted twice."""
    program = (
        "n = 0\n"
        "def count(*_):\n"
        "    global n\n"
        "    n += 1\n"
        "signal.signal(signal.SIGINT, count)\n"
        "print('now', flush=True)\n"
        "time.sleep(2)\n"
        "sys.exit(40 + n)\n"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, [*SOFTWARE, sys.executable, "-c", CUDA + program], environment())
    seen = b""
    while b"now" not in seen:
        seen += os.read(terminal, 4096)
    os.write(terminal, b"\x03")
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 41


def test_a_killed_worker_ends_in_an_error_not_a_hang() -> None:
    process = start(
        "sys.stdin.readline()\n"
        "print(cuda.cuCtxSynchronize() or cuda.cuMemAlloc_v2(ctypes.byref(address), 8 << 20))",
        stdin=subprocess.PIPE,
    )
    (worker,) = [p for p in family(process) if p.name() == "carrel-worker"]
    worker.kill()
    eventually(lambda: ended([worker]), "it is gone")
    out, _ = process.communicate("\n", timeout=20)
    assert int(out) != 0
    assert process.returncode == 0


def test_an_interrupt_ends_what_a_script_has_started() -> None:
    process = subprocess.Popen(
        [*SOFTWARE, "bash", "-c", "sleep 300 & sleep 301; true"], env=environment()
    )
    eventually(lambda: len(family(process)) >= 3, "the script runs")
    left = family(process)
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    eventually(lambda: ended(left), "nothing is left")


# --- what it says ---------------------------------------------------------------------------------


def test_without_a_gpu_it_names_the_software_gpu(tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").touch()  # no library: on a GPU host, too, none is found
    done = run(*CARREL_RUN, "--", "true", LD_LIBRARY_PATH=str(tmp_path))
    assert done.returncode == 125
    assert "--software-gpu" in done.stderr


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--software-gpu", "vram=256MiB", "--vram", "1GiB"], 125, "256 MiB"),
        (["--software-gpu", "vram=256MiB", "--tflops", "900"], 125, "900"),
        (["--software-gpu", "vram=-3"], 125, "vram=-3 is not allowed; expected a size from 2MiB"),
        (["--software-gpu", "vram=1000000GiB"], 125, "vram=1000000GiB is not allowed"),
        (["--software-gpu", "colour=red"], 125, "colour"),
        (["--software-gpu", "vram=1GiB,count=3"], 125, "leave count out"),
        (["--vram", "lots"], 2, "2GiB"),
        (["--tflops", "nan"], 2, "nan"),
        (["--driver", "/nonexistent/libcuda.so.1"], 125, "libcuda.so.1"),
        (
            ["--broker", "http://127.0.0.1:1", "--vram", "1GiB", "--tflops", "1"],
            125,
            "CARREL_TOKEN",
        ),
        (["--broker", "http://127.0.0.1:1", "--software-gpu", "vram=1GiB"], 2, "--broker"),
    ],
)
def test_errors_say_what_to_do(options: list[str], status: int, said: str) -> None:
    done = run(*CARREL_RUN, *options, "--", "true")
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") <= 4 if status == 2 else done.stderr.count("\n") == 1


def test_commands_that_are_not_there() -> None:
    assert run(*SOFTWARE, "no-such-command").returncode == 127
    assert run(*SOFTWARE, "/etc/passwd").returncode == 126
    assert run(*CARREL_RUN).returncode == 2


def test_help_has_examples() -> None:
    done = run(*CARREL_RUN, "--help")
    assert done.returncode == 0
    assert "carrel-run --software-gpu vram=8GiB -- python prog.py" in done.stdout
