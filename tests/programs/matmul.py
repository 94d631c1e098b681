"""Tiled matrix products: tiles in static and in dynamic shared memory."""

import numpy as np
from numba import cuda, float32

TILE = 16


@cuda.jit
def product_static(a, b, c):
    left = cuda.shared.array((TILE, TILE), float32)
    right = cuda.shared.array((TILE, TILE), float32)
    row, column = cuda.grid(2)
    ty, tx = cuda.threadIdx.x, cuda.threadIdx.y
    total = float32(0)
    for tile in range((a.shape[1] + TILE - 1) // TILE):
        k = tile * TILE
        left[ty, tx] = a[row, k + tx] if row < a.shape[0] and k + tx < a.shape[1] else 0
        right[ty, tx] = b[k + ty, column] if k + ty < b.shape[0] and column < b.shape[1] else 0
        cuda.syncthreads()
        for i in range(TILE):
            total += left[ty, i] * right[i, tx]
        cuda.syncthreads()
    if row < c.shape[0] and column < c.shape[1]:
        c[row, column] = total


@cuda.jit
def product_dynamic(a, b, c, tile):
    shared = cuda.shared.array(0, float32)
    left = shared[: tile * tile]
    right = shared[tile * tile : 2 * tile * tile]
    row, column = cuda.grid(2)
    ty, tx = cuda.threadIdx.x, cuda.threadIdx.y
    total = float32(0)
    for start in range(0, a.shape[1], tile):
        left[ty * tile + tx] = a[row, start + tx]
        right[ty * tile + tx] = b[start + ty, column]
        cuda.syncthreads()
        for i in range(tile):
            total += left[ty * tile + i] * right[i * tile + tx]
        cuda.syncthreads()
    c[row, column] = total


def main() -> None:
    rng = np.random.default_rng(3)
    a = rng.random((70, 50), np.float32)
    b = rng.random((50, 90), np.float32)
    c = cuda.device_array((70, 90), np.float32)
    product_static[((70 + 15) // 16, (90 + 15) // 16), (TILE, TILE)](a, b, c)
    np.testing.assert_allclose(c.copy_to_host(), a @ b, rtol=1e-5)

    a = rng.random((64, 96), np.float32)
    b = rng.random((96, 64), np.float32)
    for tile in (8, 16, 32):
        c = cuda.device_array((64, 64), np.float32)
        blocks = (64 // tile, 64 // tile)
        product_dynamic[blocks, (tile, tile), 0, 2 * tile * tile * 4](a, b, c, tile)
        np.testing.assert_allclose(c.copy_to_host(), a @ b, rtol=1e-5)


if __name__ == "__main__":
    main()
