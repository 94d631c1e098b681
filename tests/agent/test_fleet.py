"""The agent and a real broker: admission, the broker's death, and leases that are no more."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from gpu_broker.client import BrokerClient
from gpu_broker.models import Lease
from remote_gpu.agent.fleet import FleetClient
from remote_gpu.agent.node import Node
from tests.agent.support import ECHO_WORKER, Client, Refused, eventually, make_gpu
from tests.broker.support import NODE_TOKEN, Broker
from tests.broker.support import eventually as broker_eventually

Connect = Callable[[Broker], Awaitable[Node]]


@pytest_asyncio.fixture
async def connect() -> AsyncIterator[Connect]:
    """Makes nodes that are connected to a broker."""
    nodes, running = [], []

    async def make(broker: Broker, token: str = NODE_TOKEN) -> Node:
        node = Node([make_gpu(0), make_gpu(1)], "node-1", worker_command=ECHO_WORKER)
        client = FleetClient(node, broker.fleet, token)
        nodes.append(node)
        running.append(asyncio.create_task(client.run()))
        if token == NODE_TOKEN:
            async with asyncio.timeout(15):
                await client.connected.wait()
        return node

    yield make
    for task in running:
        assert not task.done(), task.result()
        await cancelled(task)
    for node in nodes:
        await node.close()


async def take(client: BrokerClient, vram_mib: int = 1024, **more: float) -> Lease:
    lease = await asyncio.to_thread(client.create_lease, vram_mib, 2.0, **more)
    return await asyncio.to_thread(client.wait_active, lease.id)


async def attach(client: BrokerClient, lease: Lease) -> Client:
    credentials = await asyncio.to_thread(client.credentials, lease.id)
    port = int(credentials.endpoint.rpartition(":")[2])
    program = await Client.connect(port, credentials.lease, bytes.fromhex(credentials.key))
    await program.attached()
    return program


async def test_a_lease_of_the_broker_lets_a_program_in(broker: Broker, connect: Connect) -> None:
    node = await connect(broker)
    with broker.client("ada") as ada:
        lease = await take(ada)
        program = await attach(ada, lease)
        assert await program.ask(f"charge {64 << 20}") == "ok"
        await program.stats(launches=5, gpu_busy_us=1000, idle_ms=0)

        def reported() -> object:
            return [s for s in ada.sessions() if s.id == program.session and s.launches == 5]

        (session,) = await asyncio.to_thread(broker_eventually, reported, "it is reported", 10)
        assert (session.pid, session.program) == (4242, "python3")
        assert session.vram_bytes == 64 << 20
        assert session.name == "first-steps.ipynb"
        # Ended at the broker, ended here.
        await asyncio.to_thread(ada.end_session, program.session)
        assert (await program.line()).startswith("ended: ")
        await asyncio.to_thread(ada.end_lease, lease.id)
        await eventually(lambda: not node.leases, "the lease is dropped")


async def test_the_broker_is_killed_and_restarted(broker: Broker, connect: Connect) -> None:
    node = await connect(broker)
    with broker.client("ada") as ada:
        lease = await take(ada)
        program = await attach(ada, lease)
        pid = node.workers[program.session]._process.pid  # type: ignore[union-attr]
        await asyncio.to_thread(broker.kill)
        for _ in range(10):
            assert await program.ask("still") == "still"
            await asyncio.sleep(0.1)
        late = await attach_to(node, lease.id)  # admitted leases are served meanwhile
        await asyncio.to_thread(broker.start)
        back = time.monotonic()
        await until_connected(broker)
        sessions = await asyncio.to_thread(broker_eventually, ada.sessions, "they are known", 10)
        assert time.monotonic() - back < 10
        assert {s.id for s in sessions} <= {program.session, late.session}
        again = await asyncio.to_thread(ada.lease, lease.id)
        assert (again.state, again.vram_mib, again.gpu.uuid) == (
            "active", lease.vram_mib, lease.gpu.uuid,
        )  # fmt: skip
        assert await program.ask("on") == await late.ask("on") == "on"
        assert node.workers[program.session]._process.pid == pid  # type: ignore[union-attr]
        await program.close()
        await late.close()


async def attach_to(node: Node, lease: str) -> Client:
    program = await Client.connect(node.port, lease, node.leases[lease].key)
    await program.attached()
    return program


async def test_a_lease_that_ended_while_the_node_was_away(broker: Broker) -> None:
    node = Node([make_gpu(0), make_gpu(1)], "node-1", worker_command=ECHO_WORKER)
    first = asyncio.create_task(FleetClient(node, broker.fleet, NODE_TOKEN).run())
    with broker.client("ada") as ada, broker.client("ben") as ben:
        await until_connected(broker)
        gone, kept = await take(ada), await take(ben)
        doomed, living = await attach(ada, gone), await attach(ben, kept)
        key = node.leases[gone.id].key
        await cancelled(first)
        await asyncio.to_thread(ada.end_lease, gone.id)
        assert await doomed.ask("still") == "still"
        second = asyncio.create_task(FleetClient(node, broker.fleet, NODE_TOKEN).run())
        assert await doomed.line() == "ended: the broker no longer knows the lease"
        assert list(node.leases) == [kept.id]
        assert await living.ask("on") == "on"
        with pytest.raises(Refused, match="no longer knows"):
            await Client.connect(node.port, gone.id, key)
        await doomed.close()
        await living.close()
    await cancelled(second)
    await node.close()


async def until_connected(broker: Broker) -> None:
    def ready() -> bool:
        with broker.client() as admin:
            return any(node.state == "online" for node in admin.nodes())

    await asyncio.to_thread(broker_eventually, ready, "the node is online")


async def cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_a_lease_expires_by_the_nodes_own_clock(broker: Broker, connect: Connect) -> None:
    node = await connect(broker)
    with broker.client("ada") as ada:
        lease = await take(ada, ttl_s=3.0)
        program = await attach(ada, lease)
        await asyncio.to_thread(broker.kill)
        started = time.monotonic()
        assert await program.line() == "ended: the lease has expired"
        assert time.monotonic() - started < 5
        assert node.leases == {}
        await program.close()


async def test_a_fault_of_the_agent_costs_a_stream_not_the_node(
    broker: Broker,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    node = await connect(broker)
    with broker.client("ada") as ada:
        lease = await take(ada)
        program = await attach(ada, lease)
        with monkeypatch.context() as broken:
            broken.setattr(FleetClient, "_measure", lambda *_: 1 / 0)
            await eventually(lambda: "ZeroDivisionError" in caplog.text, "it is logged")
            assert await program.ask("still") == "still"
        await asyncio.to_thread(broker_eventually, ada.sessions, "it reports again", 10)
        assert list(node.leases) == [lease.id]
        assert await program.ask("on") == "on"
        await program.close()


@pytest.mark.parametrize("turns", range(5))
async def test_a_stop_just_as_a_session_ends(node: Node, turns: int) -> None:
    reporting = asyncio.create_task(FleetClient(node, "127.0.0.1:1", "token")._report())
    await asyncio.sleep(0.1)
    node.changed.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    reporting.cancel()
    await asyncio.wait([reporting], timeout=1)
    assert reporting.cancelled()


async def test_a_wrong_node_token(
    broker: Broker, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "carrel.agent")
    node = await connect(broker, "not-the-token")
    await eventually(lambda: "UNAUTHENTICATED" in caplog.text, "a logged reason")
    await asyncio.sleep(1)
    assert caplog.text.count("UNAUTHENTICATED") == 1  # said once, tried again and again
    assert "not-the-token" not in caplog.text
    assert node.leases == {}
