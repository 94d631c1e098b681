"""The sum of two vectors, one thread per element."""

import numpy as np
from numba import cuda


@cuda.jit
def add(a, b, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = a[i] + b[i]


def main() -> None:
    rng = np.random.default_rng(1)
    n = 100_003
    for dtype in (np.float32, np.float64, np.int32):
        a = (rng.random(n) * 1000).astype(dtype)
        b = (rng.random(n) * 1000).astype(dtype)
        out = cuda.device_array(n, dtype)
        add[(n + 255) // 256, 256](cuda.to_device(a), cuda.to_device(b), out)
        np.testing.assert_array_equal(out.copy_to_host(), a + b)


if __name__ == "__main__":
    main()
