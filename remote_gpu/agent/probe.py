"""Asks a CUDA driver library what it has, in a process of its own.

    python -m remote_gpu.agent.probe /path/to/libcuda.so.1

prints one JSON list. The agent itself loads no driver: one that hangs or crashes must not take the
front door with it.
"""

from __future__ import annotations

import ctypes
import json
import sys
import uuid
from typing import Any

_MULTIPROCESSORS, _CLOCK_KHZ, _MAJOR, _MINOR = 16, 13, 75, 76


class DriverError(Exception):
    """A driver call failed."""


def probe(path: str) -> list[dict[str, Any]]:
    """Index, uuid, name, memory (bytes), capability, multiprocessors and clock of every device."""
    driver = ctypes.CDLL(path)

    def call(name: str, *arguments: Any) -> None:
        result = getattr(driver, name)(*arguments)
        if result:
            text = ctypes.c_char_p()
            driver.cuGetErrorName(result, ctypes.byref(text))
            raise DriverError(f"{name}: {(text.value or b'unknown error').decode()}")

    def attribute(device: int, number: int) -> int:
        value = ctypes.c_int()
        call("cuDeviceGetAttribute", ctypes.byref(value), number, device)
        return value.value

    call("cuInit", 0)
    count, version = ctypes.c_int(), ctypes.c_int()
    call("cuDeviceGetCount", ctypes.byref(count))
    call("cuDriverGetVersion", ctypes.byref(version))
    devices = []
    for index in range(count.value):
        name = ctypes.create_string_buffer(256)
        call("cuDeviceGetName", name, len(name), index)
        identity = ctypes.create_string_buffer(16)
        call("cuDeviceGetUuid_v2", identity, index)
        bus = ctypes.create_string_buffer(32)
        call("cuDeviceGetPCIBusId", bus, len(bus), index)
        memory = ctypes.c_size_t()
        call("cuDeviceTotalMem_v2", ctypes.byref(memory), index)
        devices.append(
            {
                "index": index,
                "uuid": f"GPU-{uuid.UUID(bytes=identity.raw)}",
                "name": name.value.decode(errors="replace"),
                "pci_bus_id": bus.value.decode(),
                "vram_bytes": memory.value,
                "compute_capability": f"{attribute(index, _MAJOR)}.{attribute(index, _MINOR)}",
                "multiprocessors": attribute(index, _MULTIPROCESSORS),
                "clock_mhz": attribute(index, _CLOCK_KHZ) / 1000,
                "cuda_version": version.value,
            }
        )
    return devices


if __name__ == "__main__":
    try:
        json.dump(probe(sys.argv[1]), sys.stdout)
    except (DriverError, OSError) as error:
        sys.exit(str(error))
