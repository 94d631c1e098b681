"""Who gets in at the front door, who does not, what is logged: real sockets, echoing workers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import struct
import time

import pytest

from remote_gpu import handshake, monitor
from remote_gpu.agent import door
from remote_gpu.agent.ledger import SLOTS
from remote_gpu.agent.node import Node
from remote_gpu.handshake import Purpose
from tests.agent.support import KEY, Client, Refused, eventually, make_gpu


@pytest.fixture(autouse=True)
def logs(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "carrel.agent")
    return caplog


async def neighbour(node: Node) -> Client:
    """A running session that whatever happens must not disturb."""
    client = await Client.connect(node.port)
    await client.attached()
    return client


async def test_a_session_reaches_a_worker_of_its_own(node: Node) -> None:
    one, two = await Client.connect(node.port), await Client.connect(node.port, pid=77)
    assert await one.attached() != await two.attached()
    assert one.session != two.session
    assert await one.ask("hi") == "hi"
    assert {w.pid_of_client for w in node.workers.values()} == {4242, 77}
    worker = node.workers[one.session]
    assert (worker.host, worker.name, worker.program) == ("hub", "first-steps.ipynb", "python3")
    told = json.loads(await one.ask("arguments"))
    assert told["vram_bytes"] == 1024 << 20
    assert told["tflops"] == 5.0
    assert told["lease"] == "lease-1"
    assert told["session"] == one.session
    await one.close()
    await eventually(lambda: one.session not in node.workers, "the worker of a client that left")
    assert await two.ask("still here") == "still here"
    await two.close()


async def test_what_a_client_sends_early_is_not_swallowed(node: Node) -> None:
    # A client that sends its first command together with its proof.
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    client = Client(reader, writer)
    hello = handshake.Hello(Purpose.SESSION, node.protocol, bytes(32), 1, "lease-1", "", "", "")
    writer.write(hello.encode())
    await client.check_status()
    nonce = await client.read(32)
    await client.read(32)
    writer.write(handshake.proof(KEY, "carrel-client", hello.encode(), nonce) + b"early\n")
    await client.check_status()
    await client.text()
    await client.attached()
    assert await client.line() == "early"
    await client.close()


async def test_wrong_key(node: Node, logs: pytest.LogCaptureFixture) -> None:
    witness = await neighbour(node)
    # An honest client sees that the door has another key, and leaves.
    with pytest.raises(Refused, match="does not know the key"):
        await Client.connect(node.port, key=bytes(32))
    await eventually(lambda: "wrong key for lease-1" in logs.text, "a logged reason")
    # One that goes on regardless is refused.
    with pytest.raises(Refused) as refused:
        await Client.connect(node.port, key=bytes(32), check_door=False)
    assert refused.value.status == 2
    assert "unknown lease or wrong key" in logs.text
    assert await witness.ask("hi") == "hi"
    assert KEY.hex() not in logs.text
    await witness.close()


async def test_an_unknown_lease_looks_like_a_wrong_key(
    node: Node, logs: pytest.LogCaptureFixture
) -> None:
    answers = []
    for lease in ("lease-1", "lease-of-nobody"):
        with pytest.raises(Refused) as refused:
            await Client.connect(node.port, lease, key=bytes(32), check_door=False)
        answers.append((refused.value.status, refused.value.message))
    assert answers[0] == answers[1]
    with pytest.raises(Refused, match="does not know the key"):
        await Client.connect(node.port, "lease-of-nobody")
    await eventually(lambda: "unknown lease 'lease-of-nobody'" in logs.text, "a logged reason")


async def test_other_protocol_version(node: Node, logs: pytest.LogCaptureFixture) -> None:
    witness = await neighbour(node)
    with pytest.raises(Refused) as refused:
        await Client.connect(node.port, protocol=b"\xff" * 32)
    assert refused.value.status == 1
    assert "ffffffffffff" in refused.value.message
    assert "client protocol ffffffffffff, node protocol 000102030405" in logs.text
    assert await witness.ask("hi") == "hi"
    await witness.close()


async def test_an_expired_lease(node: Node, logs: pytest.LogCaptureFixture) -> None:
    witness = await neighbour(node)
    node.admit("short", KEY, make_gpu(1).uuid, 512, 1.0, time.time() + 0.6)
    client = await Client.connect(node.port, "short")
    await client.attached()
    assert await client.line() == "ended: the lease has expired"
    assert await client.line() == ""
    await eventually(lambda: "short" not in node.leases, "an expired lease is dropped")
    # Who knows the key is told what happened; who does not is not.
    with pytest.raises(Refused, match="lease short: the lease has expired") as refused:
        await Client.connect(node.port, "short")
    assert refused.value.status == 3
    assert "lease short: the lease has expired" in logs.text
    with pytest.raises(Refused) as stranger:
        await Client.connect(node.port, "short", key=bytes(32), check_door=False)
    assert stranger.value.status == 2
    assert await witness.ask("hi") == "hi"
    await witness.close()


async def test_an_extended_lease_goes_on(node: Node) -> None:
    node.admit("short", KEY, make_gpu(1).uuid, 512, 1.0, time.time() + 0.8)
    client = await Client.connect(node.port, "short")
    await client.attached()
    node.admit("short", KEY, make_gpu(1).uuid, 512, 1.0, time.time() + 60)
    await asyncio.sleep(1.6)
    assert await client.ask("hi") == "hi"
    await client.close()


async def test_a_revoked_lease_ends_its_sessions_only(node: Node) -> None:
    node.admit("other", KEY, make_gpu(0).uuid, 512, 1.0, time.time() + 60)
    mine, theirs = await Client.connect(node.port), await Client.connect(node.port, "other")
    await mine.attached()
    await theirs.attached()
    node.revoke("lease-1", "the server was stopped")
    assert await mine.line() == "ended: the server was stopped"
    with pytest.raises(Refused, match="the server was stopped"):
        await Client.connect(node.port)
    assert await theirs.ask("hi") == "hi"
    await theirs.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: gpu\r\n\r\n",
        bytes(4096),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        handshake.MAGIC + b"\x07" + bytes(300),
        handshake.MAGIC + b"\x01" + bytes(68) + b"\xff\xff",
    ],
    ids=["http", "zeros", "tls", "purpose", "length"],
)
async def test_garbage(node: Node, garbage: bytes, logs: pytest.LogCaptureFixture) -> None:
    witness = await neighbour(node)
    started = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(garbage)
    try:
        answer = await asyncio.wait_for(reader.read(), 6)
        assert struct.unpack("<I", answer[:4]) == (5,)
    except ConnectionResetError:
        pass
    assert time.monotonic() - started < 5
    assert "refused: " in logs.text
    assert await witness.ask("hi") == "hi"
    writer.close()
    await witness.close()


async def test_half_open_connections_are_dropped_in_time(
    node: Node, logs: pytest.LogCaptureFixture
) -> None:
    witness = await neighbour(node)
    started = time.monotonic()
    silent = await asyncio.open_connection("127.0.0.1", node.port)
    slow = await asyncio.open_connection("127.0.0.1", node.port)
    hello = handshake.Hello(Purpose.SESSION, node.protocol, bytes(32), 1, "lease-1", "", "", "")
    no_proof = await asyncio.open_connection("127.0.0.1", node.port)
    no_proof[1].write(hello.encode())

    async def drip() -> None:
        for byte in handshake.MAGIC * 4:
            slow[1].write(bytes([byte]))
            await asyncio.sleep(0.3)

    dripping = asyncio.create_task(drip())
    for reader, _ in (silent, slow, no_proof):
        with contextlib.suppress(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 7)
    assert 4.5 < time.monotonic() - started < 6
    dripping.cancel()
    text = logs.text
    assert text.count("no hello within 5 s") + text.count("not a Carrel client") >= 2
    assert "no proof within 5 s" in text
    assert await witness.ask("hi") == "hi"
    for _, writer in (silent, slow, no_proof):
        writer.close()
    await witness.close()


async def test_a_thousand_connections_at_once(node: Node, logs: pytest.LogCaptureFixture) -> None:
    witness = await neighbour(node)
    where = ("127.0.0.1", node.port)
    # All at once: they have connected before the door looks.
    crowd = [socket.create_connection(where) for _ in range(1000)]
    for one in crowd:
        one.setblocking(False)
    # While they all stand in the door, an honest client gets in at once, a running one goes on.
    started = time.monotonic()
    late = await Client.connect(node.port)
    await late.attached()
    assert await witness.ask("hi") == "hi"
    assert time.monotonic() - started < 3
    # The crowd is sent away: most at once, with a reason, the rest within five seconds.
    turned_away = 0
    deadline = time.monotonic() + 7
    for one in crowd:
        answer = b""
        try:
            while part := await asyncio.wait_for(
                asyncio.get_running_loop().sock_recv(one, 4096), deadline - time.monotonic()
            ):
                answer += part
        except ConnectionResetError:
            pass
        turned_away += answer[:4] == struct.pack("<I", 4)
        one.close()
    assert turned_away >= 1000 - door.MAX_UNAUTHENTICATED
    assert logs.text.count("refused: ") >= 1000
    assert await witness.ask("hi") == await late.ask("hi") == "hi"
    await witness.close()
    await late.close()


async def test_a_lease_has_a_bounded_number_of_sessions(node: Node) -> None:
    lease = node.leases["lease-1"]
    taken = [lease.ledger.take() for _ in range(SLOTS)]
    with pytest.raises(Refused, match="256 programs") as refused:
        await Client.connect(node.port)
    assert refused.value.status == 4
    for slot in taken:
        lease.ledger.release(slot)
    client = await Client.connect(node.port)
    await client.attached()
    await client.close()


async def test_a_worker_that_cannot_start(node: Node, logs: pytest.LogCaptureFixture) -> None:
    node._command = ["/nonexistent/carrel-worker"]
    client = await Client.connect(node.port)
    assert await client.line() == ""
    await eventually(lambda: "no worker could start" in logs.text, "a logged reason")
    assert node.leases["lease-1"].ledger.taken == 0


async def test_a_lease_revoked_while_its_client_is_being_welcomed(node: Node) -> None:
    lease = node.leases["lease-1"]
    hello = handshake.Hello(Purpose.SESSION, node.protocol, bytes(32), 1, "lease-1", "", "", "")
    session = node.reserve(lease, hello)
    node.revoke("lease-1", "it was revoked")
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(OSError, match="it was revoked"):
        node.enter(session, theirs)
    assert lease.ledger.closed
    assert node.workers == {}


async def test_monitor(node: Node) -> None:
    client = await Client.connect(node.port, pid=99)
    await client.attached()
    assert await client.ask(f"charge {256 << 20}") == "ok"
    watcher = await Client.connect(node.port, purpose=Purpose.MONITOR, protocol=bytes(32))
    await client.stats(gpu_busy_us=0, launches=1)
    await asyncio.sleep(0.6)
    await client.stats(gpu_busy_us=300_000, launches=2)
    await eventually(
        lambda: node.workers[client.session].stats.get("launches") == 2, "stats arrive"
    )
    state = monitor.parse(await watcher.monitor())
    assert state.vram_total_bytes == 1024 << 20
    assert state.vram_used_bytes == 256 << 20
    assert state.memory_utilization == 25
    assert 30 <= state.gpu_utilization <= 60
    assert (state.tflops, state.node, state.lease) == (5.0, "node-1", "lease-1")
    (process,) = state.processes
    assert (process.pid, process.vram_used_bytes) == (99, 256 << 20)
    assert process.name == "first-steps.ipynb"
    assert 30 <= process.gpu_utilization <= 60
    assert state.software
    # The next question sees that the client has left.
    await client.close()
    await eventually(lambda: not node.workers, "the worker of a client that left")
    assert monitor.parse(await watcher.monitor()).processes == []
    # With its lease the monitor ends.
    node.revoke("lease-1", "over")
    watcher.writer.write(b"?")
    assert await watcher.line() == ""
    await watcher.close()


async def test_the_monitor_client_of_the_library(node: Node) -> None:
    env = {
        "CARREL_ENDPOINT": node.endpoint,
        "CARREL_LEASE": "lease-1",
        "CARREL_LEASE_KEY": KEY.hex(),
    }

    def ask() -> monitor.SliceState:
        with monitor.Monitor(env) as connection:
            connection.read()
            return connection.read()

    state = await asyncio.to_thread(ask)
    assert state.name == "Test GPU"
    env["CARREL_LEASE_KEY"] = bytes(32).hex()
    with pytest.raises(handshake.HandshakeError, match="knows no such lease or key"):
        await asyncio.to_thread(ask)
    node.revoke("lease-1", "the server was stopped")
    env["CARREL_LEASE_KEY"] = KEY.hex()
    with pytest.raises(handshake.HandshakeError, match="the server was stopped") as ended:
        await asyncio.to_thread(ask)
    assert ended.value.status == handshake.Status.ENDED


async def test_monitors_of_a_lease_are_bounded(node: Node) -> None:
    watchers = [
        await Client.connect(node.port, purpose=Purpose.MONITOR) for _ in range(door.MAX_MONITORS)
    ]
    with pytest.raises(Refused, match="64 monitors"):
        await Client.connect(node.port, purpose=Purpose.MONITOR)
    for watcher in watchers:
        await watcher.close()
    session = await Client.connect(node.port)
    await session.attached()
    await session.close()
