"""A copy of 1 GiB to the device and back, and parts of it to where they were not."""

import numpy as np
from numba import cuda

GIB = 1 << 30


@cuda.jit
def touch(values, step):
    i = cuda.grid(1) * step
    if i < values.size:
        values[i] += 1


def main() -> None:
    host = np.arange(GIB // 8, dtype=np.int64)
    device = cuda.to_device(host)
    step = 1 << 16
    threads = host.size // step
    touch[threads // 128, 128](device, step)
    back = device.copy_to_host()
    host[::step] += 1
    assert np.array_equal(back, host)

    part = device[1_000_003:2_000_003].copy_to_host()
    np.testing.assert_array_equal(part, host[1_000_003:2_000_003])
    device[:1000].copy_to_device(device[5_000_000:5_001_000])
    np.testing.assert_array_equal(device[:1000].copy_to_host(), host[5_000_000:5_001_000])


if __name__ == "__main__":
    main()
