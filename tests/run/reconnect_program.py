"""Launches and copies of all sizes, each checked; run by ``test_reconnect.py`` in a slice."""

from __future__ import annotations

import ctypes
import random
import sys
import threading
import time

PTX = b"""
.version 7.0
.target sm_52
.address_size 64
.visible .entry add(.param .u64 at, .param .u32 n, .param .u32 value)
{
    .reg .pred %p;
    .reg .u32 %r<6>;
    .reg .u64 %d<3>;
    ld.param.u64 %d1, [at];
    ld.param.u32 %r1, [n];
    ld.param.u32 %r2, [value];
    mov.u32 %r3, %ctaid.x;
    mov.u32 %r4, %ntid.x;
    mov.u32 %r5, %tid.x;
    mad.lo.u32 %r3, %r3, %r4, %r5;
    setp.ge.u32 %p, %r3, %r1;
    @%p bra done;
    mul.wide.u32 %d2, %r3, 4;
    add.u64 %d1, %d1, %d2;
    ld.global.u32 %r4, [%d1];
    add.u32 %r4, %r4, %r2;
    st.global.u32 [%d1], %r4;
done:
    ret;
}
"""
cuda = ctypes.CDLL("libcuda.so.1")


def check(result: int, what: str) -> None:
    if result:
        name = ctypes.c_char_p()
        cuda.cuGetErrorName(result, ctypes.byref(name))
        sys.exit(f"{what}: {name.value!r}")


def work(seed: int, until: float, context: ctypes.c_void_p, function: ctypes.c_void_p) -> None:
    check(cuda.cuCtxSetCurrent(context), "cuCtxSetCurrent")
    rng = random.Random(seed)
    largest = 3 << 20  # 12 MiB: beyond what is kept for another connection
    address = ctypes.c_uint64()
    check(cuda.cuMemAlloc_v2(ctypes.byref(address), 4 * largest), "cuMemAlloc")
    rounds = 0
    while time.monotonic() < until:
        n = rng.choice((1, 100, 5000, 100_000, largest))
        first = rng.randrange(1 << 30)
        data = (ctypes.c_uint32 * n)(*range(first, first + min(n, 5000)))
        data[n - 1] = first
        sent = bytes(data)
        check(cuda.cuMemcpyHtoD_v2(address, data, 4 * n), "cuMemcpyHtoD")
        total, some = 0, min(n, 2000)
        for _ in range(rng.randrange(60)):
            value = rng.randrange(1000)
            total += value
            held = (address, ctypes.c_uint32(some), ctypes.c_uint32(value))
            arguments = (ctypes.c_void_p * 3)(*(ctypes.addressof(a) for a in held))
            check(
                cuda.cuLaunchKernel(
                    function, (some + 127) // 128, 1, 1, 128, 1, 1, 0, None, arguments, None),
                "cuLaunchKernel",
            )  # fmt: skip
        back = (ctypes.c_uint32 * n)()
        check(cuda.cuMemcpyDtoH_v2(back, address, 4 * n), "cuMemcpyDtoH")
        before = (ctypes.c_uint32 * n).from_buffer_copy(sent)
        for i in (*range(some), n - 1):
            want = before[i] + (total if i < some else 0)
            if back[i] != want & 0xFFFFFFFF:
                sys.exit(f"round {rounds}, n {n}: element {i} is {back[i]}, not {want}")
        if bytes(back)[4 * some :] != sent[4 * some :]:
            sys.exit(f"round {rounds}, n {n}: bytes beyond the kernel's differ")
        rounds += 1
    print(f"thread {seed}: {rounds} rounds right", flush=True)


def main() -> None:
    context, module, function = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    check(cuda.cuInit(0), "cuInit")
    check(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0), "cuDevicePrimaryCtxRetain")
    check(cuda.cuCtxSetCurrent(context), "cuCtxSetCurrent")
    check(cuda.cuModuleLoadData(ctypes.byref(module), PTX), "cuModuleLoadData")
    check(cuda.cuModuleGetFunction(ctypes.byref(function), module, b"add"), "cuModuleGetFunction")
    until = time.monotonic() + float(sys.argv[1])
    threads = int(sys.argv[2])
    failed = []

    def guarded(seed: int) -> None:
        try:
            work(seed, until, context, function)
        except SystemExit as error:
            failed.append(str(error))

    running = [threading.Thread(target=guarded, args=(seed,)) for seed in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if failed:
        sys.exit("; ".join(failed))
    print("right", flush=True)


if __name__ == "__main__":
    main()
