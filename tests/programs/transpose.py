"""A transposition through padded tiles of shared memory."""

import numpy as np
from numba import cuda, float64

TILE = 32
PADDED = TILE + 1
ROWS = 8


@cuda.jit
def transpose(source, target):
    tile = cuda.shared.array((TILE, PADDED), float64)
    x = cuda.blockIdx.x * TILE + cuda.threadIdx.x
    y = cuda.blockIdx.y * TILE + cuda.threadIdx.y
    for j in range(0, TILE, ROWS):
        if y + j < source.shape[0] and x < source.shape[1]:
            tile[cuda.threadIdx.y + j, cuda.threadIdx.x] = source[y + j, x]
    cuda.syncthreads()
    x = cuda.blockIdx.y * TILE + cuda.threadIdx.x
    y = cuda.blockIdx.x * TILE + cuda.threadIdx.y
    for j in range(0, TILE, ROWS):
        if y + j < target.shape[0] and x < target.shape[1]:
            target[y + j, x] = tile[cuda.threadIdx.x, cuda.threadIdx.y + j]


def main() -> None:
    for rows, columns in ((96, 64), (100, 37)):
        source = np.random.default_rng(7).random((rows, columns))
        target = cuda.device_array((columns, rows))
        blocks = ((columns + TILE - 1) // TILE, (rows + TILE - 1) // TILE)
        transpose[blocks, (TILE, ROWS)](source, target)
        np.testing.assert_array_equal(target.copy_to_host(), source.T)


if __name__ == "__main__":
    main()
