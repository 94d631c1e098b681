"""The heat equation in two dimensions: a five-point stencil, tiles with halos in shared memory."""

import numpy as np
from numba import cuda, float32

TILE = 16
HALO = TILE + 2
RATE = np.float32(0.1)


@cuda.jit
def step(old, new):
    tile = cuda.shared.array((HALO, HALO), float32)
    y, x = cuda.grid(2)
    ty, tx = cuda.threadIdx.x + 1, cuda.threadIdx.y + 1
    rows, columns = old.shape
    cy, cx = min(y, rows - 1), min(x, columns - 1)
    tile[ty, tx] = old[cy, cx]
    if ty == 1:
        tile[0, tx] = old[max(cy - 1, 0), cx]
    if ty == TILE:
        tile[TILE + 1, tx] = old[min(cy + 1, rows - 1), cx]
    if tx == 1:
        tile[ty, 0] = old[cy, max(cx - 1, 0)]
    if tx == TILE:
        tile[ty, TILE + 1] = old[cy, min(cx + 1, columns - 1)]
    cuda.syncthreads()
    if 0 < y < rows - 1 and 0 < x < columns - 1:
        around = tile[ty - 1, tx] + tile[ty + 1, tx] + tile[ty, tx - 1] + tile[ty, tx + 1]
        new[y, x] = tile[ty, tx] + RATE * (around - float32(4) * tile[ty, tx])


def main() -> None:
    plate = np.zeros((70, 90), np.float32)
    plate[0] = 100
    plate[30:40, 40:50] = 50
    expected = plate.copy()
    old, new = cuda.to_device(plate), cuda.to_device(plate)
    blocks = ((70 + TILE - 1) // TILE, (90 + TILE - 1) // TILE)
    for _ in range(20):
        step[blocks, (TILE, TILE)](old, new)
        old, new = new, old
        inner = expected[1:-1, 1:-1]
        around = expected[:-2, 1:-1] + expected[2:, 1:-1] + expected[1:-1, :-2] + expected[1:-1, 2:]
        expected[1:-1, 1:-1] = inner + RATE * (around - 4 * inner)
    np.testing.assert_allclose(old.copy_to_host(), expected, rtol=1e-4, atol=1e-4)


if __name__ == "__main__":
    main()
