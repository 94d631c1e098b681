"""A numba kernel of known size, timed: tiled matrix product, float32.

Run as a program under a slice: ``python -m bench.kernels SIZE`` prints one JSON object.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time

import numpy as np
from numba import cuda, float32

TILE = 16


@cuda.jit
def matmul(a, b, c):  # type: ignore[no-untyped-def]
    left = cuda.shared.array((TILE, TILE), float32)
    right = cuda.shared.array((TILE, TILE), float32)
    x, y = cuda.grid(2)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    total = float32(0.0)
    for tile in range(a.shape[1] // TILE):
        left[ty, tx] = a[y, tile * TILE + tx]
        right[ty, tx] = b[tile * TILE + ty, x]
        cuda.syncthreads()
        for k in range(TILE):
            total += left[ty, k] * right[k, tx]
        cuda.syncthreads()
    c[y, x] = total


def instructions() -> int | None:
    """Thread-instructions executed so far, when the driver is the software GPU itself."""
    driver = ctypes.CDLL("libcuda.so.1")
    if not hasattr(driver, "carrel_softgpu_instructions"):
        return None
    driver.carrel_softgpu_instructions.restype = ctypes.c_uint64
    return int(driver.carrel_softgpu_instructions())


def main(size: int) -> None:
    rng = np.random.default_rng(1)
    a = rng.random((size, size), dtype=np.float32)
    b = rng.random((size, size), dtype=np.float32)
    da, db = cuda.to_device(a), cuda.to_device(b)
    dc = cuda.device_array((size, size), np.float32)
    grid = (size // TILE, size // TILE)
    matmul[grid, (TILE, TILE)](da, db, dc)
    cuda.synchronize()
    times, before = [], instructions()
    for _ in range(5):
        start = time.perf_counter()
        matmul[grid, (TILE, TILE)](da, db, dc)
        cuda.synchronize()
        times.append(time.perf_counter() - start)
    after = instructions()
    np.testing.assert_allclose(dc.copy_to_host(), a @ b, rtol=1e-4)
    result: dict[str, float] = {"seconds": sorted(times)[len(times) // 2], "size": size}
    if before is not None and after is not None:
        result["mips"] = (after - before) / sum(times) / 1e6
    print(json.dumps(result))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 512)
