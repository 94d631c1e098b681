"""The agent's end of the fleet protocol: dials the broker and keeps one stream.

While the broker is away the node goes on serving what it has admitted; when it is back it sends the
whole truth (Sync), and leases that are not in it are dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from typing import Any

import grpc

from gpu_broker.fleet import fleet_pb2 as pb
from gpu_broker.fleet import fleet_pb2_grpc

from .. import __version__
from .inventory import measured_use
from .node import Node
from .workers import Worker

log = logging.getLogger("carrel.agent")

_FIRST_RETRY_S = 0.2
_LAST_RETRY_S = 2.0
_MAX_REASONS = 20  # that are told until a connection succeeds
_CONNECT_S = 10.0
_DEFAULT_HEARTBEAT_S = 2.0
_LAST_WORDS_S = 1.0
_MAX_PENDING = 1024
_OPTIONS = [
    # A broker that comes back must find its nodes within seconds, whatever it was like before.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
]


class FleetClient:
    """Keeps ``node`` in line with the broker at ``address`` (``host:port``).

    Args:
        token: the node token; sent as metadata, never logged.
        endpoint: how clients reach the front door, when not by the address it listens on.
        root_certificate: PEM of the broker's authority; None: no TLS (loopback only).
    """

    def __init__(
        self,
        node: Node,
        address: str,
        token: str,
        endpoint: str = "",
        root_certificate: bytes | None = None,
    ) -> None:
        self._node = node
        self._address = address
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._endpoint = endpoint or node.endpoint
        self._certificate = root_certificate
        self._outgoing: asyncio.Queue[pb.AgentMessage] = asyncio.Queue(_MAX_PENDING)
        self._heartbeat_s = _DEFAULT_HEARTBEAT_S
        self.connected = asyncio.Event()

    async def run(self) -> None:
        """Connects, and connects again whenever the stream ends; returns only when cancelled."""
        retry_s = _FIRST_RETRY_S
        told: set[str] = set()
        while True:
            try:
                await self._one_stream()
                reason = "the broker closed the stream"
            except grpc.aio.AioRpcError as error:
                reason = f"{error.code().name}: {error.details()}"
            except (OSError, TimeoutError) as error:
                reason = str(error) or "timed out"
            except Exception as error:  # the node must go on serving what it has admitted
                log.exception("broker at %s: internal error", self._address)
                reason = repr(error)
            if self.connected.is_set():
                retry_s = _FIRST_RETRY_S
                told.clear()
                self.connected.clear()
            # The same is said only once; gRPC names other reasons now and then (a stream that ends
            # while it is written to is "internal").
            if reason not in told and len(told) < _MAX_REASONS:
                log.warning("broker at %s: %s; trying again", self._address, reason)
                told.add(reason)
            await asyncio.sleep(retry_s * random.uniform(0.7, 1.0))  # noqa: S311
            retry_s = min(_LAST_RETRY_S, retry_s * 2)

    async def _one_stream(self) -> None:
        self._outgoing = asyncio.Queue(_MAX_PENDING)
        self._outgoing.put_nowait(pb.AgentMessage(register=self._register()))
        if self._certificate is None:
            channel = grpc.aio.insecure_channel(self._address, _OPTIONS)
        else:
            credentials = grpc.ssl_channel_credentials(self._certificate)
            channel = grpc.aio.secure_channel(self._address, credentials, _OPTIONS)
        async with channel:
            async with asyncio.timeout(_CONNECT_S):
                await channel.channel_ready()
            stub = fleet_pb2_grpc.FleetStub(channel)  # type: ignore[no-untyped-call]
            stream = stub.Connect(metadata=self._metadata)
            reading = asyncio.create_task(self._read(stream))
            tasks = [
                reading,
                asyncio.create_task(self._send(stream)),
                asyncio.create_task(self._report()),
            ]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if reading not in done:  # what broke the sending shows best in the reading
                    await asyncio.wait([reading], timeout=_LAST_WORDS_S)
                for task in (reading, *done):
                    if task.done() and not task.cancelled():
                        task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                stream.cancel()

    async def _read(self, stream: Any) -> None:
        async for message in stream:
            self._receive(message)

    async def _send(self, stream: Any) -> None:
        while True:
            await stream.write(await self._outgoing.get())

    async def _report(self) -> None:
        """A report at least every heartbeat, and at once when a session starts or ends."""
        while True:
            self._node.changed.clear()
            use = await asyncio.to_thread(measured_use) if self._has_nvidia() else {}
            with contextlib.suppress(asyncio.QueueFull):
                self._outgoing.put_nowait(pb.AgentMessage(report=self._measure(use)))
            with contextlib.suppress(TimeoutError):
                # Not wait_for: before Python 3.12 it can swallow a cancellation.
                async with asyncio.timeout(self._heartbeat_s):
                    await self._node.changed.wait()

    # --- what the broker says -------------------------------------------------------------------

    def _receive(self, message: pb.BrokerMessage) -> None:
        kind = message.WhichOneof("body")
        if kind == "welcome":
            self._heartbeat_s = message.welcome.heartbeat_s or _DEFAULT_HEARTBEAT_S
            self.connected.set()
            log.info("broker at %s: connected (version %s)", self._address,
                     message.welcome.broker_version)  # fmt: skip
            return
        if kind is None:
            return  # a newer broker's command; without an answer it knows that we are older
        command = getattr(message, kind)
        error = ""
        try:
            if kind == "sync":
                self._synchronise(message.sync)
            elif kind == "admit":
                self._admit(message.admit)
            elif kind == "revoke":
                self._node.revoke(message.revoke.lease, message.revoke.reason or "it was revoked")
            elif kind == "end_session":
                self._node.end_session(
                    message.end_session.session, message.end_session.reason or "it was ended"
                )
        except ValueError as refused:
            error = str(refused)
            log.warning("broker's %s refused: %s", kind, error)
        result = pb.Result(command_id=command.command_id, ok=not error, error=error)
        try:
            self._outgoing.put_nowait(pb.AgentMessage(result=result))
        except asyncio.QueueFull:
            raise ConnectionError(f"{_MAX_PENDING} answers wait to be sent") from None

    def _synchronise(self, sync: pb.Sync) -> None:
        wanted = {admit.lease for admit in sync.leases}
        for lease in [lease for lease in self._node.leases if lease not in wanted]:
            self._node.revoke(lease, "the broker no longer knows the lease")
        refused = []
        for admit in sync.leases:
            try:
                self._admit(admit)
            except ValueError as error:
                refused.append(str(error))
        if refused:
            raise ValueError("; ".join(refused))

    def _admit(self, admit: pb.Admit) -> None:
        self._node.admit(
            admit.lease,
            bytes.fromhex(admit.key),
            admit.gpu_uuid,
            int(admit.vram_mib),
            float(admit.tflops),
            float(admit.expires_at),
        )

    # --- what the agent says --------------------------------------------------------------------

    def _register(self) -> pb.Register:
        node = self._node
        return pb.Register(
            node=node.name,
            agent_version=__version__,
            endpoint=self._endpoint,
            protocol=node.protocol.hex(),
            gpus=[
                pb.Gpu(
                    index=gpu.index,
                    uuid=gpu.uuid,
                    model=gpu.model,
                    vram_mib=gpu.vram_mib,
                    tflops=gpu.tflops,
                    software=gpu.software,
                )
                for gpu in node.gpus.values()
            ],
            leases=list(node.leases),
            sessions=[_session(worker) for worker in node.workers.values()],
        )

    def _has_nvidia(self) -> bool:
        return any(not gpu.software for gpu in self._node.gpus.values())

    def _measure(self, measured: dict[str, tuple[int, float]]) -> pb.Report:
        workers = list(self._node.workers.values())
        use = []
        for gpu in self._node.gpus.values():
            of_gpu = [worker for worker in workers if worker.lease.gpu is gpu]
            used_mib, busy = measured.get(gpu.uuid) or (
                sum(worker.vram_bytes for worker in of_gpu) >> 20,
                min(100.0, sum(worker.utilization() for worker in of_gpu)),
            )
            use.append(pb.GpuUse(uuid=gpu.uuid, used_mib=used_mib, utilization=busy))
        return pb.Report(
            at=time.time(), gpus=use, sessions=[_session(worker) for worker in workers]
        )


def _session(worker: Worker) -> pb.Session:
    return pb.Session(
        id=worker.session,
        lease=worker.lease.id,
        pid=worker.pid_of_client,
        host=worker.host,
        name=worker.name,
        program=worker.program,
        vram_bytes=worker.vram_bytes,
        gpu_busy_us=worker.stats.get("gpu_busy_us", 0),
        launches=worker.stats.get("launches", 0),
        idle_ms=worker.idle_ms,
        started_at=worker.started_at,
    )
