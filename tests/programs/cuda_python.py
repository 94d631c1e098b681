"""cuda-python: compile CUDA C++ with NVRTC, load it by the driver API, launch, compare."""

from __future__ import annotations

import ctypes

import numpy as np
from cuda.bindings import driver, nvrtc

SOURCE = rb"""
extern "C" __global__ void saxpy(float a, const float *x, float *y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = a * x[i] + y[i];
}
"""


def ok(answer):
    """The values of a call's answer, after its status has been checked."""
    status, *values = answer
    assert int(status) == 0, status
    return values[0] if len(values) == 1 else values


def compiled(architecture: int) -> bytes:
    """PTX of the source for ``compute_<architecture>``."""
    program = ok(nvrtc.nvrtcCreateProgram(SOURCE, b"saxpy.cu", 0, [], []))
    options = [f"--gpu-architecture=compute_{architecture}".encode()]
    ok(nvrtc.nvrtcCompileProgram(program, len(options), options))
    ptx = b" " * ok(nvrtc.nvrtcGetPTXSize(program))
    ok(nvrtc.nvrtcGetPTX(program, ptx))
    return ptx


def main() -> None:
    ok(driver.cuInit(0))
    device = ok(driver.cuDeviceGet(0))
    context = ok(driver.cuDevicePrimaryCtxRetain(device))
    ok(driver.cuCtxSetCurrent(context))
    attribute = driver.CUdevice_attribute
    major = ok(
        driver.cuDeviceGetAttribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)
    )
    minor = ok(
        driver.cuDeviceGetAttribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)
    )
    module = ok(driver.cuModuleLoadData(compiled(10 * major + minor)))
    saxpy = ok(driver.cuModuleGetFunction(module, b"saxpy"))

    # Nothing is in the driver's log of errors.
    log = b" " * 100
    assert ok(driver.cuLogsDumpToMemory(ok(driver.cuLogsCurrent(0)), log, len(log), 0))[1] == 0
    assert log[0] == 0

    n = 10_000
    x, y = np.arange(n, dtype=np.float32), np.ones(n, np.float32)
    stream = ok(driver.cuStreamCreate(0))
    dx, dy = ok(driver.cuMemAlloc(x.nbytes)), ok(driver.cuMemAlloc(y.nbytes))
    ok(driver.cuMemcpyHtoDAsync(dx, x.ctypes.data, x.nbytes, stream))
    ok(driver.cuMemcpyHtoDAsync(dy, y.ctypes.data, y.nbytes, stream))
    values = (2.5, int(dx), int(dy), n)
    types = (ctypes.c_float, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
    blocks = (n + 255) // 256
    ok(driver.cuLaunchKernel(saxpy, blocks, 1, 1, 256, 1, 1, 0, stream, (values, types), 0))
    result = np.empty_like(y)
    ok(driver.cuMemcpyDtoHAsync(result.ctypes.data, dy, y.nbytes, stream))
    ok(driver.cuStreamSynchronize(stream))
    np.testing.assert_allclose(result, 2.5 * x + 1, rtol=1e-6)
    ok(driver.cuMemFree(dx))
    ok(driver.cuMemFree(dy))
    ok(driver.cuModuleUnload(module))


if __name__ == "__main__":
    main()
