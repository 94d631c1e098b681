"""Sums: a tree in shared memory, numba's own reduction, and block sums added by atomics."""

import numpy as np
from numba import cuda, float64

THREADS = 256


@cuda.jit
def block_sums(values, sums):
    shared = cuda.shared.array(THREADS, float64)
    i = cuda.grid(1)
    t = cuda.threadIdx.x
    shared[t] = values[i] if i < values.size else 0.0
    cuda.syncthreads()
    step = THREADS // 2
    while step > 0:
        if t < step:
            shared[t] += shared[t + step]
        cuda.syncthreads()
        step //= 2
    if t == 0:
        sums[cuda.blockIdx.x] = shared[0]


@cuda.jit
def atomic_sum(values, total):
    i = cuda.grid(1)
    if i < values.size:
        cuda.atomic.add(total, 0, values[i])


@cuda.reduce
def numba_sum(a, b):
    return a + b


def main() -> None:
    values = np.random.default_rng(2).random(50_001)
    blocks = (values.size + THREADS - 1) // THREADS
    sums = cuda.device_array(blocks)
    block_sums[blocks, THREADS](values, sums)
    np.testing.assert_allclose(sums.copy_to_host().sum(), values.sum(), rtol=1e-12)

    np.testing.assert_allclose(numba_sum(values), values.sum(), rtol=1e-12)

    whole = np.arange(10_000, dtype=np.int64)
    total = np.zeros(1, np.int64)
    atomic_sum[40, THREADS](whole, total)
    assert total[0] == whole.sum()


if __name__ == "__main__":
    main()
