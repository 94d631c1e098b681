"""A histogram by atomics: in global memory, and block by block in shared memory."""

import numpy as np
from numba import cuda, int32

BINS = 64


@cuda.jit
def count_global(values, counts):
    i = cuda.grid(1)
    if i < values.size:
        cuda.atomic.add(counts, values[i], 1)


@cuda.jit
def count_shared(values, counts):
    own = cuda.shared.array(BINS, int32)
    for b in range(cuda.threadIdx.x, BINS, cuda.blockDim.x):
        own[b] = 0
    cuda.syncthreads()
    for i in range(cuda.grid(1), values.size, cuda.gridsize(1)):
        cuda.atomic.add(own, values[i], 1)
    cuda.syncthreads()
    for b in range(cuda.threadIdx.x, BINS, cuda.blockDim.x):
        cuda.atomic.add(counts, b, own[b])


@cuda.jit
def extremes(values, low, high):
    i = cuda.grid(1)
    if i < values.size:
        cuda.atomic.min(low, 0, values[i])
        cuda.atomic.max(high, 0, values[i])


def main() -> None:
    values = np.random.default_rng(4).integers(0, BINS, 40_000, dtype=np.int32)
    expected = np.bincount(values, minlength=BINS)
    for kernel, grid in ((count_global, (157, 256)), (count_shared, (8, 128))):
        counts = cuda.to_device(np.zeros(BINS, np.int32))
        kernel[grid](values, counts)
        np.testing.assert_array_equal(counts.copy_to_host(), expected)

    reals = np.random.default_rng(5).normal(size=5_000)
    low, high = np.array([np.inf]), np.array([-np.inf])
    extremes[20, 256](reals, low, high)
    assert low[0] == reals.min()
    assert high[0] == reals.max()


if __name__ == "__main__":
    main()
