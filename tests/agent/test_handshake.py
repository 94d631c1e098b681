"""The bytes of the handshake, without sockets."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote_gpu import handshake
from remote_gpu.handshake import HandshakeError, Hello, Purpose, Status


def read(data: bytes) -> tuple[Hello, bytes, int]:
    """Reads a hello out of ``data``; returns it, its bytes, and how many were read in all."""
    position = 0

    async def exactly(size: int) -> bytes:
        nonlocal position
        if position + size > len(data):
            raise EOFError
        position += size
        return data[position - size : position]

    hello, raw = asyncio.run(handshake.read_hello(exactly))
    return hello, raw, position


HELLO = Hello(
    Purpose.SESSION, bytes(range(32)), bytes(32), 77, "lease-1", "bücher/a.ipynb", "hub", "python3"
)


def test_a_hello_is_read_as_it_was_written_and_not_a_byte_more() -> None:
    data = HELLO.encode()
    assert read(data + b"the worker's") == (HELLO, data, len(data))


def test_layout() -> None:
    # Written out by hand from the description in native/wire/handshake.hpp.
    expected = (
        b"CARREL\x00\x01" + b"\x01" + bytes(range(32)) + bytes(32) + b"\x4d\x00\x00\x00"
        b"\x07\x00lease-1" + b"\x0f\x00" + "bücher/a.ipynb".encode() + b"\x03\x00hub"
        b"\x07\x00python3"
    )
    assert HELLO.encode() == expected


def test_texts_are_cut_at_their_limits() -> None:
    long = Hello(
        Purpose.MONITOR, bytes(32), bytes(32), 1, "l" * 100, "n" * 999, "h" * 99, "p" * 999
    )
    hello, _, _ = read(long.encode())
    assert [len(t) for t in (hello.lease, hello.session_name, hello.host, hello.program)] == [
        64, 256, 64, 256,
    ]  # fmt: skip


@pytest.mark.parametrize("limit_index", range(4))
def test_a_text_beyond_its_limit_is_refused(limit_index: int) -> None:
    limits = [64, 256, 64, 256]
    texts = [struct.pack("<H", 0)] * limit_index
    data = HELLO.encode()[:77] + b"".join(texts) + struct.pack("<H", limits[limit_index] + 1)
    with pytest.raises(HandshakeError) as refused:
        read(data + bytes(2000))
    assert refused.value.status == Status.MALFORMED


def test_other_versions_and_strangers() -> None:
    with pytest.raises(HandshakeError) as version:
        read(b"CARREL\x00\x02")
    assert version.value.status == Status.VERSION
    with pytest.raises(HandshakeError) as stranger:
        read(b"GET / HTTP/1.1\r\n\r\n")
    assert stranger.value.status == Status.MALFORMED
    with pytest.raises(HandshakeError) as purpose:
        read(handshake.MAGIC + b"\x09" + HELLO.encode()[9:])
    assert purpose.value.status == Status.MALFORMED


def test_texts_are_fit_for_logs() -> None:
    nasty = Hello(Purpose.SESSION, bytes(32), bytes(32), 1, "a\nb", "\x1b[2J", "h\x00", "p\r")
    hello, _, _ = read(nasty.encode())
    assert (hello.lease, hello.session_name, hello.host, hello.program) == (
        "a?b", "?[2J", "h?", "p?",
    )  # fmt: skip


@given(st.binary(max_size=900))
def test_no_bytes_do_anything_but_be_refused(data: bytes) -> None:
    for candidate in (data, handshake.MAGIC + data):
        try:
            hello, raw, position = read(candidate)
        except (HandshakeError, EOFError):
            continue
        assert candidate[:position] == raw
        assert len(hello.lease) <= 64


def test_proofs_differ_by_side_key_hello_and_nonce() -> None:
    key, hello, nonce = bytes(32), HELLO.encode(), bytes(range(32))
    base = handshake.proof(key, "carrel-door", hello, nonce)
    assert base == hmac.new(key, b"carrel-door" + hello + nonce, hashlib.sha256).digest()
    others = {
        handshake.proof(key, "carrel-client", hello, nonce),
        handshake.proof(b"\x01" * 32, "carrel-door", hello, nonce),
        handshake.proof(key, "carrel-door", hello + b"x", nonce),
        handshake.proof(key, "carrel-door", hello, bytes(32)),
    }
    assert len(others) == 4
    assert base not in others


def test_a_challenge_never_repeats_its_nonce() -> None:
    seen = {handshake.challenge(bytes(32), HELLO.encode())[0] for _ in range(50)}
    assert len(seen) == 50


def test_a_refusal_carries_status_and_message_and_no_proof() -> None:
    data = handshake.refusal(Status.VERSION, "client 1, node 2")
    assert data == b"\x01\x00\x00\x00\x10\x00client 1, node 2" + bytes(64)
    assert len(handshake.refusal(Status.BUSY, "x" * 5000)) == 4 + 2 + 1024 + 64
