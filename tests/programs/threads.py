"""Eight threads at once, each with memory, a stream and kernels of its own."""

import threading

import numpy as np
from numba import cuda

THREADS = 8
ROUNDS = 10


@cuda.jit
def mix(values, seed):
    i = cuda.grid(1)
    if i < values.size:
        x = np.uint32(values[i] * np.uint32(2654435761) + np.uint32(seed))
        values[i] = x ^ (x >> np.uint32(15))


def expected(values: np.ndarray, seed: int) -> np.ndarray:
    x = values * np.uint32(2654435761) + np.uint32(seed)
    return x ^ (x >> np.uint32(15))


def work(number: int, failures: list[BaseException]) -> None:
    try:
        values = np.arange(3_000 + number * 100, dtype=np.uint32)
        stream = cuda.stream()
        device = cuda.to_device(values, stream=stream)
        for round_ in range(ROUNDS):
            mix[(values.size + 63) // 64, 64, stream](device, number * 1000 + round_)
            values = expected(values, number * 1000 + round_)
        result = device.copy_to_host(stream=stream)
        stream.synchronize()
        np.testing.assert_array_equal(result, values)
    except BaseException as failure:
        failures.append(failure)


def main() -> None:
    cuda.current_context()  # numba's own initialisation is not safe among threads
    failures: list[BaseException] = []
    threads = [threading.Thread(target=work, args=(i, failures)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


if __name__ == "__main__":
    main()
