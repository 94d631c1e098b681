"""The software GPU with its cuBLAS and cuBLASLt in this process, through ctypes."""

from __future__ import annotations

import ctypes
import os
from ctypes import byref, c_int, c_int64, c_size_t, c_uint64, c_void_p
from typing import Any

import ml_dtypes
import numpy as np

from remote_gpu import environment

R_32F, R_64F, R_16F, R_8I, C_32F, C_64F, R_32I, R_16BF = 0, 1, 2, 3, 4, 5, 10, 14
DTYPES = {
    R_32F: np.dtype(np.float32),
    R_64F: np.dtype(np.float64),
    R_16F: np.dtype(np.float16),
    R_16BF: np.dtype(ml_dtypes.bfloat16),
    R_8I: np.dtype(np.int8),
    R_32I: np.dtype(np.int32),
    C_32F: np.dtype(np.complex64),
    C_64F: np.dtype(np.complex128),
}
COMPUTE_16F, COMPUTE_32F, COMPUTE_64F, COMPUTE_32I = 64, 68, 70, 72
SUCCESS, NOT_INITIALIZED, INVALID_VALUE, EXECUTION_FAILED, NOT_SUPPORTED = 0, 1, 7, 13, 15
ILLEGAL_ADDRESS = 700
N, T, C = 0, 1, 2
HOST, DEVICE = 0, 1


def load(name: str) -> ctypes.CDLL:
    os.environ.setdefault("CARREL_SOFTGPU", "vram=256MiB,sms=2,threads=2")
    path = environment.openblas()
    assert path is not None, "scipy-openblas64 is missing: pip install -e '.[test]'"
    os.environ.setdefault("CARREL_OPENBLAS", str(path))
    return ctypes.CDLL(str(environment.LIB / name))


class Gpu:
    """A context of its own on device 0, current in the calling thread until ``close``."""

    def __init__(self) -> None:
        self.cuda = load("libcarrel-softgpu.so")
        self.context = c_void_p()
        assert self.cuda.cuInit(0) == 0
        assert self.cuda.cuCtxCreate_v2(byref(self.context), 0, 0) == 0

    def close(self) -> None:
        assert self.cuda.cuCtxDestroy_v2(self.context) == 0

    def allocate(self, size: int) -> int:
        address = c_uint64()
        assert self.cuda.cuMemAlloc_v2(byref(address), c_size_t(max(size, 1))) == 0
        return address.value

    def free(self, address: int) -> None:
        assert self.cuda.cuMemFree_v2(c_uint64(address)) == 0

    def stream(self) -> c_void_p:
        stream = c_void_p()
        assert self.cuda.cuStreamCreate(byref(stream), 1) == 0  # not ordered with the default one
        return stream

    def synchronize(self) -> int:
        return int(self.cuda.cuCtxSynchronize())


class Array:
    """A numpy array in device memory, columns first; freed with the object."""

    def __init__(self, gpu: Gpu, values: Any) -> None:
        host = np.asfortranarray(values)
        self.gpu, self.shape, self.dtype = gpu, host.shape, host.dtype
        self.bytes = host.nbytes
        self.address = gpu.allocate(host.nbytes)
        if host.nbytes:
            raw = host.tobytes(order="F")
            assert gpu.cuda.cuMemcpyHtoD_v2(c_uint64(self.address), raw, c_size_t(len(raw))) == 0

    def __del__(self) -> None:
        self.gpu.cuda.cuMemFree_v2(c_uint64(self.address))

    @property
    def pointer(self) -> c_void_p:
        return c_void_p(self.address)

    def read(self) -> np.ndarray[Any, Any]:
        raw = ctypes.create_string_buffer(max(self.bytes, 1))
        assert self.gpu.synchronize() == 0
        if self.bytes:
            assert (
                self.gpu.cuda.cuMemcpyDtoH_v2(raw, c_uint64(self.address), c_size_t(self.bytes))
                == 0
            )
        flat = np.frombuffer(raw.raw[: self.bytes], self.dtype)
        return flat.reshape(self.shape, order="F")


def scalar(value: complex, dtype: np.dtype[Any]) -> Any:
    """A host scalar to pass by address."""
    raw = np.array(value if dtype.kind == "c" else value.real).astype(dtype).tobytes()
    return ctypes.create_string_buffer(raw, len(raw))


def pointers(gpu: Gpu, arrays: list[Array]) -> Array:
    """An array of addresses in device memory."""
    return Array(gpu, np.array([a.address for a in arrays], np.uint64))


class Cublas:
    """A handle; ``call`` passes int64 sizes of the ``_64`` functions as Python integers."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.library = load("softgpu/libcublas.so.13")
        self.handle = c_void_p()
        assert self.library.cublasCreate_v2(byref(self.handle)) == SUCCESS

    def close(self) -> None:
        assert self.library.cublasDestroy_v2(self.handle) == SUCCESS

    def call(self, function: str, *arguments: Any) -> int:
        wide = function.endswith("_64")
        return int(
            getattr(self.library, function)(
                self.handle,
                *(
                    (c_int64(a) if wide else c_int(a))
                    if isinstance(a, int)
                    else a.pointer
                    if isinstance(a, Array)
                    else a
                    for a in arguments
                ),
            )
        )

    def pointer_mode(self, mode: int) -> None:
        assert self.library.cublasSetPointerMode_v2(self.handle, mode) == SUCCESS


def operate(op: int, matrix: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return matrix if op == N else matrix.T if op == T else matrix.conj().T


def random(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    if dtype.kind == "i":
        return rng.integers(-9, 9, shape).astype(dtype)
    values = rng.standard_normal(shape)
    if dtype.kind == "c":
        return (values + 1j * rng.standard_normal(shape)).astype(dtype)
    return values.astype(dtype)


#: How far results may be off, relative to the largest one.
TOLERANCE = {
    np.dtype(np.float32): 2e-6,
    np.dtype(np.complex64): 4e-6,
    np.dtype(np.float64): 1e-14,
    np.dtype(np.complex128): 1e-14,
    np.dtype(np.float16): 2e-3,
    np.dtype(ml_dtypes.bfloat16): 1e-2,
    np.dtype(np.int32): 0,
}


def assert_close(got: Any, want: Any, slack: float = 1.0) -> None:
    """``want``: in double; ``slack`` times the tolerance of ``got``'s type."""
    kind = np.complex128 if got.dtype.kind == "c" else np.float64
    largest = float(np.max(np.abs(want), initial=1.0))
    np.testing.assert_allclose(
        got.astype(kind), want, rtol=0, atol=slack * TOLERANCE[got.dtype] * largest
    )
