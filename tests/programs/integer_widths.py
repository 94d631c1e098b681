"""Integers of 8 to 64 bits, signed and unsigned: arithmetic, shifts, bits, wrap-around."""

import numpy as np
from numba import cuda

TYPES = (
    np.int8,
    np.uint8,
    np.int16,
    np.uint16,
    np.int32,
    np.uint32,
    np.int64,
    np.uint64,
)


@cuda.jit
def arithmetic(a, b, out):
    i = cuda.grid(1)
    if i < a.size:
        out[0, i] = a[i] + b[i]
        out[1, i] = a[i] - b[i]
        out[2, i] = a[i] * b[i]
        out[3, i] = a[i] & b[i]
        out[4, i] = a[i] | b[i]
        out[5, i] = a[i] ^ b[i]
        out[6, i] = ~a[i]


@cuda.jit
def division(a, b, out):
    i = cuda.grid(1)
    if i < a.size:
        out[0, i] = a[i] // b[i]
        out[1, i] = a[i] % b[i]


@cuda.jit
def shifts(a, by, out):
    i = cuda.grid(1)
    if i < a.size:
        out[0, i] = a[i] << by[i]
        out[1, i] = a[i] >> by[i]


@cuda.jit
def bits(a, out):
    i = cuda.grid(1)
    if i < a.size:
        out[0, i] = cuda.popc(a[i])
        out[1, i] = cuda.clz(a[i])
        out[2, i] = cuda.brev(a[i])


def main() -> None:
    rng = np.random.default_rng(10)
    n = 300
    for dtype in TYPES:
        info = np.iinfo(dtype)
        a = rng.integers(info.min, info.max, n, dtype=dtype, endpoint=True)
        b = rng.integers(info.min, info.max, n, dtype=dtype, endpoint=True)
        a[:2], b[:2] = (info.min, info.max), (info.max, info.min)
        out = np.zeros((7, n), dtype)
        arithmetic[2, 160](a, b, out)
        expected = np.stack([a + b, a - b, a * b, a & b, a | b, a ^ b, ~a])
        np.testing.assert_array_equal(out, expected, err_msg=str(dtype))

        divisor = np.where((b == 0) | (b == dtype(-1 if info.min else 1)), dtype(3), b)
        out = np.zeros((2, n), dtype)
        division[2, 160](a, divisor, out)
        np.testing.assert_array_equal(out[0], a // divisor, err_msg=str(dtype))
        np.testing.assert_array_equal(out[1], a % divisor, err_msg=str(dtype))

        by = rng.integers(0, info.bits, n).astype(dtype)
        out = np.zeros((2, n), dtype)
        shifts[2, 160](a, by, out)
        np.testing.assert_array_equal(out[0], a << by, err_msg=str(dtype))
        np.testing.assert_array_equal(out[1], a >> by, err_msg=str(dtype))

    for dtype, width in ((np.uint32, 32), (np.uint64, 64)):
        a = rng.integers(0, np.iinfo(dtype).max, n, dtype=dtype)
        out = np.zeros((3, n), dtype)
        bits[2, 160](a, out)
        text = [f"{int(v):0{width}b}" for v in a]
        np.testing.assert_array_equal(out[0], [t.count("1") for t in text])
        np.testing.assert_array_equal(out[1], [width - len(t.lstrip("0")) for t in text])
        np.testing.assert_array_equal(out[2], np.array([int(t[::-1], 2) for t in text], dtype))


if __name__ == "__main__":
    main()
