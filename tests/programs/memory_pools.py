"""Memory pools: allocation in stream order, what a pool counts, its bound, its attributes."""

from __future__ import annotations

import numpy as np
from cuda.bindings import driver

MIB = 1 << 20
Attribute = driver.CUmemPool_attribute


def ok(answer):
    """The values of a call's answer, after its status has been checked."""
    status, *values = answer
    assert int(status) == 0, status
    return values[0] if len(values) == 1 else values


def get(pool, which: str) -> int:
    attribute = getattr(Attribute, f"CU_MEMPOOL_ATTR_{which}")
    return int(ok(driver.cuMemPoolGetAttribute(pool, attribute)))


def put(pool, which: str, value: int) -> None:
    attribute = getattr(Attribute, f"CU_MEMPOOL_ATTR_{which}")
    ok(driver.cuMemPoolSetAttribute(pool, attribute, driver.cuuint64_t(value)))


def new_pool(most: int):
    props = driver.CUmemPoolProps()
    props.allocType = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
    props.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    props.location.id = 0
    props.maxSize = most
    return ok(driver.cuMemPoolCreate(props))


def main() -> None:
    ok(driver.cuInit(0))
    device = ok(driver.cuDeviceGet(0))
    ok(driver.cuCtxSetCurrent(ok(driver.cuDevicePrimaryCtxRetain(device))))
    stream = ok(driver.cuStreamCreate(1))

    host = np.arange(1 << 18, dtype=np.float32)
    first = ok(driver.cuMemAllocAsync(host.nbytes, stream))
    ok(driver.cuMemcpyHtoDAsync(first, host.ctypes.data, host.nbytes, stream))
    back = np.zeros_like(host)
    ok(driver.cuMemcpyDtoHAsync(back.ctypes.data, first, host.nbytes, stream))
    ok(driver.cuStreamSynchronize(stream))
    assert (back == host).all()
    ok(driver.cuMemFreeAsync(first, stream))

    pool = new_pool(8 * MIB)
    assert get(pool, "USED_MEM_CURRENT") == 0
    kept = [ok(driver.cuMemAllocFromPoolAsync(MIB, pool, stream)) for _ in range(6)]
    assert get(pool, "USED_MEM_CURRENT") == 6 * MIB
    status, _ = driver.cuMemAllocFromPoolAsync(3 * MIB, pool, stream)
    assert status == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY
    for pointer in kept[:4]:
        ok(driver.cuMemFreeAsync(pointer, stream))
    ok(driver.cuMemFree(kept[4]))
    assert get(pool, "USED_MEM_CURRENT") == MIB
    assert get(pool, "USED_MEM_HIGH") == 6 * MIB
    assert get(pool, "RESERVED_MEM_CURRENT") >= MIB
    put(pool, "USED_MEM_HIGH", 0)
    assert get(pool, "USED_MEM_HIGH") == MIB
    put(pool, "RELEASE_THRESHOLD", 64 * MIB)
    assert get(pool, "RELEASE_THRESHOLD") == 64 * MIB

    ok(driver.cuDeviceSetMemPool(device, pool))
    assert int(ok(driver.cuDeviceGetMemPool(device))) == int(pool)
    last = ok(driver.cuMemAllocAsync(MIB, stream))
    assert get(pool, "USED_MEM_CURRENT") == 2 * MIB
    ok(driver.cuMemFreeAsync(last, stream))
    ok(driver.cuMemFreeAsync(kept[5], stream))
    ok(driver.cuStreamSynchronize(stream))
    ok(driver.cuMemPoolTrimTo(pool, 0))
    ok(driver.cuMemPoolDestroy(pool))
    default = ok(driver.cuDeviceGetDefaultMemPool(device))
    assert int(ok(driver.cuDeviceGetMemPool(device))) == int(default)
    ok(driver.cuStreamDestroy(stream))
    ok(driver.cuDevicePrimaryCtxRelease(device))


if __name__ == "__main__":
    main()
