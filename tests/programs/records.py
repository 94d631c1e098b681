"""Structured arrays: records on the device, read and written by field; and mapped arrays."""

import numpy as np
from numba import cuda

particle = np.dtype(
    [
        ("position", np.float64, (3,)),
        ("charge", np.int8),
        ("mass", np.float32),
        ("id", np.int64),
    ],
    align=True,
)


@cuda.jit
def move(particles, velocity, heavy):
    i = cuda.grid(1)
    if i < particles.size:
        for axis in range(3):
            particles[i].position[axis] += velocity[axis] * (i + 1)
        particles[i].charge = -particles[i].charge
        particles[i].mass *= 2
        if particles[i].mass > 10:
            heavy[i] = particles[i].id


@cuda.jit
def double(values):
    i = cuda.grid(1)
    if i < values.size:
        values[i] *= 2


def main() -> None:
    n = 333
    rng = np.random.default_rng(11)
    particles = np.zeros(n, particle)
    particles["position"] = rng.random((n, 3))
    particles["charge"] = rng.integers(-3, 4, n)
    particles["mass"] = rng.random(n) * 10
    particles["id"] = np.arange(n) + (1 << 40)
    velocity = np.array([1.0, -2.0, 0.5])

    expected = particles.copy()
    expected["position"] += velocity * (np.arange(n) + 1)[:, None]
    expected["charge"] = -expected["charge"]
    expected["mass"] *= 2
    expected_heavy = np.where(expected["mass"] > 10, expected["id"], 0)

    heavy = np.zeros(n, np.int64)
    device = cuda.to_device(particles)
    move[3, 128](device, velocity, heavy)
    result = device.copy_to_host()
    for name in particle.names or ():
        np.testing.assert_allclose(result[name], expected[name], rtol=1e-12, err_msg=name)
    np.testing.assert_array_equal(heavy, expected_heavy)

    mapped = cuda.mapped_array(n, np.float32)
    mapped[:] = np.arange(n)
    double[3, 128](mapped)
    cuda.synchronize()
    np.testing.assert_array_equal(mapped, np.arange(n) * 2)


if __name__ == "__main__":
    main()
