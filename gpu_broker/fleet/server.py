"""The broker's end of the fleet protocol: one stream per node, commands and their answers.

Translates between protobuf and :mod:`gpu_broker.store.fleet`; decides nothing. A node is
*online* while its stream is open and *ready* once it has confirmed its Sync.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
import logging
import math
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from gpu_broker.fleet import fleet_pb2 as pb
from gpu_broker.fleet import fleet_pb2_grpc
from gpu_broker.store.fleet import (
    Admission,
    FleetStore,
    GpuFacts,
    GpuUse,
    SessionFacts,
    Truth,
)
from gpu_broker.threads import Threads

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
MAX_PENDING_COMMANDS = 1024
MAX_GPUS = 256
MAX_SESSIONS = 8192
FIRST_MESSAGE_S = 10.0
COMMAND_S = 15.0
MISSED_HEARTBEATS = 4
MAX_INTEGER = 2**62  # fits a signed 64-bit column
NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class NodeUnreachable(Exception):
    """The node is not connected, its stream broke, or it took too long."""


class CommandFailed(Exception):
    """The node answered that it could not do it; the text is the node's."""


class BadMessage(Exception):
    """An agent sent something that no agent should; its stream is closed with this text."""


class Connection:
    """One node's stream, from Register to its end."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.ready = False
        self.closed = asyncio.Event()
        self.outgoing: asyncio.Queue[pb.BrokerMessage] = asyncio.Queue(MAX_PENDING_COMMANDS)
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[pb.Result]] = {}

    async def command(self, message: pb.BrokerMessage, timeout_s: float = COMMAND_S) -> None:
        """Sends a command and waits for its Result. Raises CommandFailed or NodeUnreachable."""
        id = next(self._ids)
        getattr(message, str(message.WhichOneof("body"))).command_id = id
        answer: asyncio.Future[pb.Result] = asyncio.get_running_loop().create_future()
        self._waiting[id] = answer
        try:
            if self.closed.is_set():
                raise NodeUnreachable(f"node {self.node} is not connected")
            self.outgoing.put_nowait(message)
            async with asyncio.timeout(timeout_s):
                result = await answer
        except asyncio.QueueFull as error:
            raise NodeUnreachable(f"node {self.node} does not take commands") from error
        except TimeoutError as error:
            raise NodeUnreachable(
                f"node {self.node} did not answer within {timeout_s:g} s"
            ) from error
        finally:
            self._waiting.pop(id, None)
        if not result.ok:
            raise CommandFailed(result.error[:1000] or "the node gave no reason")

    def answer(self, result: pb.Result) -> None:
        """Hands a Result to whoever waits for it; one that comes too late is dropped."""
        waiting = self._waiting.get(result.command_id)
        if waiting is not None and not waiting.done():
            waiting.set_result(result)

    def close(self) -> None:
        """Fails all that wait; the stream's handler sees ``closed`` and ends."""
        self.closed.set()
        self.ready = False
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(NodeUnreachable(f"the connection to node {self.node} broke"))


class FleetServer(fleet_pb2_grpc.FleetServicer):
    """Serves the agents' streams. ``changed`` is called when the reconcile loop may have work."""

    def __init__(
        self,
        store: FleetStore,
        threads: Threads,
        token: str,
        heartbeat_s: float,
        version: str,
        changed: Callable[[], None],
        log: logging.Logger | logging.LoggerAdapter[Any],
    ) -> None:
        self._store = store
        self._threads = threads
        self._token = hashlib.sha256(token.encode()).digest()
        self._heartbeat_s = heartbeat_s
        self._version = version
        self._changed = changed
        self._log = log
        self._connections: dict[str, Connection] = {}
        self._server: grpc.aio.Server | None = None

    # ---- for the rest of the broker ----------------------------------------------------------

    def online(self) -> frozenset[str]:
        """Nodes whose stream is open. Safe to call from any thread."""
        return frozenset(self._connections.copy())

    def ready(self) -> frozenset[str]:
        """Nodes that have confirmed their Sync. Safe to call from any thread."""
        return frozenset(name for name, c in self._connections.copy().items() if c.ready)

    async def admit(self, node: str, admission: Admission) -> None:
        """Lets a lease in on its node, or extends it."""
        await self._to(node).command(pb.BrokerMessage(admit=_admit(admission)))

    async def revoke(self, node: str, lease: str, reason: str) -> None:
        """Drops a lease from its node and ends its sessions."""
        await self._to(node).command(pb.BrokerMessage(revoke=pb.Revoke(lease=lease, reason=reason)))

    async def end_session(self, node: str, session: str, reason: str) -> None:
        """Ends one session; its lease stays."""
        await self._to(node).command(
            pb.BrokerMessage(end_session=pb.EndSession(session=session, reason=reason))
        )

    def _to(self, node: str) -> Connection:
        connection = self._connections.get(node)
        if connection is None:
            raise NodeUnreachable(f"node {node} is not connected")
        return connection

    # ---- life --------------------------------------------------------------------------------

    async def start(
        self, ip: str, port: int, credentials: grpc.ServerCredentials | None = None
    ) -> int:
        """Listens, with TLS if credentials are given; returns the port (of use if 0 was asked)."""
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.so_reuseport", 0),  # two brokers on one port would split the fleet
                ("grpc.keepalive_time_ms", 20_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ]
        )
        fleet_pb2_grpc.add_FleetServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        address = f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
        if credentials is not None:
            bound = self._server.add_secure_port(address, credentials)
        else:
            bound = self._server.add_insecure_port(address)
        await self._server.start()
        return int(bound)

    async def stop(self) -> None:
        """Ends the streams; agents keep what they hold and dial again."""
        for connection in list(self._connections.values()):
            connection.close()
        if self._server is not None:
            await self._server.stop(grace=0.5)

    # ---- one stream --------------------------------------------------------------------------

    async def Connect(
        self, request_iterator: AsyncIterator[pb.AgentMessage], context: Any
    ) -> AsyncIterator[pb.BrokerMessage]:
        """Serves one agent until either side ends the stream."""
        await self._authenticate(context)
        messages = aiter(request_iterator)
        try:
            async with asyncio.timeout(FIRST_MESSAGE_S):
                register = _register(await anext(messages))
        except (TimeoutError, StopAsyncIteration, BadMessage) as error:
            why = str(error) or f"no Register within {FIRST_MESSAGE_S:g} s"
            self._log.warning("Refused an agent at %s: %s", context.peer(), why)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, why)
            return
        connection = self._replace(Connection(register.node))
        self._log.info(
            "Node %s connected from %s: %d GPU(s), front door %s, %d lease(s), %d session(s)",
            register.node,
            context.peer(),
            len(register.gpus),
            register.endpoint,
            len(register.leases),
            len(register.sessions),
        )
        tasks: list[asyncio.Task[None]] = []
        try:
            truth = await self._threads.run(
                self._store.register,
                register.node,
                register.agent_version[:64],
                register.endpoint,
                register.protocol[:64],
                [_gpu(gpu) for gpu in register.gpus],
                [_session(session) for session in register.sessions],
            )
            yield pb.BrokerMessage(
                welcome=pb.Welcome(heartbeat_s=self._heartbeat_s, broker_version=self._version)
            )
            tasks = [
                asyncio.create_task(self._listen(connection, messages)),
                asyncio.create_task(self._sync(connection, truth)),
            ]
            while (message := await _next(connection)) is not None:
                yield message
        except Exception:
            self._log.exception("The stream of node %s failed", register.node)
        finally:
            connection.close()
            for task in tasks:
                task.cancel()
            if self._connections.get(register.node) is connection:
                del self._connections[register.node]
                self._log.warning("Node %s disconnected", register.node)
            self._changed()

    async def _authenticate(self, context: Any) -> None:
        given = dict(context.invocation_metadata() or ()).get("authorization", "")
        digest = hashlib.sha256(str(given).removeprefix("Bearer ").encode()).digest()
        if not hmac.compare_digest(digest, self._token):
            self._log.warning("Refused an agent at %s: wrong node token", context.peer())
            await context.abort(
                grpc.StatusCode.UNAUTHENTICATED,
                "The node token is not the broker's; give both the same file.",
            )

    def _replace(self, connection: Connection) -> Connection:
        """The newest stream of a name wins: an agent that restarts need not wait for a timeout."""
        previous = self._connections.get(connection.node)
        if previous is not None:
            self._log.warning("Node %s connected again; the old stream ends", connection.node)
            previous.close()
        self._connections[connection.node] = connection
        return connection

    async def _sync(self, connection: Connection, truth: Truth) -> None:
        """Tells the node the whole truth, and notes that it is so."""
        leases = [_admit(admission) for admission in truth.admissions]
        try:
            await connection.command(pb.BrokerMessage(sync=pb.Sync(leases=leases)))
            await self._threads.run(self._store.synced, truth)
        except CommandFailed as error:
            # Ready all the same: the reconcile loop settles lease by lease, and says which fails.
            self._log.warning("Node %s could not sync all leases: %s", connection.node, error)
        except NodeUnreachable as error:
            self._log.warning("Could not sync: %s", error)
            connection.close()
            return
        connection.ready = True
        self._changed()

    async def _listen(
        self, connection: Connection, messages: AsyncIterator[pb.AgentMessage]
    ) -> None:
        """Takes in what the agent says; closes the connection when it falls silent."""
        try:
            while True:
                silence_s = self._heartbeat_s * MISSED_HEARTBEATS
                async with asyncio.timeout(silence_s):
                    message = await anext(messages)
                kind = message.WhichOneof("body")
                if kind == "result":
                    connection.answer(message.result)
                elif kind == "report":
                    await self._report(connection.node, message.report)
                else:
                    raise BadMessage(f"unexpected message {kind!r}")
        except TimeoutError:
            self._log.warning("Node %s fell silent", connection.node)
        except BadMessage as error:
            self._log.warning("Node %s: %s", connection.node, error)
        except (StopAsyncIteration, asyncio.CancelledError, grpc.RpcError):
            pass
        except Exception:
            self._log.exception("Could not take in what node %s says", connection.node)
        finally:
            connection.close()

    async def _report(self, node: str, report: pb.Report) -> None:
        if len(report.sessions) > MAX_SESSIONS or len(report.gpus) > MAX_GPUS:
            raise BadMessage(f"a report of {len(report.sessions)} sessions is too long")
        gpus = [
            GpuUse(g.uuid, min(g.used_mib, MAX_INTEGER), _percent(g.utilization))
            for g in report.gpus
        ]
        sessions = [_session(s) for s in report.sessions]
        await self._threads.run(self._store.report, node, gpus, sessions)
        self._changed()


async def _next(connection: Connection) -> pb.BrokerMessage | None:
    """The next message to send, or None once the connection is closed."""
    get = asyncio.ensure_future(connection.outgoing.get())
    closed = asyncio.ensure_future(connection.closed.wait())
    try:
        await asyncio.wait((get, closed), return_when=asyncio.FIRST_COMPLETED)
        return get.result() if get.done() else None
    finally:
        get.cancel()
        closed.cancel()


def _register(message: pb.AgentMessage) -> pb.Register:
    if message.WhichOneof("body") != "register":
        raise BadMessage("the first message must be Register")
    register = message.register
    if not NODE_NAME.fullmatch(register.node):
        raise BadMessage(f"{register.node!r} is not a node name (letters, digits, '.', '_', '-')")
    host, _, port = register.endpoint.rpartition(":")
    if not host or not port.isdigit() or len(register.endpoint) > 255:
        raise BadMessage(f"endpoint {register.endpoint!r} is not host:port")
    if len(register.gpus) > MAX_GPUS or len(register.sessions) > MAX_SESSIONS:
        raise BadMessage(f"{len(register.gpus)} GPUs and {len(register.sessions)} sessions")
    uuids = {gpu.uuid for gpu in register.gpus}
    if len(uuids) != len(register.gpus):
        raise BadMessage("two GPUs have the same uuid")
    for gpu in register.gpus:
        if not 0 < len(gpu.uuid) <= 96:
            raise BadMessage(f"GPU {gpu.index} has no usable uuid")
        if not (0 < gpu.vram_mib < 2**40 and math.isfinite(gpu.tflops) and gpu.tflops > 0):
            raise BadMessage(
                f"GPU {gpu.index} says {gpu.vram_mib} MiB and {gpu.tflops} TFLOPS; "
                "both must be more than zero"
            )
    return register


def _gpu(gpu: pb.Gpu) -> GpuFacts:
    return GpuFacts(
        index=gpu.index,
        uuid=gpu.uuid,
        model=gpu.model[:255],
        vram_mib=gpu.vram_mib,
        tflops=gpu.tflops,
        software=gpu.software,
    )


def _session(session: pb.Session) -> SessionFacts:
    return SessionFacts(
        id=session.id[:64],
        lease=session.lease[:64],
        pid=session.pid,
        host=session.host[:255],
        name=session.name[:1024],
        program=session.program[:1024],
        vram_bytes=min(session.vram_bytes, MAX_INTEGER),
        gpu_busy_us=min(session.gpu_busy_us, MAX_INTEGER),
        launches=min(session.launches, MAX_INTEGER),
        idle_s=min(session.idle_ms, 10**13) / 1000,
        started_at=session.started_at if 0 < session.started_at < 1e11 else 0.0,
    )


def _admit(admission: Admission) -> pb.Admit:
    return pb.Admit(
        lease=admission.lease,
        key=admission.key,
        gpu_uuid=admission.gpu_uuid,
        vram_mib=admission.vram_mib,
        tflops=admission.tflops,
        expires_at=admission.expires_at,
    )


def _percent(value: float) -> float:
    return min(100.0, max(0.0, value)) if math.isfinite(value) else 0.0
