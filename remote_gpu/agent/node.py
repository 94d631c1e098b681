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
from collections.abc import Sequence

from .. import environment, monitor
from ..handshake import HandshakeError, Hello, Status
from .door import FrontDoor, host_name, raise_descriptor_limit
from .inventory import Gpu, NoGpu
from .leases import AdmittedLease
from .ledger import LedgerFull
from .workers import Worker

log = logging.getLogger("carrel.agent")

_EXPIRY_CHECK_S = 0.5


class Node:
    """A GPU host.

    Args:
        gpus: what it has, from :mod:`.inventory`.
        name: how it is called; default: the host's name.
        ip, port: where the front door listens; port 0 picks a free one.
        worker_command: the worker program and leading arguments.
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
    ) -> None:
        self.name = name or host_name()
        self.gpus = {gpu.uuid: gpu for gpu in gpus}
        self.leases: dict[str, AdmittedLease] = {}
        self.workers: dict[str, Worker] = {}
        self.changed = asyncio.Event()  # set whenever a session starts or ends
        self._reserved: dict[str, tuple[AdmittedLease, Hello, int]] = {}
        self._command = list(worker_command)
        self._env = environment.without_slice(os.environ)
        if software:
            self._env["CARREL_SOFTGPU"] = software
        self.protocol = bytes.fromhex(describe_worker(self._command)["protocol"])
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
            ValueError: the GPU is not here, or the lease is here with another size or GPU.
        """
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
        log.info("lease %s admitted: %d MiB, %g TFLOPS on %s", lease, vram_mib, tflops, gpu_uuid)
        return admitted

    def revoke(self, lease: str, reason: str) -> None:
        """Drops a lease and ends its sessions; nothing happens when it is not here."""
        admitted = self.leases.pop(lease, None)
        if admitted is None:
            return
        log.info("lease %s dropped: %s", lease, reason)
        workers = self.sessions_of(admitted)
        for worker in workers:
            worker.end(reason)
        if not workers:
            admitted.ledger.close()

    def end_session(self, session: str, reason: str) -> None:
        """Ends one session; nothing happens when it is not here."""
        if worker := self.workers.get(session):
            worker.end(reason)

    def sessions_of(self, lease: AdmittedLease) -> list[Worker]:
        """The lease's workers."""
        return [worker for worker in self.workers.values() if worker.lease is lease]

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(_EXPIRY_CHECK_S)
            for lease in [lease for lease in self.leases.values() if lease.expired]:
                self.revoke(lease.id, "the lease has expired")

    # --- what the front door asks ---------------------------------------------------------------

    def find(self, lease: str) -> AdmittedLease | None:
        """The admitted lease of that id."""
        return self.leases.get(lease)

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

    def enter(self, session: str, client: socket.socket) -> None:
        """Starts the worker of a reserved session on ``client``.

        Raises:
            OSError: the worker could not be started.
        """
        lease, hello, slot = self._reserved.pop(session)
        worker = Worker(session, lease, hello, slot)
        try:
            worker.start(self._command, self._env, client, self._ended)
        except OSError:
            lease.ledger.release(slot)
            raise
        self.workers[session] = worker
        self.changed.set()

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
                                worker.name or worker.program)
                for worker in workers
            ],
        ).encode()  # fmt: skip

    def _ended(self, worker: Worker) -> None:
        self.workers.pop(worker.session, None)
        lease = worker.lease
        if self.leases.get(lease.id) is not lease and not self.sessions_of(lease):
            lease.ledger.close()
        self.changed.set()

    # --- the end --------------------------------------------------------------------------------

    async def close(self, reason: str = "the GPU node is shutting down") -> None:
        """Ends all sessions and stops listening; no worker is left within five seconds."""
        self._expiry.cancel()
        await self._door.close()
        workers = list(self.workers.values())
        for worker in workers:
            worker.end(reason)
        gone = asyncio.gather(*(worker.gone.wait() for worker in workers))
        try:
            await asyncio.wait_for(gone, 4)
        except TimeoutError:
            for worker in workers:
                worker.kill()
            await asyncio.gather(*(worker.gone.wait() for worker in workers))


def describe_worker(command: Sequence[str]) -> dict[str, str]:
    """What ``carrel-worker --describe`` says: the protocol hash and the version.

    Raises:
        NoGpu: the worker is missing or does not run.
    """
    try:
        done = subprocess.run(
            [*command, "--describe"], capture_output=True, text=True, timeout=30, check=True
        )
        described: dict[str, str] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise NoGpu(
            f"the worker ({command[0]}) does not run: {error}. "
            "Build the native parts (make build) or install a wheel"
        ) from None
    return described
