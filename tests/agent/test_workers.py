"""Worker processes: what they get, how they end, and that none is left behind."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from remote_gpu.agent import workers
from remote_gpu.agent.node import Node, worker_environment
from tests.agent.support import KEY, Client, eventually


@pytest.fixture(autouse=True)
def logs(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "carrel.agent")
    return caplog


async def test_a_worker_gets_no_secret_and_no_other_descriptor(node: Node) -> None:
    one, two = await Client.connect(node.port), await Client.connect(node.port)
    pids = [await one.attached(), await two.attached()]
    environment = json.loads(await two.ask("environment"))
    assert "CARREL_TOKEN" not in environment
    assert not any("secret" in value for value in environment.values())
    # Three standard ones, client, control, ledger; its map, its selector, the directory it lists.
    assert len(json.loads(await two.ask("descriptors"))) <= 9
    for pid in pids:
        command = " ".join(psutil.Process(pid).cmdline())
        assert KEY.hex() not in command
    await one.close()
    await two.close()


def test_worker_environment_is_an_allow_list() -> None:
    given = {
        "PATH": "/bin", "LC_ALL": "C", "CUDA_VISIBLE_DEVICES": "1", "CARREL_LOG": "debug",
        "CARREL_LEASE_KEY": "k", "CARREL_NODE_TOKEN": "t", "JUPYTERHUB_API_TOKEN": "t",
        "AWS_SECRET_ACCESS_KEY": "s", "LD_PRELOAD": "x.so",
    }  # fmt: skip
    assert set(worker_environment(given)) == {
        "PATH", "LC_ALL", "CUDA_VISIBLE_DEVICES", "CARREL_LOG",
    }  # fmt: skip


async def test_a_killed_worker(node: Node, logs: pytest.LogCaptureFixture) -> None:
    doomed, neighbour = await Client.connect(node.port), await Client.connect(node.port)
    pid = await doomed.attached()
    await neighbour.attached()
    lease = node.leases["lease-1"]
    assert await doomed.ask(f"charge {700 << 20}") == "ok"
    assert await neighbour.ask(f"charge {200 << 20}") == "ok"
    assert await neighbour.ask(f"charge {200 << 20}") == "no"
    os.kill(pid, signal.SIGKILL)
    assert await doomed.line() == ""  # the end of file, at once, not a hang
    await eventually(lambda: doomed.session not in node.workers, "the dead are noticed")
    assert "killed by signal 9" in logs.text
    # What it held is free for others; the lease remains and takes a new session.
    assert lease.ledger.used_bytes == 200 << 20
    assert await neighbour.ask(f"charge {800 << 20}") == "ok"
    again = await Client.connect(node.port)
    await again.attached()
    await again.close()
    await neighbour.close()


async def test_an_exit_status_is_logged(node: Node, logs: pytest.LogCaptureFixture) -> None:
    client = await Client.connect(node.port)
    await client.attached()
    client.writer.write(b"exit 3\n")
    await eventually(lambda: not node.workers, "its end is noticed")
    assert "exit status 3" in logs.text
    await client.close()


async def test_ending_a_session_tells_the_program_why(node: Node) -> None:
    client, neighbour = await Client.connect(node.port), await Client.connect(node.port)
    await client.attached()
    await neighbour.attached()
    node.end_session(client.session, "an administrator ended it")
    assert await client.line() == "ended: an administrator ended it"
    await eventually(lambda: client.session not in node.workers, "it ends")
    assert await neighbour.ask("hi") == "hi"
    await neighbour.close()


async def test_a_worker_that_does_not_end_is_killed(
    node: Node, logs: pytest.LogCaptureFixture
) -> None:
    client = await Client.connect(node.port)
    await client.attached()
    assert await client.ask("stubborn") == "hm"
    started = time.monotonic()
    node.end_session(client.session, "enough")
    await eventually(lambda: not node.workers, "it is killed")
    assert 2.5 < time.monotonic() - started < 5
    assert "enough (killed by signal 9)" in logs.text
    await client.close()


async def test_a_worker_whose_driver_hangs_is_killed(
    node: Node, monkeypatch: pytest.MonkeyPatch, logs: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers, "_READY_S", 0.5)
    node._command = ["sh", "-c", "exec sleep 60"]
    client = await Client.connect(node.port)
    assert await client.line() == ""  # an error, not a hang
    await eventually(lambda: not node.workers, "it is killed")
    assert "its driver did not come up within 0.5 s" in logs.text
    await client.close()


async def test_reports_that_make_no_sense_are_survived(
    node: Node, logs: pytest.LogCaptureFixture
) -> None:
    client = await Client.connect(node.port)
    await client.attached()
    for nonsense in (
        "[]",
        "{",
        '"stats"',
        '{"type": "stats", "vram_bytes": 1e999}',
        "{}",
        '{"type": 3}',
    ):
        assert await client.ask(f"stats {nonsense}") == "sent"
    await client.stats(launches=3, gpu_busy_us="many", calls=None)
    await eventually(lambda: node.workers[client.session].stats == {"launches": 3}, "the good one")
    assert "unreadable report" in logs.text
    await client.close()


async def test_idle_time_goes_on_between_reports(node: Node) -> None:
    client = await Client.connect(node.port)
    await client.attached()
    worker = node.workers[client.session]
    await client.stats(idle_ms=5000)
    await eventually(lambda: worker.stats.get("idle_ms") == 5000, "stats arrive")
    await asyncio.sleep(0.3)
    assert 5300 <= worker.idle_ms < 7000
    await client.close()


# --- the agent's own end --------------------------------------------------------------------------

NODE = """
import asyncio, logging, signal, sys, time
sys.path.insert(0, {root!r})
from remote_gpu.agent.node import Node
from tests.agent.support import ECHO_WORKER, KEY, make_gpu

async def main():
    node = Node([make_gpu()], "node-1", worker_command=ECHO_WORKER)
    node.admit("lease-1", KEY, make_gpu().uuid, 1024, 5.0, time.time() + 3600)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(node.port, flush=True)
    await stop.wait()
    await node.close()

asyncio.run(main())
"""


class NodeProcess:
    """A node in a process of its own."""

    def __init__(self) -> None:
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        self.process = subprocess.Popen(
            [sys.executable, "-c", NODE.format(root=root)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        self.port = int(self.process.stdout.readline())

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        status = self.process.wait(10)
        assert self.process.stdout
        self.process.stdout.close()
        return status


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("stubborn", [False, True])
async def test_no_worker_outlives_a_killed_agent(stubborn: bool) -> None:
    agent = await asyncio.to_thread(NodeProcess)
    clients = [await Client.connect(agent.port) for _ in range(3)]
    pids = [await client.attached() for client in clients]
    for client in clients:
        if stubborn:
            await client.ask("stubborn")
    await asyncio.to_thread(agent.end, signal.SIGKILL)
    await eventually(lambda: all(gone(pid) for pid in pids), "workers die with the agent", 5)
    for client in clients:
        assert await client.line() == ""  # an error, not a hang
        await client.close()


@pytest.mark.parametrize("stubborn", [False, True])
async def test_an_orderly_end_takes_at_most_five_seconds(stubborn: bool) -> None:
    agent = await asyncio.to_thread(NodeProcess)
    clients = [await Client.connect(agent.port) for _ in range(3)]
    pids = [await client.attached() for client in clients]
    if stubborn:
        assert await clients[1].ask("stubborn") == "hm"
    started = time.monotonic()
    assert await asyncio.to_thread(agent.end, signal.SIGTERM) == 0
    assert time.monotonic() - started < 5
    assert all(gone(pid) for pid in pids)
    assert await clients[0].line() == "ended: the GPU node is shutting down"
    for client in clients:
        await client.close()
