"""The null device: any code, real memory, copies and order, modelled times, nothing computed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.cudart.test_cudart import cuda_home
from tests.run.test_run import CARREL_RUN, CUDA, run, start

SOURCE = """
#include <cstdint>
struct Odd { double wide; char letter; };
__device__ int table[4] = {3, 1, 4, 1};
extern "C" __global__ void __launch_bounds__(256)
fill(int* to, short small, Odd odd, uint64_t wide) {
    __shared__ int shared[32];
    shared[threadIdx.x % 32] = small + odd.letter;
    __syncthreads();
    to[threadIdx.x] = shared[0] + table[0] + int(wide);
}
extern "C" __global__ void nothing() {}
"""

PROGRAM = """
image = open(sys.argv[1], "rb").read()
module, fill, table, stream = (ctypes.c_void_p() for _ in range(4))
check(cuda.cuModuleLoadData(ctypes.byref(module), image))
check(cuda.cuModuleGetFunction(ctypes.byref(fill), module, b"fill"))
offset, size = ctypes.c_size_t(), ctypes.c_size_t()
layout = []
while not cuda.cuFuncGetParamInfo(fill, ctypes.c_size_t(len(layout)), ctypes.byref(offset),
                                  ctypes.byref(size)):
    layout.append((offset.value, size.value))
assert layout == [(0, 8), (8, 2), (16, 16), (32, 8)], layout
value = ctypes.c_int()
check(cuda.cuFuncGetAttribute(ctypes.byref(value), 1, fill))  # static shared memory
assert value.value == 128, value.value
check(cuda.cuFuncGetAttribute(ctypes.byref(value), 0, fill))  # threads of a block at most
assert value.value == 256, value.value
check(cuda.cuModuleGetGlobal_v2(ctypes.byref(table), ctypes.byref(size), module, b"table"))
four = (ctypes.c_int * 4)()
check(cuda.cuMemcpyDtoH_v2(four, table, ctypes.c_size_t(16)))
assert list(four) == [3, 1, 4, 1] and size.value == 16, list(four)

# Memory and copies are real; kernels write nothing.
numbers = (ctypes.c_int * 256)(*range(256))
check(cuda.cuMemcpyHtoD_v2(address, numbers, ctypes.c_size_t(1024)))
check(cuda.cuStreamCreate(ctypes.byref(stream), 0))
class Odd(ctypes.Structure):
    _fields_ = [("wide", ctypes.c_double), ("letter", ctypes.c_char)]
arguments = (address, ctypes.c_short(1), Odd(1, b"a"), ctypes.c_uint64(5))
pointers = (ctypes.c_void_p * 4)(*(ctypes.cast(ctypes.byref(a), ctypes.c_void_p)
                                   for a in arguments))
begin, end = ctypes.c_void_p(), ctypes.c_void_p()
for event in (begin, end):
    check(cuda.cuEventCreate(ctypes.byref(event), 0))
check(cuda.cuEventRecord(begin, stream))
for _ in range(1000):
    check(cuda.cuLaunchKernel(fill, 1, 1, 1, 256, 1, 1, 0, stream, pointers, None))
check(cuda.cuEventRecord(end, stream))
check(cuda.cuMemcpyDtoDAsync_v2(ctypes.c_uint64(address.value + 4096), address,
                                ctypes.c_size_t(1024), stream))
check(cuda.cuEventSynchronize(end))
ms = ctypes.c_float()
check(cuda.cuEventElapsedTime_v2(ctypes.byref(ms), begin, end))
print("took", ms.value)
back = (ctypes.c_int * 256)()
check(cuda.cuMemcpyDtoHAsync_v2(back, ctypes.c_uint64(address.value + 4096),
                                ctypes.c_size_t(1024), stream))
check(cuda.cuStreamSynchronize(stream))
assert list(back) == list(range(256)), list(back)
assert cuda.cuLaunchKernel(fill, 1, 1, 1, 257, 1, 1, 0, stream, pointers, None)
name = ctypes.create_string_buffer(100)
check(cuda.cuDeviceGetName(name, 100, 0))
print(name.value.decode())
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The kernels as machine code, and as a fatbin of it for several GPUs."""
    folder = tmp_path_factory.mktemp("null")
    source = folder / "kernels.cu"
    source.write_text(SOURCE)
    home = cuda_home()
    made = {}
    for kind, options in {
        "cubin": ["-cubin", "-arch=sm_90"],
        "fatbin": ["-fatbin", *(f"-gencode=arch=compute_{n},code=sm_{n}" for n in (80, 90, 100))],
    }.items():
        made[kind] = folder / f"kernels.{kind}"
        subprocess.run(
            [home / "bin/nvcc", *options, "-I", home / "include", "-o", made[kind], source],
            check=True, timeout=240,
        )  # fmt: skip
    return made


def null(*options: str) -> list[str]:
    return [*CARREL_RUN, *options, "--"]


@pytest.mark.parametrize("kind", ["cubin", "fatbin"])
@pytest.mark.parametrize("place", [(), ("--local",)], ids=["remote", "local"])
def test_machine_code_is_accepted(
    images: dict[str, Path], kind: str, place: tuple[str, ...]
) -> None:
    done = run(
        *null("--null-gpu", "vram=64MiB", *place),
        sys.executable, "-c", CUDA + PROGRAM, str(images[kind]),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Carrel null device (H100 model)" in done.stdout
    # A thousand launches of two microseconds at least; the stream had nothing else.
    took = float(done.stdout.partition("took ")[2].split()[0])
    assert took >= 2, took


def test_launches_take_no_time_when_asked(images: dict[str, Path]) -> None:
    done = run(
        *null("--null-gpu", "vram=64MiB,model=A100,timing=none"),
        sys.executable, "-c", CUDA + PROGRAM, str(images["fatbin"]),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Carrel null device (A100 model)" in done.stdout


def test_no_worker_serves_a_local_device() -> None:
    process = start("input()", command=null("--local", "--null-gpu", "vram=64MiB"),
                    stdin=subprocess.PIPE)  # fmt: skip
    children = psutil.Process(process.pid).children(recursive=True)
    names = [child.name() for child in children]
    assert names
    assert not [name for name in names if "worker" in name], names
    process.communicate("\n", timeout=60)
    assert process.returncode == 0


LIBRARIES = """
blas, dnn, runtime = (ctypes.CDLL(n) for n in ("libcublas.so.13", "libcudnn.so.9",
                                               "libcudart.so.13"))
handle, version = ctypes.c_void_p(), ctypes.c_int()
assert blas.cublasCreate_v2(ctypes.byref(handle)) == 0
assert blas.cublasGetVersion_v2(handle, ctypes.byref(version)) == 0
assert version.value >= 130000
stream, seen = ctypes.c_void_p(), ctypes.c_void_p()
check(cuda.cuStreamCreate(ctypes.byref(stream), 1))
assert blas.cublasSetStream_v2(handle, stream) == 0
assert blas.cublasGetStream_v2(handle, ctypes.byref(seen)) == 0
assert seen.value == stream.value
begin, end, ms = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_float()
for event in (begin, end):
    check(cuda.cuEventCreate(ctypes.byref(event), 0))
one, n = ctypes.c_float(1), 4096
check(cuda.cuEventRecord(begin, stream))
assert blas.cublasSgemm_v2(handle, 0, 0, n, n, n, ctypes.byref(one), address, n, address, n,
                           ctypes.byref(one), address, n) == 0
check(cuda.cuEventRecord(end, stream))
check(cuda.cuEventSynchronize(end))
check(cuda.cuEventElapsedTime_v2(ctypes.byref(ms), begin, end))
least = 2 * n ** 3 / 67e12 * 1e3  # an H100's FP32 peak
assert least <= ms.value < 3 * least, (ms.value, least)
graph, replay = ctypes.c_void_p(), ctypes.c_void_p()
check(cuda.cuStreamBeginCapture_v2(stream, 2))
assert blas.cublasSgemm_v2(handle, 0, 0, n, n, n, ctypes.byref(one), address, n, address, n,
                           ctypes.byref(one), address, n) == 0
check(cuda.cuStreamEndCapture(stream, ctypes.byref(graph)))
check(cuda.cuGraphInstantiateWithFlags(ctypes.byref(replay), graph, ctypes.c_ulonglong(0)))
check(cuda.cuEventRecord(begin, stream))
check(cuda.cuGraphLaunch(replay, stream))
check(cuda.cuEventRecord(end, stream))
check(cuda.cuEventSynchronize(end))
check(cuda.cuEventElapsedTime_v2(ctypes.byref(ms), begin, end))
assert least <= ms.value < 3 * least, (ms.value, least)
dnn.cudnnGetVersion.restype = ctypes.c_size_t
assert dnn.cudnnGetVersion() >= 90000
net = ctypes.c_void_p()
assert dnn.cudnnCreate(ctypes.byref(net)) == 0
assert dnn.cudnnDestroy(net) == 0
print("well")
"""


@pytest.mark.parametrize("place", [(), ("--local",)], ids=["remote", "local"])
def test_libraries_take_the_time_of_their_shapes(place: tuple[str, ...]) -> None:
    done = run(*null("--null-gpu", "vram=64MiB", *place), sys.executable, "-c", CUDA + LIBRARIES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "well" in done.stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--null-gpu", "vram=1GiB,model=Z80"], "model=Z80"),
        (["--null-gpu", "vram=1GiB,timing=slow"], "modelled or none"),
        (["--null-gpu", "vram=1GiB", "--software-gpu", "vram=1GiB"], "exclude each other"),
        (["--local"], "--local needs"),
        (["--local", "--null-gpu", "vram=1GiB", "--vram", "1MiB"], "the whole device"),
    ],
)
def test_wrong_settings_are_explained(options: list[str], says: str) -> None:
    done = run(*null(*options), "true")
    assert done.returncode != 0
    assert says in done.stderr
