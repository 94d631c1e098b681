"""Grids and blocks of one, two and three dimensions; every thread knows its place."""

import numpy as np
from numba import cuda


@cuda.jit
def place_2d(out):
    y, x = cuda.grid(2)
    if y < out.shape[0] and x < out.shape[1]:
        out[y, x] = y * 1000 + x


@cuda.jit
def place_3d(out):
    z, y, x = cuda.grid(3)
    if z < out.shape[0] and y < out.shape[1] and x < out.shape[2]:
        out[z, y, x] = (z * 100 + y) * 100 + x


@cuda.jit
def everything(out):
    block = cuda.blockIdx.x + cuda.gridDim.x * (cuda.blockIdx.y + cuda.gridDim.y * cuda.blockIdx.z)
    thread = cuda.threadIdx.x + cuda.blockDim.x * (
        cuda.threadIdx.y + cuda.blockDim.y * cuda.threadIdx.z
    )
    size = cuda.blockDim.x * cuda.blockDim.y * cuda.blockDim.z
    out[block * size + thread] += 1


@cuda.jit
def strided(out):
    start_y, start_x = cuda.grid(2)
    step_y, step_x = cuda.gridsize(2)
    for y in range(start_y, out.shape[0], step_y):
        for x in range(start_x, out.shape[1], step_x):
            out[y, x] += y - x


def main() -> None:
    flat = np.zeros((50, 70), np.int32)
    place_2d[(7, 9), (8, 8)](flat)
    y, x = np.mgrid[0:50, 0:70]
    np.testing.assert_array_equal(flat, y * 1000 + x)

    cube = np.zeros((9, 10, 21), np.int32)
    place_3d[(3, 3, 3), (4, 4, 8)](cube)
    z, y, x = np.mgrid[0:9, 0:10, 0:21]
    np.testing.assert_array_equal(cube, (z * 100 + y) * 100 + x)

    grid, block = (3, 4, 5), (5, 3, 4)
    once = np.zeros(np.prod(grid) * np.prod(block), np.int32)
    everything[grid, block](once)
    np.testing.assert_array_equal(once, 1)

    wide = np.zeros((33, 65), np.int64)
    strided[(2, 2), (4, 8)](wide)
    y, x = np.mgrid[0:33, 0:65]
    np.testing.assert_array_equal(wide, y - x)


if __name__ == "__main__":
    main()
