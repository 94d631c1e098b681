"""Streams, events, pinned memory: work that overlaps, in the order that was asked for."""

import numpy as np
from numba import cuda


@cuda.jit
def scale_and_add(values, factor, summand):
    i = cuda.grid(1)
    if i < values.size:
        values[i] = values[i] * factor + summand


def main() -> None:
    n = 20_000
    streams = [cuda.stream() for _ in range(4)]
    hosts = [cuda.pinned_array(n, np.float64) for _ in streams]
    results = [cuda.pinned_array(n, np.float64) for _ in streams]
    for k, (stream, host, result) in enumerate(zip(streams, hosts, results, strict=True)):
        host[:] = np.arange(n) + k
        device = cuda.to_device(host, stream=stream)
        for round_ in range(3):
            scale_and_add[(n + 127) // 128, 128, stream](device, 2.0, float(round_))
        device.copy_to_host(result, stream=stream)
    for k, (stream, result) in enumerate(zip(streams, results, strict=True)):
        stream.synchronize()
        np.testing.assert_array_equal(result, (np.arange(n) + k) * 8 + 4)

    # One stream waits for an event of another.
    first, second = streams[:2]
    start, end = cuda.event(), cuda.event()
    shared = cuda.to_device(np.ones(n), stream=first)
    start.record(first)
    scale_and_add[(n + 127) // 128, 128, first](shared, 3.0, 0.0)
    end.record(first)
    end.wait(second)
    scale_and_add[(n + 127) // 128, 128, second](shared, 1.0, 4.0)
    out = shared.copy_to_host(stream=second)
    second.synchronize()
    np.testing.assert_array_equal(out, 7.0)
    end.synchronize()
    assert end.query()
    assert 0 <= start.elapsed_time(end) < 60_000

    # The default stream and a timing without any work in between.
    start.record()
    end.record()
    end.synchronize()
    assert 0 <= start.elapsed_time(end) < 1_000


if __name__ == "__main__":
    main()
