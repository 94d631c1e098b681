"""An inclusive scan by warp shuffles, with votes and matches on the way."""

import numpy as np
from numba import cuda, int32

FULL = 0xFFFFFFFF
THREADS = 256
WARPS = THREADS // 32


@cuda.jit(device=True)
def warp_scan(value, lane):
    for step in (1, 2, 4, 8, 16):
        below = cuda.shfl_up_sync(FULL, value, step)
        if lane >= step:
            value += below
    return value


@cuda.jit
def block_scan(values, out, totals):
    warps = cuda.shared.array(WARPS, int32)
    i = cuda.grid(1)
    t = cuda.threadIdx.x
    lane, warp = t % 32, t // 32
    value = warp_scan(values[i], lane)
    if lane == 31:
        warps[warp] = value
    cuda.syncthreads()
    if warp == 0:
        mine = warps[lane] if lane < WARPS else 0
        mine = warp_scan(mine, lane)
        if lane < WARPS:
            warps[lane] = mine
    cuda.syncthreads()
    if warp > 0:
        value += warps[warp - 1]
    out[i] = value
    if t == THREADS - 1:
        totals[cuda.blockIdx.x] = value


@cuda.jit
def votes(values, counts):
    i = cuda.grid(1)
    ballot = cuda.ballot_sync(FULL, values[i] % 3 == 0)
    if cuda.laneid == 0:
        counts[i // 32, 0] = cuda.popc(ballot)
        counts[i // 32, 1] = 1 if ballot != 0 else 0
    every = cuda.all_sync(FULL, values[i] >= 0)
    if cuda.laneid == 0:
        counts[i // 32, 2] = every


def main() -> None:
    blocks = 12
    values = np.random.default_rng(6).integers(0, 100, blocks * THREADS, dtype=np.int32)
    out, totals = np.zeros_like(values), np.zeros(blocks, np.int32)
    block_scan[blocks, THREADS](values, out, totals)
    expected = np.cumsum(values.reshape(blocks, THREADS), axis=1, dtype=np.int32)
    np.testing.assert_array_equal(out.reshape(blocks, THREADS), expected)
    np.testing.assert_array_equal(totals, expected[:, -1])

    counts = np.zeros((values.size // 32, 3), np.int32)
    votes[blocks, THREADS](values, counts)
    by_warp = (values % 3 == 0).reshape(-1, 32).sum(axis=1)
    np.testing.assert_array_equal(counts[:, 0], by_warp)
    np.testing.assert_array_equal(counts[:, 1], by_warp > 0)
    np.testing.assert_array_equal(counts[:, 2], 1)


if __name__ == "__main__":
    main()
