"""``carrel-agent`` with a real broker, real workers and software GPUs, all in processes of their
own: what happens to programs when the agent is killed, restarted or stopped."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from gpu_broker.client import BrokerClient
from gpu_broker.models import Lease
from remote_gpu.agent.app import JsonFormatter
from remote_gpu.environment import slice_environment
from remote_gpu.monitor import Monitor
from tests.agent.support import workers_of
from tests.broker.support import NODE_TOKEN, PEOPLE, ROOT, Broker, eventually

# A program that answers each line it gets with the result of a CUDA call that crosses.
PROGRAM = """
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
address, context = ctypes.c_uint64(), ctypes.c_void_p()
print(cuda.cuInit(0) or cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
      or cuda.cuCtxSetCurrent(context) or cuda.cuMemAlloc_v2(ctypes.byref(address), 32 << 20),
      flush=True)
value = (ctypes.c_char * 4)(*b"abc")
for line in sys.stdin:
    back = (ctypes.c_char * 4)()
    print(cuda.cuMemcpyHtoD_v2(address, value, 4) or cuda.cuMemcpyDtoH_v2(back, address, 4)
          or 100 * (back.raw != value.raw), flush=True)
"""


class Agent:
    """A ``carrel-agent`` process with two software GPUs."""

    def __init__(self, home: Path, broker: Broker) -> None:
        self.home, self.broker = home, broker
        self.state = home / "state"
        token = home / "node-token"
        token.write_text(NODE_TOKEN)

    def start(self) -> Agent:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("CARREL_")}
        with (self.home / "agent.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "remote_gpu.agent.app",
                    f"--broker={self.broker.fleet}", f"--token-file={self.home}/node-token",
                    "--node-name=node-1", "--port=0", "--software-gpus=2",
                    "--software-vram=512MiB", f"--state-dir={self.state}",
                ],
                cwd=ROOT, env=clean, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        return self

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return (self.home / "agent.log").read_text()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(10)


class Program:
    """A program on a lease, started as the spawner would."""

    def __init__(self, client: BrokerClient, lease: Lease) -> None:
        told = client.credentials(lease.id)
        self.env = slice_environment(told.endpoint, told.lease, told.key, "lesson.ipynb")
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], env=self.env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdout
        assert self.process.stdout.readline() == "0\n", self.end()

    def result(self) -> int:
        """Of a CUDA call made now."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def end(self) -> str:
        """Ends it; returns what it wrote to stderr."""
        return self.process.communicate(timeout=20)[1]


@pytest.fixture
def agent(tmp_path: Path, broker: Broker) -> Iterator[Agent]:
    agent = Agent(tmp_path, broker).start()
    yield agent
    agent.stop()
    assert NODE_TOKEN not in agent.log


@pytest.fixture
def ada(broker: Broker, agent: Agent) -> Iterator[BrokerClient]:
    with broker.client("ada") as client:
        eventually(
            lambda: len(client.capacity().gpus) == 2 and "connected" in agent.log,
            "the node's GPUs are there", 30,
        )  # fmt: skip
        yield client


@pytest.fixture
def run_on(ada: BrokerClient) -> Iterator[Callable[[Lease], Program]]:
    made: list[Program] = []

    def run(lease: Lease) -> Program:
        made.append(Program(ada, lease))
        return made[-1]

    yield run
    for program in made:
        if program.process.poll() is None:
            program.process.kill()
            program.end()


def take(client: BrokerClient, vram_mib: int = 128, server_name: str = "") -> Lease:
    lease = client.create_lease(vram_mib, 2.0, server_name=server_name)
    return client.wait_active(lease.id)


Run = Callable[[Lease], Program]


def test_a_program_on_a_lease(ada: BrokerClient, agent: Agent, run_on: Run) -> None:
    lease = take(ada)
    program = run_on(lease)
    assert program.result() == 0
    (session,) = eventually(ada.sessions, "the session is reported")
    assert (session.lease, session.pid, session.name) == (
        lease.id, program.process.pid, "lesson.ipynb",
    )  # fmt: skip
    eventually(lambda: ada.sessions()[0].vram_bytes == 32 << 20, "its memory is reported")
    with Monitor(program.env) as monitor:
        state = monitor.read()
    assert state.vram_total_bytes == 128 << 20
    assert state.vram_used_bytes == 32 << 20
    assert [p.pid for p in state.processes] == [program.process.pid]
    assert lease.gpu.uuid == state.uuid
    program.end()
    eventually(lambda: ada.sessions() == [], "the session's end is reported")
    assert workers_of(agent.pid) == []


def test_an_ended_session_is_told_why(ada: BrokerClient, run_on: Run) -> None:
    lease = take(ada)
    program, neighbour = run_on(lease), run_on(lease)
    (session,) = eventually(
        lambda: [s for s in ada.sessions() if s.pid == program.process.pid], "it is reported"
    )
    ada.end_session(session.id)
    eventually(lambda: session.id not in {s.id for s in ada.sessions()}, "it ends")
    eventually(lambda: program.result() != 0, "the program is told")
    assert "ended" in program.end()
    assert neighbour.result() == 0
    ada.end_lease(lease.id)
    eventually(lambda: ada.sessions() == [], "its sessions end with the lease")
    eventually(lambda: neighbour.result() != 0, "the program is told")


def test_the_agent_is_killed_and_restarted(ada: BrokerClient, agent: Agent, run_on: Run) -> None:
    lease, other = take(ada), take(ada, server_name="second")
    programs = [run_on(lease), run_on(other)]
    workers = workers_of(agent.pid)
    assert len(workers) == 2
    agent.stop(signal.SIGKILL)
    eventually(lambda: not any(alive(worker) for worker in workers), "no worker is leaked", 5)
    for program in programs:
        started = time.monotonic()
        assert program.result() != 0  # an error, not a hang
        assert time.monotonic() - started < 10
    agent.start()
    restarted = time.monotonic()
    # The broker's view agrees again: same GPUs, both leases active, no sessions.
    eventually(
        lambda: ada.sessions() == []
        and ada.lease(lease.id).state in ("active", "idle")
        and ada.lease(other.id).state in ("active", "idle")
        and can_run(ada, lease, run_on),
        "the broker's view agrees", 10,
    )  # fmt: skip
    assert time.monotonic() - restarted < 10
    again = run_on(other)
    assert again.result() == 0
    assert ada.lease(lease.id).gpu.uuid == lease.gpu.uuid


def can_run(client: BrokerClient, lease: Lease, run_on: Run) -> bool:
    try:
        return run_on(lease).result() == 0
    except (AssertionError, ValueError):
        return False


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_the_broker_is_killed_and_restarted(
    ada: BrokerClient, agent: Agent, broker: Broker, run_on: Run
) -> None:
    lease = take(ada)
    program = run_on(lease)
    (worker,) = workers_of(agent.pid)
    broker.kill()
    assert program.result() == 0
    late = run_on_env(program)  # new programs get in meanwhile
    assert late.returncode == 0, late.stderr
    broker.start()
    back = time.monotonic()
    eventually(lambda: ada.sessions() != [], "the session is known again")
    assert time.monotonic() - back < 10
    assert (again := ada.lease(lease.id)).state in ("active", "idle")
    assert (again.gpu, again.vram_mib) == (lease.gpu, lease.vram_mib)
    assert program.result() == 0
    assert alive(worker)


def run_on_env(program: Program) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], env=program.env, input="\n", text=True,
        capture_output=True, timeout=30,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_orderly_stop(
    ada: BrokerClient, agent: Agent, run_on: Run, number: signal.Signals
) -> None:
    lease = take(ada)
    program = run_on(lease)
    workers = workers_of(agent.pid)
    started = time.monotonic()
    assert agent.stop(number) == 0, agent.log
    assert time.monotonic() - started < 5
    assert not any(alive(worker) for worker in workers)
    assert program.result() != 0
    assert "shutting down" in program.end()
    assert not agent.state.exists()
    assert "Traceback" not in agent.log


def test_carrel_run_on_a_broker(ada: BrokerClient, broker: Broker, agent: Agent) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("CARREL_", "JUPYTERHUB_"))}
    env["CARREL_TOKEN"] = PEOPLE["ada"]
    command = [
        sys.executable, "-m", "remote_gpu.run", "--broker", broker.url, "--vram", "96MiB",
        "--tflops", "1", "--name", "batch", "--", sys.executable, "-c", PROGRAM,
    ]  # fmt: skip
    run = subprocess.Popen(
        command, cwd=ROOT, env=env, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert run.stdout
    assert run.stdout.readline() == "0\n", run.communicate(timeout=20)
    (lease,) = ada.leases("ada", "active")
    assert (lease.vram_mib, lease.tflops) == (96, 1.0)
    assert PEOPLE["ada"] not in " ".join(psutil.Process(run.pid).cmdline())
    out, err = run.communicate("\n", timeout=20)
    assert (out, err, run.returncode) == ("0\n", "", 0)
    eventually(lambda: ada.lease(lease.id).state == "ended", "the lease is given back")

    # Interrupted, it gives the lease back all the same.
    run = subprocess.Popen(
        command, cwd=ROOT, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert run.stdout
    assert run.stdout.readline() == "0\n"
    (lease,) = ada.leases("ada", "active")
    run.terminate()
    run.communicate(timeout=20)
    assert run.returncode == 128 + signal.SIGTERM
    eventually(lambda: ada.lease(lease.id).state == "ended", "the lease is given back")

    # More than there is: the broker's words, not a traceback.
    command[command.index("96MiB")] = "64GiB"
    refused = subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True, timeout=30)
    assert refused.returncode == 125
    assert refused.stderr.startswith("carrel-run: ")
    assert "MiB" in refused.stderr
    assert "Traceback" not in refused.stderr


# --- the application ------------------------------------------------------------------------------


def agent_says(*options: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("CARREL_")}
    return subprocess.run(
        [sys.executable, "-m", "remote_gpu.agent.app", *options],
        cwd=ROOT, env=clean | env, text=True, capture_output=True, timeout=60,
    )  # fmt: skip


def test_help_and_a_configuration_that_can_be_read_back(tmp_path: Path) -> None:
    assert "--CarrelAgent.software_gpus" in agent_says("--help-all").stdout
    generated = agent_says("--generate-config")
    assert generated.returncode == 0, generated.stderr
    path = tmp_path / "carrel_agent_config.py"
    path.write_text(generated.stdout + "\nc.CarrelAgent.port = 70000\n")
    refused = agent_says(f"--config={path}", CARREL_NODE_TOKEN="t")
    assert "70000" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--software-gpus=1"], "CARREL_NODE_TOKEN"),
        (["--token-file=/nonexistent"], "/nonexistent"),
        (["--broker=gpu.example.edu:8096"], "broker_ca"),
        (["--node-name=a b"], "a b"),
        (["--config=/nonexistent.py"], "/nonexistent.py"),
        (["--no-such-option=1"], "no-such-option"),
    ],
)
def test_errors_say_what_to_do(options: list[str], said: str) -> None:
    done = agent_says(*options)
    assert done.returncode != 0
    assert said in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_json_logs(tmp_path: Path) -> None:
    done = agent_says(
        "--software-gpus=1", "--port=0", "--CarrelAgent.json_logs=True",
        f"--state-dir={tmp_path}/nowhere/at/all", CARREL_NODE_TOKEN="t",
    )  # fmt: skip
    assert done.returncode == 1
    assert "nowhere/at/all" in done.stderr
    record = logging.LogRecord("carrel.agent", 20, "f", 1, 'a "quoted"\nname', None, None)
    assert json.loads(JsonFormatter().format(record))["message"] == 'a "quoted"\nname'
