"""The driver API and device memory through ctypes, for programs that run on a slice."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from ctypes import byref, c_size_t, c_uint64, c_void_p

cuda = ctypes.CDLL("libcuda.so.1")


def check(result: int) -> None:
    assert result == 0, f"CUDA error {result}"


def start() -> None:
    context = c_void_p()
    check(cuda.cuInit(0))
    check(cuda.cuDevicePrimaryCtxRetain(byref(context), 0))
    check(cuda.cuCtxSetCurrent(context))


class Device:
    """An array in device memory: ``code`` as of the array module."""

    def __init__(self, values: Sequence[float], code: str = "f") -> None:
        data = array(code, values)
        self.code, self.count = code, len(data)
        self.bytes = len(data) * data.itemsize
        address = c_uint64()
        check(cuda.cuMemAlloc_v2(byref(address), c_size_t(self.bytes)))
        self.address = c_void_p(address.value)
        raw = data.tobytes()
        check(cuda.cuMemcpyHtoD_v2(address, raw, c_size_t(self.bytes)))

    def read(self) -> list[float]:
        raw = ctypes.create_string_buffer(self.bytes)
        check(cuda.cuMemcpyDtoH_v2(raw, self.address, c_size_t(self.bytes)))
        return array(self.code, raw.raw).tolist()
