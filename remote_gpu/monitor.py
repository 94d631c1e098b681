"""Reads a slice's state from the node's front door: what ``carrel-smi`` shows.

The text that crosses is lines of ``key=value``; NVML's library (``native/nvml``) reads the same.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from . import handshake

MAX_TEXT = 64 * 1024

_LISTS = ("processes", "readings")


class NotInSlice(Exception):
    """This process has no slice; ``str()`` says what to do."""


@dataclass(frozen=True)
class Process:
    """One client process on the lease."""

    pid: int
    vram_used_bytes: int
    name: str
    gpu_utilization: int = 0  # percent of the last second in which its work ran


@dataclass(frozen=True)
class SliceState:
    """A slice at one moment; utilisations are percentages over the last second."""

    name: str
    uuid: str
    pci_bus_id: str
    driver_version: str
    cuda_version: int
    compute_capability: str
    multiprocessors: int
    vram_total_bytes: int
    vram_used_bytes: int
    tflops: float
    gpu_utilization: int
    memory_utilization: int
    software: bool
    node: str
    lease: str
    expires_at: float
    processes: list[Process] = field(default_factory=list)
    #: What the host's NVML says of the whole GPU, by the keys of ``agent/readings.py``.
    readings: dict[str, str] = field(default_factory=dict)

    def encode(self) -> str:
        """The lines that :func:`parse` reads."""
        values: dict[str, Any] = {k: v for k, v in vars(self).items() if k not in _LISTS}
        values["software"] = int(self.software)
        lines = [f"{key}={_one_line(str(value))}" for key, value in values.items()]
        lines += [f"nvml.{key}={_one_line(value)}" for key, value in self.readings.items()]
        for process in self.processes:
            name = _one_line(process.name)
            lines.append(f"session={process.pid} {process.vram_used_bytes} {name}")
            if process.gpu_utilization:
                lines.append(f"busy={process.gpu_utilization}")  # of the session before it
        text = "\n".join(lines) + "\n"
        while len(text.encode()) > MAX_TEXT:  # never cut a line in half
            lines.pop()
            text = "\n".join(lines) + "\n"
        return text


def _one_line(text: str) -> str:
    return " ".join(text.split())


def parse(text: str) -> SliceState:
    """The state that ``text`` describes; keys it does not know are ignored."""
    values: dict[str, str] = {}
    processes = []
    readings = {}
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if key == "session":
            pid, used, name = [*value.split(" ", 2), "", ""][:3]
            processes.append(Process(int(pid), int(used or 0), name))
        elif key == "busy" and processes:
            processes[-1] = replace(processes[-1], gpu_utilization=int(value))
        elif key.startswith("nvml."):
            readings[key.removeprefix("nvml.")] = value
        else:
            values[key] = value
    return SliceState(
        name=values.get("name", ""),
        uuid=values.get("uuid", ""),
        pci_bus_id=values.get("pci_bus_id", ""),
        driver_version=values.get("driver_version", ""),
        cuda_version=int(values.get("cuda_version", 0)),
        compute_capability=values.get("compute_capability", ""),
        multiprocessors=int(values.get("multiprocessors", 0)),
        vram_total_bytes=int(values.get("vram_total_bytes", 0)),
        vram_used_bytes=int(values.get("vram_used_bytes", 0)),
        tflops=float(values.get("tflops", 0)),
        gpu_utilization=int(values.get("gpu_utilization", 0)),
        memory_utilization=int(values.get("memory_utilization", 0)),
        software=values.get("software") == "1",
        node=values.get("node", ""),
        lease=values.get("lease", ""),
        expires_at=float(values.get("expires_at", 0)),
        processes=processes,
        readings=readings,
    )


class Monitor:
    """A connection that reads the slice named in ``env`` (default: this process's environment).

    Raises:
        NotInSlice: the environment names no slice.
        remote_gpu.handshake.HandshakeError, OSError: the node refused or cannot be reached.
    """

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        env = os.environ if env is None else env
        endpoint, lease = env.get("CARREL_ENDPOINT"), env.get("CARREL_LEASE")
        if not endpoint or not lease:
            raise NotInSlice(
                "this process is not in a slice: start it with carrel-run, or from a server that "
                "was started with a GPU"
            )
        host, _, port = endpoint.rpartition(":")
        try:
            key = bytes.fromhex(env.get("CARREL_LEASE_KEY", ""))
            number = int(port)
        except ValueError:
            raise NotInSlice("CARREL_ENDPOINT or CARREL_LEASE_KEY is malformed") from None
        self._connection = handshake.connect_monitor(host.strip("[]"), number, lease, key)

    def read(self) -> SliceState:
        """Asks once."""
        self._connection.sendall(b"?")
        (size,) = struct.unpack("<I", self._receive(4))
        if size > MAX_TEXT:
            raise ConnectionError("the GPU node's answer is too long")
        return parse(self._receive(size).decode(errors="replace"))

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._connection.recv(size - len(data))
            if not part:
                raise ConnectionError("the GPU node hung up; the lease may have ended")
            data += part
        return data

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
