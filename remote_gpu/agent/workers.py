"""Worker processes: started by the front door, one per client process, watched until they are gone.

A worker inherits three descriptors: the authenticated client socket, a control channel, and the
ledger of its lease. It gets no secret. It dies with this process (``PR_SET_PDEATHSIG`` and end of
file on the control channel), so that nothing outlives the agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .. import environment
from ..handshake import Hello
from .leases import AdmittedLease

log = logging.getLogger("carrel.agent")

_PACKET = 64 * 1024
_END_GRACE_S = 3.0
#: Seconds for which a session outlives its broken connection.
GRACE_S = 30.0
_READY_S = 60.0  # a driver that takes longer to come up hangs
_LAST_REPORTS = 64  # taken in from a worker that is gone
_REPORT_S = 1.5  # workers report every second while something changes


class Worker:
    """One worker process and what it last reported.

    ``gpu_busy_us``, ``launches`` and the like are cumulative; ``idle_ms`` is the time since the
    last CUDA call or running kernel.
    """

    def __init__(self, session: str, lease: AdmittedLease, hello: Hello, slot: int) -> None:
        self.session = session
        self.lease = lease
        self.pid_of_client = hello.pid
        self.host = hello.host
        self.name = hello.session_name
        self.program = hello.program
        self.slot = slot
        self.started_at = time.time()
        self.stats: dict[str, int] = {}
        self.busy_percent = 0.0
        self.reason = ""
        self._measured = (time.monotonic(), 0)
        self._reported = time.monotonic()
        self._ready = False
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self.gone = asyncio.Event()

    @property
    def vram_bytes(self) -> int:
        """What it holds, by the ledger."""
        return self.lease.ledger.slot_bytes(self.slot)

    @property
    def idle_ms(self) -> int:
        """Milliseconds since the last CUDA call or running kernel."""
        quiet = int((time.monotonic() - self._reported) * 1000)
        return self.stats.get("idle_ms", 0) + quiet

    def start(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        client: socket.socket,
        ended: Callable[[Worker], None],
        grace_s: float = GRACE_S,
        tls_key: bytes = b"",
    ) -> None:
        """Starts the process and hands ``client`` over; ``ended(self)`` is called once it is gone.

        A session over TCP outlives its connection by ``grace_s`` seconds; one on this host does
        not, as there only a process can end.

        Must be called in the main thread: the worker dies with the thread that started it.

        Raises:
            OSError: the process could not be started.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        gpu, lease = self.lease.gpu, self.lease
        descriptors: tuple[int, ...] = (client.fileno(), theirs.fileno(), lease.ledger.fd)
        tls: list[str] = []
        if tls_key:  # of this connection only; the lease's own no worker gets
            key_end, ours_end = os.pipe()
            os.write(ours_end, tls_key)
            os.close(ours_end)
            descriptors = (*descriptors, key_end)
            tls = ["--tls-key-fd", str(key_end)]
        client.setblocking(True)
        try:
            self._process = subprocess.Popen(
                [
                    *command,
                    "--client-fd", str(descriptors[0]),
                    "--transport", "ring" if client.family == socket.AF_UNIX else "stream",
                    "--grace-s", str(grace_s),
                    "--control-fd", str(descriptors[1]),
                    "--ledger-fd", str(descriptors[2]),
                    "--ledger-slot", str(self.slot),
                    "--driver", str(gpu.driver),
                    "--device", str(gpu.index),
                    "--vram-bytes", str(lease.vram_mib << 20),
                    "--tflops", str(lease.tflops),
                    "--session", self.session,
                    "--lease", lease.id,
                    *(["--library-path", str(gpu.libraries)] if gpu.libraries else []),
                    "--image-store", str(environment.image_store()),
                    *tls,
                ],
                pass_fds=descriptors,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a driver prints must not mix with a program's output
            )  # fmt: skip
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
            for descriptor in descriptors[3:]:
                os.close(descriptor)
        ours.setblocking(False)
        self._control = ours
        loop = asyncio.get_running_loop()
        loop.add_reader(ours, self._readable)
        loop.call_later(_READY_S, self._check_ready)
        pidfd = os.pidfd_open(self._process.pid)
        loop.add_reader(pidfd, self._exited, pidfd, ended)

    def resume(self, client: socket.socket, tls_key: bytes = b"") -> None:
        """Hands over another connection of the same client, whose first one broke.

        Raises:
            OSError: the worker is gone, or takes nothing.
        """
        if self._control is None or self.gone.is_set():
            raise OSError("its worker is gone")
        client.setblocking(True)
        order = {"type": "resume"} | ({"tls_key": tls_key.hex()} if tls_key else {})
        message = json.dumps(order).encode()
        socket.send_fds(self._control, [message], [client.fileno()])

    def end(self, reason: str) -> None:
        """Asks the worker to end; kills it if it has not within three seconds."""
        if self.gone.is_set() or self._process is None:
            return
        self.reason = self.reason or reason
        if self._control:
            message = json.dumps({"type": "end", "reason": reason}).encode()
            with contextlib.suppress(OSError):
                self._control.send(message)
        asyncio.get_running_loop().call_later(_END_GRACE_S, self.kill)

    def kill(self) -> None:
        """Ends the process at once."""
        if self._process and not self.gone.is_set():
            self._process.kill()

    def _check_ready(self) -> None:
        if not self._ready and not self.gone.is_set():
            self.reason = self.reason or f"its driver did not come up within {_READY_S:g} s"
            self.kill()

    def _readable(self) -> bool:
        """Takes in one report; whether there was one."""
        assert self._control
        try:
            packet = self._control.recv(_PACKET)
        except BlockingIOError:
            return False
        except OSError:
            packet = b""
        if not packet:  # it is ending, or as good as dead
            asyncio.get_running_loop().remove_reader(self._control)
            asyncio.get_running_loop().call_later(_END_GRACE_S, self.kill)
            return False
        self._take_in(packet)
        return True

    def _take_in(self, packet: bytes) -> None:
        try:
            message = json.loads(packet)
            kind = message.pop("type")
            if kind == "stats":
                self._update(message)
        except (ValueError, KeyError, AttributeError, OverflowError):
            log.warning("session %s: its worker sent an unreadable report", self.session)
            return
        if kind == "ready":
            self._ready = True
        elif kind == "ended":
            self.reason = self.reason or str(message.get("reason", ""))[:1000]

    def _update(self, message: dict[str, Any]) -> None:
        self.stats = {key: int(value) for key, value in message.items()
                      if isinstance(value, int | float)}  # fmt: skip
        now, busy = time.monotonic(), self.stats.get("gpu_busy_us", 0)
        then, before = self._measured
        if now - then >= 0.5:
            # After a pause the work was done in the last second, not in all the time since.
            span = min(now - then, _REPORT_S)
            self.busy_percent = min(100.0, max(0.0, (busy - before) / span / 1e4))
            self._measured = (now, busy)
        self._reported = now

    def utilization(self) -> float:
        """Percent of the last second in which its work ran; zero when its last report is old."""
        return self.busy_percent if time.monotonic() - self._reported < 3 else 0.0

    def _exited(self, pidfd: int, ended: Callable[[Worker], None]) -> None:
        assert self._process
        assert self._control
        loop = asyncio.get_running_loop()
        loop.remove_reader(pidfd)
        os.close(pidfd)
        status = self._process.wait()
        for _ in range(_LAST_REPORTS):
            if not self._readable():
                break
        loop.remove_reader(self._control)
        self._control.close()
        self.lease.ledger.release(self.slot)
        self.gone.set()
        level = logging.INFO if status == 0 else logging.WARNING
        how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        log.log(level, "session %s of lease %s ended: %s (%s)",
                self.session, self.lease.id, self.reason or "the client left", how)  # fmt: skip
        ended(self)
