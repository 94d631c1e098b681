"""The Mandelbrot set: complex numbers and loops of different lengths in one warp."""

import numpy as np
from numba import cuda

LIMIT = 40


@cuda.jit(fastmath=False)
def mandelbrot(left, top, step, counts):
    y, x = cuda.grid(2)
    if y < counts.shape[0] and x < counts.shape[1]:
        c = complex(left + x * step, top + y * step)
        z = complex(0.0, 0.0)
        count = 0
        while count < LIMIT and z.real * z.real + z.imag * z.imag < 4.0:
            z = z * z + c
            count += 1
        counts[y, x] = count


def main() -> None:
    rows, columns, step = 96, 128, 3.0 / 128
    counts = np.zeros((rows, columns), np.int32)
    mandelbrot[(rows // 8, columns // 16), (8, 16)](-2.2, -1.125, step, counts)

    y, x = np.mgrid[0:rows, 0:columns]
    c = (-2.2 + x * step) + 1j * (-1.125 + y * step)
    z = np.zeros_like(c)
    expected = np.zeros((rows, columns), np.int32)
    for _ in range(LIMIT):
        inside = z.real * z.real + z.imag * z.imag < 4
        expected += inside
        z = np.where(inside, z * z + c, z)
    # A GPU fuses multiplications and additions: single points on the edge may differ.
    assert (counts != expected).mean() < 0.005
    assert counts.max() == LIMIT
    assert counts.min() < 5


if __name__ == "__main__":
    main()
