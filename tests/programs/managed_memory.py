"""Memory that both sides touch: managed and mapped, written by the host, by kernels, by system
calls, by threads, next to handlers of the program's own, and across a fork."""

from __future__ import annotations

import ctypes
import os
import signal
import tempfile
import threading

import numpy as np
from numba import cuda


@cuda.jit
def add_one(a):
    i = cuda.grid(1)
    if i < a.size:
        a[i] += 1


@cuda.jit
def set_odd(a, value):
    i = cuda.grid(1)
    if i < a.size and i % 2:
        a[i] = value


def ping_pong(a: np.ndarray) -> None:
    a[:] = np.arange(a.size)
    expected = np.arange(a.size, dtype=a.dtype)
    blocks = (a.size + 127) // 128
    for turn in range(8):
        place = turn * 977 % a.size
        a[place] += 10
        expected[place] += 10
        add_one[blocks, 128](a)
        cuda.synchronize()
        expected += 1
        np.testing.assert_array_equal(a, expected)


def system_calls(a: np.ndarray) -> None:
    """read(2) into the memory and write(2) out of it, right before and after a kernel."""
    data = np.random.default_rng(1).integers(0, 100, a.size).astype(a.dtype)
    with tempfile.TemporaryFile() as file:
        file.write(data.tobytes())
        file.seek(0)
        assert os.readv(file.fileno(), [memoryview(a).cast("B")]) == a.nbytes
        add_one[(a.size + 127) // 128, 128](a)
        cuda.synchronize()
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        assert os.writev(file.fileno(), [memoryview(a).cast("B")]) == a.nbytes
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        back = np.frombuffer(os.read(file.fileno(), a.nbytes), a.dtype)
    np.testing.assert_array_equal(back, data + 1)


def both_in_one_page(a: np.ndarray) -> None:
    """The device writes the odd places, the host the even ones, of the same pages."""
    a[:] = 0
    cuda.synchronize()
    for turn in range(1, 4):
        a[::2] = turn
        set_odd[(a.size + 127) // 128, 128](a, -turn)
        cuda.synchronize()
        assert (a[::2] == turn).all()
        assert (a[1::2] == -turn).all()


def several_streams(a: np.ndarray, b: np.ndarray) -> None:
    """What a stream wrote is there after its own wait, whichever was waited for before."""
    one, two = cuda.stream(), cuda.stream()
    a[:] = 1
    b[:] = 2
    add_one[(a.size + 127) // 128, 128, one](a)
    for _ in range(5):
        add_one[(b.size + 127) // 128, 128, two](b)
    one.synchronize()
    assert (a == 2).all()
    two.synchronize()
    assert (b == 7).all()


def many_threads() -> None:
    failed: list[str] = []

    def work(seed: int) -> None:
        try:
            a = cuda.managed_array(1000 + seed, np.int64)
            for turn in range(5):
                a[:] = seed
                add_one[8, 256](a)
                cuda.current_context().synchronize()
                if not (a == seed + 1).all():
                    failed.append(f"thread {seed}, turn {turn}: {a[:4]}")
        except Exception as error:
            failed.append(repr(error))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed


def handlers_are_the_programs() -> None:
    """No SIGSEGV handler is put in the way of the program's."""
    assert signal.getsignal(signal.SIGSEGV) in (signal.SIG_DFL, None), "another handler is set"
    a = cuda.managed_array(5000, np.int32)
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: (seen.append(number), a.fill(7)))
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        add_one[40, 128](a)
        cuda.synchronize()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [signal.SIGUSR1]
    assert (a == 8).all()


def a_forked_child(a: np.ndarray) -> None:
    """Has the bytes as they were, to read and write for itself."""
    a[:] = 3
    add_one[(a.size + 127) // 128, 128](a)
    cuda.synchronize()
    child = os.fork()
    if child == 0:
        good = bool((a == 4).all())
        a[:] = 9
        os._exit(0 if good and (a == 9).all() else 1)
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert (a == 4).all()


def memset_of_mapped_memory() -> None:
    """Is seen when the call returns, without a wait."""
    driver = ctypes.CDLL("libcuda.so.1")
    host, there = ctypes.c_void_p(), ctypes.c_uint64()
    devicemap = 2
    assert driver.cuMemHostAlloc(ctypes.byref(host), ctypes.c_size_t(10000), devicemap) == 0
    assert driver.cuMemHostGetDevicePointer_v2(ctypes.byref(there), host, 0) == 0
    view = (ctypes.c_ubyte * 10000).from_address(host.value)
    view[17] = 1
    byte, size = ctypes.c_ubyte(5), ctypes.c_size_t(9999)
    assert driver.cuMemsetD8_v2(there, byte, size) == 0
    assert bytes(view[:9999]) == b"\5" * 9999
    assert view[9999] == 0
    assert driver.cuMemFreeHost(host) == 0


def advice_is_remembered() -> None:
    driver = ctypes.CDLL("libcuda.so.1")
    at = ctypes.c_uint64()
    assert driver.cuMemAllocManaged(ctypes.byref(at), ctypes.c_size_t(1 << 16), 1) == 0
    read_mostly, last_prefetch = 1, 4

    def ask(attribute: int, offset: int, size: int) -> int:
        value = ctypes.c_int()
        assert driver.cuMemRangeGetAttribute(
            ctypes.byref(value), ctypes.c_size_t(4), attribute,
            ctypes.c_uint64(at.value + offset), ctypes.c_size_t(size),
        ) == 0  # fmt: skip
        return value.value

    assert ask(read_mostly, 0, 1 << 16) == 0
    half = ctypes.c_size_t(1 << 15)
    assert driver.cuMemAdvise(at, half, 1, 0) == 0
    assert (ask(read_mostly, 0, 1 << 15), ask(read_mostly, 0, 1 << 16)) == (1, 0)
    assert ask(last_prefetch, 0, 1 << 16) == -2  # CU_DEVICE_INVALID
    assert driver.cuMemPrefetchAsync(at, ctypes.c_size_t(1 << 16), 0, None) == 0
    assert ask(last_prefetch, 0, 1 << 16) == 0
    assert driver.cuMemPrefetchAsync(at, half, -1, None) == 0
    assert (ask(last_prefetch, 0, 1 << 15), ask(last_prefetch, 0, 1 << 16)) == (-1, -2)
    assert driver.cuStreamAttachMemAsync(None, at, ctypes.c_size_t(0), 2) == 0
    assert driver.cuMemFree_v2(at) == 0
    assert driver.cuMemAdvise(at, half, 1, 0) == 1  # freed


def main() -> None:
    cuda.current_context()
    for a in (cuda.managed_array(10_000, np.int64), cuda.mapped_array(10_000, np.int64)):
        ping_pong(a)
        system_calls(a)
        both_in_one_page(a)
        a_forked_child(a)
    several_streams(cuda.managed_array(3000, np.int32), cuda.mapped_array(3000, np.int32))
    many_threads()
    handlers_are_the_programs()
    memset_of_mapped_memory()
    advice_is_remembered()


if __name__ == "__main__":
    main()
