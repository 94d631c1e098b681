"""The node's front door: the one open port of a GPU host.

Authenticates whoever connects within five seconds, then hands the socket to a worker (a session)
or answers questions about the slice (a monitor). Whatever else arrives is refused with a logged
reason. Knows nothing of the broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import os
import secrets
import socket
import struct
from typing import Any, Protocol

from .. import handshake
from ..handshake import HandshakeError, Hello, Purpose, Status
from .leases import AdmittedLease

log = logging.getLogger("carrel.agent")

#: Connections in their handshake at once; the oldest gives way to a new one.
MAX_UNAUTHENTICATED = 256
#: Monitors of one lease at once.
MAX_MONITORS = 64
_MONITOR_IDLE_S = 3600.0
# A client whose host vanished without a word is noticed after 30 + 3 × 10 s.
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)


_CROWDED = "too many connections are waiting to authenticate"


class Rooms(Protocol):
    """What the door needs of the node behind it."""

    protocol: bytes

    def find(self, lease: str) -> AdmittedLease | None:
        """The lease of that id, also one that has ended lately."""

    def reserve(self, lease: AdmittedLease, hello: Hello) -> str:
        """Names a new session; raises HandshakeError when there is no room."""

    def enter(self, session: str, client: socket.socket, tls_key: bytes) -> None:
        """Hands an authenticated client to a worker; raises OSError when none could start.

        With a ``tls_key`` the worker does TLS before anything else.
        """

    def is_open(self, session: str, lease: AdmittedLease) -> bool:
        """Whether ``lease`` has a session of that id."""

    def resume(self, session: str, client: socket.socket, tls_key: bytes) -> None:
        """Hands another connection of a session's client to its worker; raises OSError."""

    def abandon(self, session: str) -> None:
        """The client of a reserved session left before it was handed over."""

    def state_text(self, lease: AdmittedLease) -> str:
        """The slice's state, as the monitor protocol shows it."""


class FrontDoor:
    """Listens on ``ip:port``; port 0 picks a free one.

    Programs on the same host come in over a Unix socket with an abstract name made of the port
    (``native/wire/endpoint.hpp``): it can be reached from where loopback can, and needs no file.
    What they prove is the same.
    """

    def __init__(self, rooms: Rooms, ip: str = "127.0.0.1", port: int = 0) -> None:
        self._rooms = rooms
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        self._listener = socket.create_server((ip, port), family=family, backlog=1024)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._neighbours = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._neighbours.bind(f"\0carrel-node-{self.port}")
        self._neighbours.listen(1024)
        self._neighbours.setblocking(False)
        self._arriving: dict[asyncio.Task[None], None] = {}
        self._monitors: dict[asyncio.Task[None], AdmittedLease] = {}
        self._accepting = [
            asyncio.create_task(self._accept(listener))
            for listener in (self._listener, self._neighbours)
        ]

    async def close(self) -> None:
        """Stops listening and drops whoever is not in yet."""
        tasks = [*self._accepting, *self._arriving, *self._monitors]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listener.close()
        self._neighbours.close()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, peer = await loop.sock_accept(listener)
            except OSError as error:  # out of descriptors, or a connection that went away
                log.warning("front door: cannot accept: %s", error)
                await asyncio.sleep(0.1)
                continue
            if len(self._arriving) >= MAX_UNAUTHENTICATED:
                oldest = next(iter(self._arriving))
                oldest.cancel(_CROWDED)
                self._arriving.pop(oldest, None)
                del oldest
            task = asyncio.create_task(self._welcome(client, _name(client, peer)))
            self._arriving[task] = None
            task.add_done_callback(lambda done: self._arriving.pop(done, None))
            del client, task
            # While a crowd waits, accepting does not yield by itself: let handshakes begin and the
            # refused be told.
            await asyncio.sleep(0)

    async def _welcome(self, client: socket.socket, peer: str) -> None:
        """Runs one handshake and hands the client on; never raises."""
        client.setblocking(False)
        if client.family != socket.AF_UNIX:
            for option in ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), *_KEEPALIVE):
                client.setsockopt(*option)
        progress = ["hello"]
        handed_over = False
        try:
            async with asyncio.timeout(handshake.TIMEOUT_S):
                handed_over = await self._authenticate(client, peer, progress)
        except TimeoutError:
            log.warning("front door: %s refused: no %s within %g s", peer, progress[0],
                        handshake.TIMEOUT_S)  # fmt: skip
        except asyncio.CancelledError as cancelled:
            reason = cancelled.args[0] if cancelled.args else "the node is shutting down"
            log.warning("front door: %s refused: %s", peer, reason)
            say = handshake.refusal if progress[0] == "hello" else handshake.farewell
            with contextlib.suppress(OSError):
                client.send(say(Status.BUSY, reason))
        except (OSError, EOFError) as error:
            log.info("front door: %s left during its %s: %s", peer, progress[0], error)
        except Exception:
            log.exception("front door: %s refused: internal error", peer)
        finally:
            if not handed_over:
                client.close()

    async def _authenticate(self, client: socket.socket, peer: str, progress: list[str]) -> bool:
        """Returns whether the socket is somebody else's now."""
        loop = asyncio.get_running_loop()

        async def read(size: int) -> bytes:
            data = b""
            while len(data) < size:
                part = await loop.sock_recv(client, size - len(data))
                if not part:
                    raise EOFError("connection closed")
                data += part
            return data

        try:
            hello, raw = await handshake.read_hello(read)
            if hello.purpose != Purpose.MONITOR and hello.protocol != self._rooms.protocol:
                raise HandshakeError(
                    Status.VERSION,
                    f"client protocol {hello.protocol.hex()[:12]}, "
                    f"node protocol {self._rooms.protocol.hex()[:12]}",
                )
        except HandshakeError as error:
            log.warning("front door: %s refused: %s", peer, error)
            await self._last_words(client, handshake.refusal(error.status, str(error)))
            return False

        progress[0] = "proof"
        lease = self._rooms.find(hello.lease)
        # An unknown lease goes on with a key that nobody has: it fails as a wrong key does.
        key = lease.key if lease else secrets.token_bytes(handshake.KEY_BYTES)
        message, expected = handshake.challenge(key, raw)
        await loop.sock_sendall(client, message)
        try:
            given = await read(handshake.PROOF_BYTES)
        except EOFError:
            if lease is None:
                log.warning("front door: %s refused: unknown lease %r", peer, hello.lease)
            else:
                log.warning("front door: %s refused: wrong key for %s (it left)", peer, lease.id)
            return False
        try:
            if lease is None:
                raise HandshakeError(Status.REFUSED, "unknown lease or wrong key")
            if not hmac.compare_digest(given, expected):
                raise HandshakeError(Status.REFUSED, "unknown lease or wrong key")
            if lease.over:
                raise HandshakeError(Status.ENDED, f"lease {lease.id}: {lease.over}")
            if hello.purpose == Purpose.MONITOR:
                return await self._let_monitor_in(client, lease)
            secret = handshake.tls_key(lease.key, raw, message) if hello.tls else b""
            if hello.purpose == Purpose.RESUME:
                return await self._let_back_in(client, lease, hello.session_name, peer, secret)
            session = self._rooms.reserve(lease, hello)
        except HandshakeError as error:
            log.warning("front door: %s refused: %s", peer, error)
            await self._last_words(client, handshake.farewell(error.status, str(error)))
            return False
        try:
            await loop.sock_sendall(client, handshake.welcome(session))
        except BaseException:
            self._rooms.abandon(session)
            raise
        try:
            self._rooms.enter(session, client, secret)
        except OSError as error:
            log.error("front door: %s refused: no worker could start: %s", peer, error)
            return False
        log.info("front door: %s is session %s of lease %s (%s)", peer, session, lease.id,
                 hello.program)  # fmt: skip
        client.close()  # the worker has it
        return True

    async def _let_back_in(
        self, client: socket.socket, lease: AdmittedLease, session: str, peer: str, tls_key: bytes
    ) -> bool:
        if not self._rooms.is_open(session, lease):
            raise HandshakeError(Status.GONE, f"lease {lease.id} has no session {session!r}")
        welcome = handshake.welcome(session)
        await asyncio.get_running_loop().sock_sendall(client, welcome)
        self._rooms.resume(session, client, tls_key)
        log.info("front door: %s goes on with session %s of lease %s", peer, session, lease.id)
        client.close()  # the worker has it
        return True

    async def _last_words(self, client: socket.socket, message: bytes) -> None:
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().sock_sendall(client, message)
            client.shutdown(socket.SHUT_WR)

    async def _let_monitor_in(self, client: socket.socket, lease: AdmittedLease) -> bool:
        if sum(watched is lease for watched in self._monitors.values()) >= MAX_MONITORS:
            raise HandshakeError(Status.BUSY, f"lease {lease.id} has {MAX_MONITORS} monitors")
        welcome = handshake.welcome("monitor")
        await asyncio.get_running_loop().sock_sendall(client, welcome)
        task = asyncio.create_task(self._answer_monitor(client, lease))
        self._monitors[task] = lease
        task.add_done_callback(lambda done: self._monitors.pop(done, None))
        return True

    async def _answer_monitor(self, client: socket.socket, lease: AdmittedLease) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                async with asyncio.timeout(_MONITOR_IDLE_S):
                    asked = await loop.sock_recv(client, 1)
                if asked != b"?" or lease.over:
                    return
                text = self._rooms.state_text(lease).encode()
                async with asyncio.timeout(handshake.TIMEOUT_S):
                    await loop.sock_sendall(client, struct.pack("<I", len(text)) + text)
        except (OSError, TimeoutError):
            return
        finally:
            client.close()


def _name(client: socket.socket, peer: Any) -> str:
    """How the log calls who is at the other end of ``client``."""
    if client.family != socket.AF_UNIX:
        return f"{peer[0]}:{peer[1]}"
    pid, _, _ = struct.unpack("iII", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return f"process {pid} on this host"


def raise_descriptor_limit() -> None:
    """Allows this process as many open descriptors as the system lets it."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def host_name() -> str:
    """This host's name, as nodes are called by default."""
    return os.uname().nodename
