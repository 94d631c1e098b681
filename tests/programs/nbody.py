"""Gravity among a few hundred bodies, tile by tile through shared memory."""

import math

import numpy as np
from numba import cuda, float64

THREADS = 64
SOFTENING = 1e-3


@cuda.jit
def accelerations(positions, masses, out):
    tile = cuda.shared.array((THREADS, 4), float64)
    i = cuda.grid(1)
    t = cuda.threadIdx.x
    n = positions.shape[0]
    px = py = pz = 0.0
    if i < n:
        px, py, pz = positions[i, 0], positions[i, 1], positions[i, 2]
    ax = ay = az = 0.0
    for start in range(0, n, THREADS):
        j = start + t
        if j < n:
            tile[t, 0] = positions[j, 0]
            tile[t, 1] = positions[j, 1]
            tile[t, 2] = positions[j, 2]
            tile[t, 3] = masses[j]
        else:
            tile[t, 3] = 0.0
        cuda.syncthreads()
        for k in range(min(THREADS, n - start)):
            dx, dy, dz = tile[k, 0] - px, tile[k, 1] - py, tile[k, 2] - pz
            square = dx * dx + dy * dy + dz * dz + SOFTENING
            pull = tile[k, 3] / (square * math.sqrt(square))
            ax += dx * pull
            ay += dy * pull
            az += dz * pull
        cuda.syncthreads()
    if i < n:
        out[i, 0], out[i, 1], out[i, 2] = ax, ay, az


def main() -> None:
    rng = np.random.default_rng(8)
    n = 200
    positions, masses = rng.normal(size=(n, 3)), rng.random(n)
    out = np.zeros((n, 3))
    accelerations[(n + THREADS - 1) // THREADS, THREADS](positions, masses, out)

    difference = positions[None, :, :] - positions[:, None, :]
    square = (difference**2).sum(axis=2) + SOFTENING
    expected = (difference * (masses / square**1.5)[:, :, None]).sum(axis=1)
    np.testing.assert_allclose(out, expected, rtol=1e-9, atol=1e-9)


if __name__ == "__main__":
    main()
