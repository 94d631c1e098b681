"""The first bytes between a client and a node's front door, both sides of them.

The layout is that of ``native/wire/handshake.hpp``: hello, challenge, proof, welcome; integers are
little-endian, texts are a u16 length and UTF-8 bytes. The door's sockets are
:mod:`remote_gpu.agent.door`'s.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import os
import secrets
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

MAGIC = b"CARREL\x00\x01"
KEY_BYTES = 32
NONCE_BYTES = 32
PROOF_BYTES = 32
MAX_LEASE = 64
MAX_NAME = 256
MAX_HOST = 64
MAX_MESSAGE = 1024
TIMEOUT_S = 5.0

#: Set in the purpose: TLS follows the welcome, with :func:`tls_key`.
TLS_FOLLOWS = 0x80

_HEAD = struct.Struct("<B32s32sI")


class Purpose(enum.IntEnum):
    """What a connection is for."""

    SESSION = 1
    MONITOR = 2
    RESUME = 3  # a session whose connection broke; its id stands for the session name


class Status(enum.IntEnum):
    """The door's answer; the C++ client explains each to its user."""

    OK = 0
    VERSION = 1
    REFUSED = 2
    ENDED = 3
    BUSY = 4
    MALFORMED = 5
    GONE = 6


class HandshakeError(Exception):
    """The handshake cannot go on. ``status`` is what the peer is told, ``str()`` the reason."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Hello:
    """What a client says of itself. ``protocol`` and ``nonce`` are 32 bytes each."""

    purpose: Purpose
    protocol: bytes
    nonce: bytes
    pid: int
    lease: str
    session_name: str
    host: str
    program: str
    tls: bool = False

    def encode(self) -> bytes:
        """The bytes on the wire; texts are cut at their limits."""
        return (
            MAGIC
            + _HEAD.pack(
                self.purpose | (TLS_FOLLOWS if self.tls else 0), self.protocol, self.nonce, self.pid
            )
            + _text(self.lease, MAX_LEASE)
            + _text(self.session_name, MAX_NAME)
            + _text(self.host, MAX_HOST)
            + _text(self.program, MAX_NAME)
        )


def _text(text: str, limit: int) -> bytes:
    data = text.encode()[:limit]
    return struct.pack("<H", len(data)) + data


def _printable(text: str) -> str:
    """``text`` fit for logs, pages and terminals: no line breaks, no escape sequences."""
    return "".join(character if character.isprintable() else "?" for character in text)


ReadExactly = Callable[[int], Awaitable[bytes]]


async def read_hello(read: ReadExactly) -> tuple[Hello, bytes]:
    """Reads a hello with ``read(n)``; returns it and its exact bytes.

    Reads no byte too many: what follows the handshake belongs to a worker.

    Raises:
        HandshakeError: it is not a hello, or a length is beyond its limit.
    """
    magic = await read(len(MAGIC))
    if magic[:6] != MAGIC[:6]:
        raise HandshakeError(Status.MALFORMED, "not a Carrel client")
    if magic != MAGIC:
        raise HandshakeError(Status.VERSION, f"handshake version {magic[7]}, not {MAGIC[7]}")
    head = await read(_HEAD.size)
    purpose, protocol, nonce, pid = _HEAD.unpack(head)
    tls, purpose = bool(purpose & TLS_FOLLOWS), purpose & ~TLS_FOLLOWS
    if purpose not in list(Purpose):
        raise HandshakeError(Status.MALFORMED, f"unknown purpose {purpose}")
    raw, texts = magic + head, []
    for name, limit in (
        ("lease", MAX_LEASE),
        ("session name", MAX_NAME),
        ("host", MAX_HOST),
        ("program", MAX_NAME),
    ):
        prefix = await read(2)
        (size,) = struct.unpack("<H", prefix)
        if size > limit:
            raise HandshakeError(Status.MALFORMED, f"{name} of {size} bytes, {limit} at most")
        data = await read(size) if size else b""
        raw += prefix + data
        texts.append(_printable(data.decode(errors="replace")))
    lease, session_name, host, program = texts
    hello = Hello(Purpose(purpose), protocol, nonce, pid, lease, session_name, host, program, tls)
    return hello, raw


def proof(key: bytes, who: str, hello: bytes, door_nonce: bytes) -> bytes:
    """HMAC-SHA-256 by which one side (``carrel-door``, ``carrel-client``) proves the lease key."""
    return hmac.new(key, who.encode() + hello + door_nonce, hashlib.sha256).digest()


def challenge(key: bytes, hello: bytes) -> tuple[bytes, bytes]:
    """The door's challenge for a client with ``key``; returns it and the proof to expect."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    message = struct.pack("<I", Status.OK) + _text("", MAX_MESSAGE)
    message += nonce + proof(key, "carrel-door", hello, nonce)
    return message, proof(key, "carrel-client", hello, nonce)


def tls_key(key: bytes, hello: bytes, challenge: bytes) -> bytes:
    """The key of the TLS that follows a handshake: the lease's, the hello and the nonce in it."""
    return proof(key, "carrel-tls", hello, challenge[-NONCE_BYTES - PROOF_BYTES : -PROOF_BYTES])


def refusal(status: Status, reason: str) -> bytes:
    """What the door sends instead of a challenge."""
    return struct.pack("<I", status) + _text(reason, MAX_MESSAGE) + bytes(NONCE_BYTES + PROOF_BYTES)


def welcome(session: str) -> bytes:
    """The door's last message: from here on the socket is the worker's or the monitor's."""
    return struct.pack("<I", Status.OK) + _text("", MAX_MESSAGE) + _text(session, MAX_LEASE)


def farewell(status: Status, reason: str) -> bytes:
    """What the door sends instead of a welcome."""
    return struct.pack("<I", status) + _text(reason, MAX_MESSAGE) + _text("", MAX_LEASE)


def connect_monitor(
    host: str, port: int, lease: str, key: bytes, timeout_s: float = TIMEOUT_S
) -> socket.socket:
    """Opens an authenticated monitor connection (the client's side of the handshake).

    Raises:
        HandshakeError: the door refused, or does not know the key itself.
        OSError: the door cannot be reached, or did not answer within ``timeout_s`` seconds.
    """
    connection = socket.create_connection((host, port), timeout=timeout_s)
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        hello = Hello(
            Purpose.MONITOR, bytes(32), secrets.token_bytes(NONCE_BYTES), os.getpid(), lease, "",
            socket.gethostname(), os.path.basename(sys.argv[0] or "python"),
        ).encode()  # fmt: skip
        connection.sendall(hello)
        _check_status(connection)
        nonce, door = _receive(connection, NONCE_BYTES), _receive(connection, PROOF_BYTES)
        if not hmac.compare_digest(door, proof(key, "carrel-door", hello, nonce)):
            raise HandshakeError(Status.REFUSED, "the GPU node knows no such lease or key")
        connection.sendall(proof(key, "carrel-client", hello, nonce))
        _check_status(connection)
        _receive_text(connection, MAX_LEASE)
    except BaseException:
        connection.close()
        raise
    return connection


def _receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionError("the GPU node closed the connection")
        data += part
    return data


def _receive_text(connection: socket.socket, limit: int) -> str:
    (size,) = struct.unpack("<H", _receive(connection, 2))
    if size > limit:
        raise HandshakeError(Status.MALFORMED, "the answer is not a front door's")
    return _receive(connection, size).decode(errors="replace")


def _check_status(connection: socket.socket) -> None:
    (code,) = struct.unpack("<I", _receive(connection, 4))
    message = _receive_text(connection, MAX_MESSAGE)
    if code != Status.OK:
        known = code in list(Status)
        status = Status(code) if known else Status.MALFORMED
        raise HandshakeError(status, message or f"the GPU node refused ({status.name.lower()})")
