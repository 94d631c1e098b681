"""A node: its GPUs, the leases it has admitted, the front door, and the workers behind it.

A library: ``carrel-agent`` runs one for the broker, ``carrel-run`` a private one for a single
program. Everything happens in the event loop of the main thread.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import socket
import subprocess
from collections.abc import Mapping, Sequence

from .. import environment, monitor
from ..handshake import KEY_BYTES, HandshakeError, Hello, Status
from .door import FrontDoor, host_name, raise_descriptor_limit
from .inventory import Gpu, NoGpu, nvml_readings
from .leases import AdmittedLease
from .ledger import LedgerFull
from .readings import Readings
from .workers import GRACE_S, Worker

log = logging.getLogger("carrel.agent")

_EXPIRY_CHECK_S = 0.5
_CLOSE_S = 4.0
#: Ended leases whose holders are still told why; the oldest is forgotten first.
MAX_FORMER = 1024
# What a worker gets of the agent's environment. Everything else may hold secrets.
_WORKER_VARIABLES = (
    "PATH",
    "HOME",
    "TMPDIR",
    "TZ",
    "LANG",
    "LD_LIBRARY_PATH",
    "XDG_CACHE_HOME",
    "CARREL_LIBRARY_PATH",
)
_WORKER_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "CARREL_LOG", "CARREL_TRACE", "ASAN_", "TSAN_",
                    "UBSAN_", "LSAN_")  # fmt: skip


class Node:
    """A GPU host.

    Args:
        gpus: what it has, from :mod:`.inventory`.
        name: how it is called; default: the host's name.
        ip, port: where the front door listens; port 0 picks a free one.
        worker_command: the worker program and leading arguments.
        grace_s: seconds for which a session outlives its broken connection.
        software: the value of ``CARREL_SOFTGPU`` for workers on software GPUs.
    """

    def __init__(
        self,
        gpus: Sequence[Gpu],
        name: str = "",
        ip: str = "127.0.0.1",
        port: int = 0,
        worker_command: Sequence[str] = (str(environment.WORKER),),
        software: str = "",
        grace_s: float = GRACE_S,
    ) -> None:
        self.name = name or host_name()
        self.gpus = {gpu.uuid: gpu for gpu in gpus}
        self.leases: dict[str, AdmittedLease] = {}
        self.workers: dict[str, Worker] = {}
        self._former: dict[str, AdmittedLease] = {}
        self.changed = asyncio.Event()  # set whenever a session starts or ends
        self._readings = Readings(nvml_readings)
        self._readings.start(gpu.uuid for gpu in gpus if not gpu.software)
        self._reserved: dict[str, tuple[AdmittedLease, Hello, int]] = {}
        self._command = list(worker_command)
        self._grace_s = grace_s
        self._env = worker_environment(os.environ)
        if software:
            self._env["CARREL_SOFTGPU"] = software
            if openblas := environment.openblas():
                self._env["CARREL_OPENBLAS"] = str(openblas)
        self.protocol = bytes.fromhex(describe_worker(self._command, self._env)["protocol"])
        raise_descriptor_limit()
        self._door = FrontDoor(self, ip, port)
        self.port = self._door.port
        self.endpoint = f"[{ip}]:{self.port}" if ":" in ip else f"{ip}:{self.port}"
        self._expiry = asyncio.create_task(self._expire())

    # --- leases -------------------------------------------------------------------------------

    def admit(
        self, lease: str, key: bytes, gpu_uuid: str, vram_mib: int, tflops: float, expires_at: float
    ) -> AdmittedLease:
        """Lets a lease in, or extends one that is in already.

        Raises:
            ValueError: the GPU is not here, the lease is here with another size or GPU, or the
                key is not 32 bytes.
        """
        if len(key) != KEY_BYTES:
            raise ValueError(f"the key of lease {lease} has {len(key)} bytes, not {KEY_BYTES}")
        known = self.leases.get(lease)
        if known:
            if (known.gpu.uuid, known.vram_mib) != (gpu_uuid, vram_mib):
                raise ValueError(f"lease {lease} is here with another GPU or size")
            known.key, known.tflops, known.expires_at = key, tflops, expires_at
            return known
        gpu = self.gpus.get(gpu_uuid)
        if gpu is None:
            raise ValueError(f"{self.name} has no GPU {gpu_uuid}")
        admitted = AdmittedLease(lease, key, gpu, vram_mib, tflops, expires_at)
        self.leases[lease] = admitted
        self._former.pop(lease, None)
        log.info("lease %s admitted: %d MiB, %g TFLOPS on %s", lease, vram_mib, tflops, gpu_uuid)
        return admitted

    def revoke(self, lease: str, reason: str) -> None:
        """Drops a lease and ends its sessions; nothing happens when it is not here."""
        admitted = self.leases.pop(lease, None)
        if admitted is None:
            return
        log.info("lease %s dropped: %s", lease, reason)
        admitted.ended = reason
        self._former[lease] = admitted
        while len(self._former) > MAX_FORMER:
            self._former.pop(next(iter(self._former)))
        for worker in self.sessions_of(admitted):
            worker.end(reason)
        self._settle(admitted)

    def end_session(self, session: str, reason: str) -> None:
        """Ends one session; nothing happens when it is not here."""
        if worker := self.workers.get(session):
            worker.end(reason)

    def sessions_of(self, lease: AdmittedLease) -> list[Worker]:
        """The lease's workers."""
        return [worker for worker in self.workers.values() if worker.lease is lease]

    def _settle(self, lease: AdmittedLease) -> None:
        """Frees the account of a lease that has ended, once nobody uses it."""
        if lease.ended and not lease.ledger.taken:
            lease.ledger.close()

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(_EXPIRY_CHECK_S)
            for lease in [lease for lease in self.leases.values() if lease.expired]:
                self.revoke(lease.id, "the lease has expired")

    # --- what the front door asks ---------------------------------------------------------------

    def find(self, lease: str) -> AdmittedLease | None:
        """The lease of that id: admitted, or ended lately."""
        return self.leases.get(lease) or self._former.get(lease)

    def reserve(self, lease: AdmittedLease, hello: Hello) -> str:
        """Names a new session of ``lease``.

        Raises:
            HandshakeError: the lease has too many sessions.
        """
        try:
            slot = lease.ledger.take()
        except LedgerFull as full:
            raise HandshakeError(Status.BUSY, str(full)) from None
        session = secrets.token_hex(8)
        self._reserved[session] = (lease, hello, slot)
        return session

    def abandon(self, session: str) -> None:
        """Gives a reserved session back."""
        lease, _, slot = self._reserved.pop(session)
        lease.ledger.release(slot)
        self._settle(lease)

    def enter(self, session: str, client: socket.socket, tls_key: bytes = b"") -> None:
        """Starts the worker of a reserved session on ``client``.

        Raises:
            OSError: the worker could not be started.
        """
        lease, hello, slot = self._reserved.pop(session)
        worker = Worker(session, lease, hello, slot)
        try:
            if lease.ended:  # while the client was being welcomed
                raise OSError(lease.ended)
            worker.start(self._command, self._env, client, self._ended, self._grace_s, tls_key)
        except OSError:
            lease.ledger.release(slot)
            self._settle(lease)
            raise
        self.workers[session] = worker
        self.changed.set()

    def is_open(self, session: str, lease: AdmittedLease) -> bool:
        """Whether ``lease`` has a session of that id."""
        worker = self.workers.get(session)
        return worker is not None and worker.lease is lease

    def resume(self, session: str, client: socket.socket, tls_key: bytes = b"") -> None:
        """Hands another connection of a session's client to its worker.

        Raises:
            OSError: the worker is gone, or takes nothing.
        """
        worker = self.workers.get(session)
        if worker is None:
            raise OSError(f"session {session} has just ended")
        worker.resume(client, tls_key)

    def state_text(self, lease: AdmittedLease) -> str:
        """The slice, as the monitor protocol shows it."""
        workers = self.sessions_of(lease)
        used, total = lease.ledger.used_bytes, lease.vram_mib << 20
        gpu = lease.gpu
        busy = min(100, round(sum(worker.utilization() for worker in workers)))
        return monitor.SliceState(
            name=gpu.model,
            uuid=gpu.uuid,
            pci_bus_id=gpu.pci_bus_id,
            driver_version=gpu.driver_version,
            cuda_version=gpu.cuda_version,
            compute_capability=gpu.compute_capability,
            multiprocessors=gpu.multiprocessors,
            vram_total_bytes=total,
            vram_used_bytes=used,
            tflops=lease.tflops,
            gpu_utilization=busy,
            memory_utilization=round(100 * used / total) if total else 0,
            software=gpu.software,
            node=self.name,
            lease=lease.id,
            expires_at=lease.expires_at,
            processes=[
                monitor.Process(worker.pid_of_client, worker.vram_bytes,
                                worker.name or worker.program, round(worker.utilization()))
                for worker in workers
            ],
            readings=self._readings.of(gpu.uuid),
        ).encode()  # fmt: skip

    def _ended(self, worker: Worker) -> None:
        self.workers.pop(worker.session, None)
        self._settle(worker.lease)
        self.changed.set()

    # --- the end --------------------------------------------------------------------------------

    async def close(self, reason: str = "the GPU node is shutting down") -> None:
        """Ends all sessions and stops listening; no worker is left within five seconds."""
        self._expiry.cancel()
        await self._door.close()
        workers = list(self.workers.values())
        for lease in list(self.leases):
            self.revoke(lease, reason)
        try:
            async with asyncio.timeout(_CLOSE_S):
                for worker in workers:
                    await worker.gone.wait()
        except TimeoutError:
            for worker in workers:
                worker.kill()
            for worker in workers:
                await worker.gone.wait()


def worker_environment(base: Mapping[str, str]) -> dict[str, str]:
    """What of ``base`` a worker gets: what a driver or a sanitizer reads, and no secret."""
    return {
        name: value
        for name, value in environment.without_slice(base).items()
        if name in _WORKER_VARIABLES or name.startswith(_WORKER_PREFIXES)
    }


def describe_worker(command: Sequence[str], env: Mapping[str, str]) -> dict[str, str]:
    """What ``carrel-worker --describe`` says: the protocol hash and the version.

    Raises:
        NoGpu: the worker is missing or does not run.
    """
    try:
        done = subprocess.run(
            [*command, "--describe"],
            capture_output=True, text=True, timeout=30, check=True, env=dict(env),
        )  # fmt: skip
        described: dict[str, str] = json.loads(done.stdout)
        if len(bytes.fromhex(described["protocol"])) != 32:
            raise ValueError("its protocol hash is not 32 bytes")
    except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
        raise NoGpu(
            f"the worker ({command[0]}) does not run: {error}. "
            "Build the native parts (make build) or install a wheel"
        ) from None
    return described
