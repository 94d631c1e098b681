"""numba's random generator: the same stream of numbers as on the host, and π by chance."""

import numpy as np
from numba import cuda
from numba.cuda.random import (
    create_xoroshiro128p_states,
    xoroshiro128p_normal_float64,
    xoroshiro128p_uniform_float32,
    xoroshiro128p_uniform_float64,
)

THREADS = 512
MASK = (1 << 64) - 1


@cuda.jit
def uniforms(states, out):
    i = cuda.grid(1)
    for k in range(out.shape[1]):
        out[i, k] = xoroshiro128p_uniform_float64(states, i)


@cuda.jit
def normals(states, out):
    i = cuda.grid(1)
    for k in range(out.shape[1]):
        out[i, k] = xoroshiro128p_normal_float64(states, i)


@cuda.jit
def inside_circle(states, hits, tries):
    i = cuda.grid(1)
    count = 0
    for _ in range(tries):
        x = xoroshiro128p_uniform_float32(states, i)
        y = xoroshiro128p_uniform_float32(states, i)
        if x * x + y * y <= 1:
            count += 1
    hits[i] = count


def rotate(value: int, by: int) -> int:
    return ((value << by) | (value >> (64 - by))) & MASK


def host_uniforms(s0: int, s1: int, count: int) -> list[float]:
    """xoroshiro128+ as published by Blackman and Vigna (2016)."""
    numbers = []
    for _ in range(count):
        numbers.append((((s0 + s1) & MASK) >> 11) * 2.0**-53)
        s1 ^= s0
        s0 = rotate(s0, 55) ^ s1 ^ ((s1 << 14) & MASK)
        s1 = rotate(s1, 36)
    return numbers


def main() -> None:
    states = create_xoroshiro128p_states(THREADS, seed=42)
    before = states.copy_to_host()
    out = np.zeros((THREADS, 4))
    uniforms[THREADS // 128, 128](states, out)
    for i in (0, 1, 77, THREADS - 1):
        expected = host_uniforms(int(before[i]["s0"]), int(before[i]["s1"]), 4)
        np.testing.assert_array_equal(out[i], expected)

    bell = np.zeros((THREADS, 20))
    normals[THREADS // 128, 128](states, bell)
    assert abs(bell.mean()) < 0.05
    assert abs(bell.std() - 1) < 0.05

    hits = np.zeros(THREADS, np.int64)
    inside_circle[THREADS // 128, 128](states, hits, 50)
    assert abs(4 * hits.sum() / (THREADS * 50) - np.pi) < 0.05


if __name__ == "__main__":
    main()
