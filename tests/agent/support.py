"""What the agent's tests share: clients of the front door, GPUs and waits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from remote_gpu import handshake
from remote_gpu.agent.inventory import Gpu
from remote_gpu.handshake import Hello, Purpose
from tests.agent import echo_worker

ECHO_WORKER = (sys.executable, str(Path(echo_worker.__file__)))
PROTOCOL = bytes.fromhex(echo_worker.PROTOCOL)
KEY = bytes(range(100, 132))
PATIENCE_S = 15.0


def make_gpu(index: int = 0, vram_mib: int = 8192) -> Gpu:
    """A GPU as the inventory would describe it."""
    return Gpu(
        index=index,
        uuid=f"GPU-00000000-0000-0000-0000-00000000000{index}",
        pci_bus_id=f"0000:0{index}:00.0",
        model="Test GPU",
        vram_mib=vram_mib,
        tflops=20.0,
        software=True,
        compute_capability="8.0",
        multiprocessors=8,
        driver=Path("/nonexistent/libcuda.so.1"),
        driver_version="0.1.0",
        cuda_version=13000,
    )


async def eventually(what: Callable[[], Any], why: str, within_s: float = PATIENCE_S) -> Any:
    """Waits until ``what()`` is true and returns it; a timeout fails with ``why``."""
    deadline = time.monotonic() + within_s
    while not (value := what()):
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {why}"
        await asyncio.sleep(0.02)
    return value


def workers_of(pid: int) -> list[psutil.Process]:
    """The worker processes of a node process, real or echoing."""
    return [
        child
        for child in psutil.Process(pid).children(recursive=True)
        if "--ledger-slot" in child.cmdline()
    ]


class Refused(Exception):
    """What the door said: its status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


class Client:
    """A client of the front door, honest unless told otherwise."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.session = ""

    @classmethod
    async def connect(
        cls,
        port: int,
        lease: str = "lease-1",
        key: bytes = KEY,
        *,
        purpose: Purpose = Purpose.SESSION,
        protocol: bytes = PROTOCOL,
        pid: int = 4242,
        name: str = "first-steps.ipynb",
        program: str = "python3",
        check_door: bool = True,
    ) -> Client:
        """Goes through the whole handshake; raises :class:`Refused`."""
        client = cls(*await asyncio.open_connection("127.0.0.1", port))
        hello = Hello(purpose, protocol, secrets.token_bytes(32), pid, lease, name, "hub", program)
        client.writer.write(hello.encode())
        try:
            await client.check_status()
            nonce, door = await client.read(32), await client.read(32)
            if check_door and door != handshake.proof(key, "carrel-door", hello.encode(), nonce):
                raise Refused(-1, "the door does not know the key")
            client.writer.write(handshake.proof(key, "carrel-client", hello.encode(), nonce))
            await client.check_status()
            client.session = (await client.text()).decode()
        except BaseException:
            client.writer.close()
            raise
        return client

    async def read(self, size: int) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.readexactly(size)

    async def text(self) -> bytes:
        (size,) = struct.unpack("<H", await self.read(2))
        return await self.read(size)

    async def check_status(self) -> None:
        (status,) = struct.unpack("<I", await self.read(4))
        message = (await self.text()).decode()
        if status:
            raise Refused(status, message)

    async def line(self) -> str:
        """A line from the echo worker; empty at the end."""
        async with asyncio.timeout(PATIENCE_S):
            return (await self.reader.readline()).decode().rstrip("\n")

    async def ask(self, command: str) -> str:
        """Sends a line to the echo worker and returns its answer."""
        self.writer.write(command.encode() + b"\n")
        return await self.line()

    async def stats(self, **values: Any) -> None:
        """Has the worker report ``values``."""
        assert await self.ask("stats " + json.dumps({"type": "stats", **values})) == "sent"

    async def attached(self) -> int:
        """Waits for the worker's greeting; returns its pid."""
        greeting = await self.line()
        assert greeting.startswith("hello from "), greeting
        return int(greeting.split()[-1])

    async def monitor(self) -> str:
        """Asks for the slice's state, on a monitor connection."""
        self.writer.write(b"?")
        (size,) = struct.unpack("<I", await self.read(4))
        return (await self.read(size)).decode()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()
