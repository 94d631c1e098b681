"""CUDA's libraries on a slice: all is real but the GPU host's library, which is a plain one."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from remote_gpu import environment
from remote_gpu.codegen import library, library_cpp

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

Run = Callable[..., subprocess.CompletedProcess[str]]

BLAS = """
blas = ctypes.CDLL("libcublas.so.13")
start()
handle = c_void_p()
assert blas.cublasCreate_v2(byref(handle)) == 0
A, B = Device([1, 2, 3, 4, 5, 6]), Device([1, 0, 1, 0, 1, 0])  # 2x3 and 3x2, column-major
C = Device([10, 10, 10, 10])
one, two = c_float(1), c_float(2)
def gemm(m, alpha, beta):
    return blas.cublasSgemm_v2(handle, 0, 0, m, 2, 3, alpha, A.address, 2, B.address, 3, beta,
                               C.address, 2)
"""


def test_scalars_are_taken_from_host_and_device(run: Run) -> None:
    run(
        BLAS
        + """
assert gemm(2, byref(two), byref(one)) == 0
assert C.read() == [22, 26, 16, 18], C.read()
scalars = Device([3, 0])
assert blas.cublasSetPointerMode_v2(handle, 1) == 0
mode = c_int(7)
assert blas.cublasGetPointerMode_v2(handle, byref(mode)) == 0 and mode.value == 1
assert gemm(2, scalars.address, c_void_p(scalars.address.value + 4)) == 0
assert C.read() == [18, 24, 9, 12], C.read()
""",
    )


def test_results_go_to_host_and_device(run: Run) -> None:
    run(
        BLAS
        + """
result = c_float()
assert blas.cublasSdot_v2(handle, 6, A.address, 1, A.address, 1, byref(result)) == 0
assert result.value == 91
onto = Device([0])
assert blas.cublasSdot_v2(handle, 6, A.address, 1, A.address, 1, onto.address) == 1, "mode: host"
assert blas.cublasSetPointerMode_v2(handle, 1) == 0
assert blas.cublasSdot_v2(handle, 3, A.address, 2, B.address, 2, onto.address) == 0
assert onto.read() == [1 + 3 + 5]
X = Device([1, 2], "d")
assert blas.cublasSetPointerMode_v2(handle, 0) == 0
assert blas.cublasDscal_v2(handle, 2, byref(c_double(2.5)), X.address, 1) == 0
assert X.read() == [2.5, 5]
""",
    )


def test_matrices_move_between_host_and_device(run: Run) -> None:
    run(
        BLAS
        + """
host = array("f", [1, 2, -1, 3, 4, -1])  # 2x2 with a leading dimension of 3
at = c_void_p(host.buffer_info()[0])
assert blas.cublasSetMatrix(2, 2, 4, at, 3, C.address, 2) == 0
assert C.read() == [1, 2, 3, 4]
host = array("f", [7] * 6)
at = c_void_p(host.buffer_info()[0])
assert blas.cublasGetMatrix(2, 2, 4, C.address, 2, at, 3) == 0
assert list(host) == [1, 2, 7, 3, 4, 7], host
""",
    )


def test_handles_know_their_stream(run: Run) -> None:
    run(
        BLAS
        + """
stream, seen = c_void_p(), c_void_p(1)
check(cuda.cuStreamCreate(byref(stream), 1))
assert blas.cublasGetStream_v2(handle, byref(seen)) == 0 and not seen.value
assert blas.cublasSetStream_v2(handle, stream) == 0
assert blas.cublasGetStream_v2(handle, byref(seen)) == 0 and seen.value == stream.value
assert gemm(2, byref(one), byref(one)) == 0
check(cuda.cuStreamSynchronize(stream))
assert C.read() == [16, 18, 13, 14]
assert blas.cublasSetStream_v2(handle, c_void_p(0x7777)) == 1, "no such stream"
check(cuda.cuStreamDestroy_v2(stream))
assert blas.cublasSetStream_v2(handle, None) == 0
assert gemm(2, byref(one), byref(one)) == 0
check(cuda.cuCtxSynchronize())
""",
    )


def test_calls_without_output_are_pipelined(run: Run) -> None:
    done = run(
        BLAS + "for _ in range(100): assert gemm(2, byref(one), byref(one)) == 0\nC.read()\n",
        CARREL_TRACE="summary",
    )
    assert re.search(r"100 +0  cublasSgemm_v2\n", done.stderr), done.stderr
    assert re.search(r"1 +1  cublasCreate_v2\n", done.stderr), done.stderr


def test_a_pipelined_failure_surfaces(run: Run) -> None:
    done = run(
        BLAS
        + """
version = c_int()
assert gemm(-1, byref(one), byref(one)) == 0, "it has not been told yet"
assert blas.cublasGetVersion_v2(handle, byref(version)) == 13, "told at the next call that waits"
assert blas.cublasGetVersion_v2(handle, byref(version)) == 0 and version.value == 130100
check(cuda.cuCtxSynchronize())
assert gemm(-1, byref(one), byref(one)) == 0
assert cuda.cuCtxSynchronize() == 999, "told by CUDA, where the library is not asked"
assert gemm(2, byref(one), byref(one)) == 0
""",
    )
    assert "cublasSgemm_v2 failed on the GPU host with status 7" in done.stderr


def test_wrong_handles_are_refused(run: Run) -> None:
    run(
        BLAS
        + """
assert blas.cublasDestroy_v2(c_void_p(12345)) == 1
assert blas.cublasDestroy_v2(None) == 1
stale = c_void_p(handle.value)
assert blas.cublasDestroy_v2(handle) == 0
assert gemm(2, byref(one), byref(one)) == 1
assert blas.cublasDestroy_v2(stale) == 1
assert blas.cublasCreate_v2(None) == 1
assert blas.cublasCreate_v2(byref(handle)) == 0
assert handle.value != stale.value
assert gemm(2, byref(one), byref(one)) == 0
check(cuda.cuCtxSynchronize())
""",
    )


def test_what_is_not_there_is_named_once(run: Run) -> None:
    done = run(
        BLAS
        + """
X = Device([1], "d")
for _ in range(2):
    assert blas.cublasDdot_v2(handle, 1, X.address, 1, X.address, 1, X.address) == 15
    assert blas.cublasXtCreate(byref(c_void_p())) == 15
    assert blas.cublasSsyrkx(handle) == 15
blas.cublasGetStatusName.restype = ctypes.c_char_p
assert blas.cublasGetStatusName(15) == b"CUBLAS_STATUS_NOT_SUPPORTED"
cufile = ctypes.CDLL("libcufile.so.0")
assert cufile.cuFileBufRegister(None, 0, 0) == 5001
""",
    )
    assert done.stderr.count("cublasDdot_v2 is not in the GPU host's libcublas.so.13") == 1
    assert done.stderr.count("cublasXtCreate is not supported") == 1


def test_a_library_that_the_host_lacks(run: Run, tmp_path: Path) -> None:
    done = run(
        """
start()
sparse = ctypes.CDLL("libcusparse.so.12")
handle = c_void_p()
for _ in range(2):
    assert sparse.cusparseCreate(byref(handle)) == 1 and not handle.value
""",
        tmp_path,
    )
    told = [line for line in done.stderr.splitlines() if "cannot load libcusparse.so.12" in line]
    assert len(told) == 2, "once by the worker, once by the program"


def test_no_slice_means_not_initialized() -> None:
    program = (
        "import ctypes; blas = ctypes.CDLL('libcublas.so.13'); h = ctypes.c_void_p();"
        "assert blas.cublasCreate_v2(ctypes.byref(h)) == 1"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith(("CARREL_", "LD_"))}
    env["LD_LIBRARY_PATH"] = str(environment.CLIENT_LIB)
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True,
                          timeout=60, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "no GPU" in done.stderr


def test_products_of_cublaslt(run: Run) -> None:
    run(
        BLAS
        + """
lt = ctypes.CDLL("libcublasLt.so.13")
R32F, R64F, COMPUTE_32F = 0, 1, 68
light = c_void_p()
assert lt.cublasLtCreate(byref(light)) == 0
desc, la, lb, lc, preference = (c_void_p() for _ in range(5))
assert lt.cublasLtMatmulDescCreate(byref(desc), COMPUTE_32F, R32F) == 0
for layout, (rows, cols) in ((la, (2, 3)), (lb, (3, 2)), (lc, (2, 2))):
    sizes = c_uint64(rows), c_uint64(cols), c_uint64(rows)
    assert lt.cublasLtMatrixLayoutCreate(byref(layout), R32F, *sizes) == 0
bias = Device([100, 200])
assert lt.cublasLtMatmulDescSetAttribute(desc, 8, byref(bias.address), c_size_t(8)) == 0
seen, written = c_void_p(), c_size_t()
assert lt.cublasLtMatmulDescGetAttribute(desc, 8, byref(seen), c_size_t(8), byref(written)) == 0
assert seen.value == bias.address.value and written.value == 8
assert lt.cublasLtMatmulPreferenceCreate(byref(preference)) == 0
most = byref(c_uint64(1 << 20)), c_size_t(8)
assert lt.cublasLtMatmulPreferenceSetAttribute(preference, 1, *most) == 0
results, found = (c_uint64 * (12 * 3))(), c_int()
assert lt.cublasLtMatmulAlgoGetHeuristic(light, desc, la, lb, lc, lc, preference, 3, results,
                                         byref(found)) == 0
assert found.value == 2 and results[0] == 4711 and results[12] == 4712 and results[8] == 1 << 20
def matmul(light, desc, alpha, beta):
    return lt.cublasLtMatmul(light, desc, byref(alpha), A.address, la, B.address, lb, byref(beta),
                             C.address, lc, C.address, lc, results, None, c_size_t(0), None)
assert matmul(light, desc, one, c_float(0)) == 0
assert C.read() == [106, 208, 103, 204], C.read()
# alpha's type follows the scale type; a cuBLAS handle serves, too
assert lt.cublasLtMatmulDescSetAttribute(desc, 1, byref(c_int(R64F)), c_size_t(4)) == 0
assert matmul(handle, desc, c_double(2), c_double(0)) == 0
assert C.read() == [112, 216, 106, 208], C.read()
# a descriptor in the program's own memory, initialized twice
own = (c_uint64 * 32)()
for scale in (R64F, R32F):
    assert lt.cublasLtMatmulDescInit_internal(own, c_size_t(256), COMPUTE_32F, scale) == 0
assert matmul(light, own, two, c_float(0)) == 0
assert C.read() == [12, 16, 6, 8], C.read()
garbage = (c_uint64 * 32)()
assert matmul(light, garbage, two, c_float(0)) == 7
assert matmul(light, la, two, c_float(0)) == 7, "a layout is no product"
for destroy, what in ((lt.cublasLtMatmulDescDestroy, desc), (lt.cublasLtDestroy, light),
                      (lt.cublasLtMatrixLayoutDestroy, la),
                      (lt.cublasLtMatmulPreferenceDestroy, preference)):
    assert destroy(what) == 0
assert lt.cublasLtMatmulDescDestroy(desc) == 7
check(cuda.cuCtxSynchronize())
""",
    )


def test_descriptors_told_the_same_are_one(run: Run) -> None:
    """What a program makes for each product anew is made once on the GPU's host."""
    run(
        BLAS
        + """
lt = ctypes.CDLL("libcublasLt.so.13")
layouts = [c_void_p() for _ in range(3)]
for layout, (rows, cols) in zip(layouts, ((2, 3), (3, 2), (2, 2))):
    sizes = c_uint64(rows), c_uint64(cols), c_uint64(rows)
    assert lt.cublasLtMatrixLayoutCreate(byref(layout), 0, *sizes) == 0
la, lb, lc = layouts
def new(bias=None):
    desc = c_void_p()
    assert lt.cublasLtMatmulDescCreate(byref(desc), 68, 0) == 0
    return tell(desc, bias)
def tell(desc, bias):
    if bias:
        assert lt.cublasLtMatmulDescSetAttribute(desc, 8, byref(bias.address), c_size_t(8)) == 0
    return desc
def multiply(desc):
    assert lt.cublasLtMatmul(handle, desc, byref(one), A.address, la, B.address, lb,
                             byref(c_float(0)), C.address, lc, C.address, lc, None, None,
                             c_size_t(0), None) == 0
    return C.read()
def destroy(desc):
    assert lt.cublasLtMatmulDescDestroy(desc) == 0
def counts():
    both = c_size_t()
    assert lt.cublasLtHeuristicsCacheGetCapacity(byref(both)) == 0
    return both.value >> 32, both.value & 0xffffffff
plain = [6.0, 8.0, 3.0, 4.0]
low, high = Device([10, 20]), Device([100, 200])
with_low, with_high = [16.0, 28.0, 13.0, 24.0], [106.0, 208.0, 103.0, 204.0]
destroy(new(low))
assert counts() == (0, 0), "never used, never sent"
for bias, result in ((None, plain), (low, with_low), (None, plain), (high, with_high),
                     (low, with_low), (high, with_high)):
    desc = new(bias)
    assert multiply(desc) == result, bias
    destroy(desc)
assert counts() == (3, 0), counts()
# Two at once are two; told something else, one is another.
first, second = new(low), new(low)
assert multiply(first) == multiply(second) == with_low
assert counts() == (4, 0), counts()
assert multiply(tell(first, high)) == with_high
assert multiply(second) == with_low
assert multiply(tell(first, low)) == with_low
assert counts() == (4, 0), counts()
for desc in (first, second):
    destroy(desc)
# Who makes ever different ones does not fill the GPU's host.
for number in range(1100):
    bias = c_uint64((1 << 50) + 8 * number)
    desc = c_void_p()
    assert lt.cublasLtMatmulDescCreate(byref(desc), 68, 0) == 0
    assert lt.cublasLtMatmulDescSetAttribute(desc, 8, byref(bias), c_size_t(8)) == 0
    seen = c_void_p()
    assert lt.cublasLtMatmulDescGetAttribute(desc, 8, byref(seen), c_size_t(8), None) == 0
    assert seen.value == bias.value
    destroy(desc)
made, destroyed = counts()
assert made == 1104 and destroyed > 1000, (made, destroyed)
""",
    )


def test_the_same_question_is_asked_once(run: Run) -> None:
    done = run(
        BLAS
        + """
lt = ctypes.CDLL("libcublasLt.so.13")
def heuristic(bias, workspace, rows=2, transposed=None):
    desc, la, preference = (c_void_p() for _ in range(3))
    assert lt.cublasLtMatmulDescCreate(byref(desc), 68, 0) == 0
    if transposed is not None:
        value = byref(c_int(transposed))
        assert lt.cublasLtMatmulDescSetAttribute(desc, 3, value, c_size_t(4)) == 0
    assert lt.cublasLtMatmulDescSetAttribute(desc, 8, byref(bias), c_size_t(8)) == 0
    size = c_uint64(rows)
    assert lt.cublasLtMatrixLayoutCreate(byref(la), 0, size, size, size) == 0
    assert lt.cublasLtMatmulPreferenceCreate(byref(preference)) == 0
    most = byref(c_uint64(workspace)), c_size_t(8)
    assert lt.cublasLtMatmulPreferenceSetAttribute(preference, 1, *most) == 0
    results, found = (c_uint64 * 12)(), c_int()
    assert lt.cublasLtMatmulAlgoGetHeuristic(handle, desc, la, la, la, la, preference, 1, results,
                                             byref(found)) == 0
    assert found.value == 1 and results[0] == 4711 and results[8] == workspace
    assert lt.cublasLtMatmulDescDestroy(desc) == 0
    assert lt.cublasLtMatrixLayoutDestroy(la) == 0
    assert lt.cublasLtMatmulPreferenceDestroy(preference) == 0
for each in (A, B, C, A):  # as aligned as each other
    heuristic(each.address, 1 << 20)
heuristic(c_void_p(A.address.value + 4), 1 << 20)  # not as aligned
heuristic(A.address, 1 << 21)
heuristic(A.address, 1 << 20, rows=3)
heuristic(A.address, 1 << 20, transposed=1)
heuristic(A.address, 1 << 20)
check(cuda.cuCtxSynchronize())
""",
        CARREL_TRACE="summary",
    )
    assert re.search(r" 9 +5  cublasLtMatmulAlgoGetHeuristic\n", done.stderr), done.stderr


def test_threads_with_their_own_handles(run: Run) -> None:
    run(
        BLAS
        + """
sums = []
def work():
    start()
    mine, result = c_void_p(), c_float()
    assert blas.cublasCreate_v2(byref(mine)) == 0
    for _ in range(50):
        assert blas.cublasSdot_v2(mine, 6, A.address, 1, A.address, 1, byref(result)) == 0
        sums.append(result.value)
    assert blas.cublasDestroy_v2(mine) == 0
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert sums == [91.0] * 200
""",
    )


@pytest.mark.parametrize("name", library.LIBRARIES)
def test_every_import_resolves(name: str) -> None:
    """What PyTorch, JAX and CuPy import is exported, with NVIDIA's symbol version."""
    lib = library.load(name)
    wanted = {n for names in library.imports(name).values() for n in names}
    wanted |= {f.name for f in lib.functions}
    for soname in lib.sonames.values():
        listed = subprocess.run(
            ["nm", "-D", "--defined-only", str(environment.CLIENT_LIB / soname)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        exported = {line.split()[-1] for line in listed.stdout.splitlines()}
        version = {"soname": f"@@{soname}", "none": ""}.get(lib.version, f"@@{lib.version}")
        missing = {n for n in wanted if n + version not in exported}
        assert not missing, f"{soname} lacks {sorted(missing)}"


def test_the_audit_library_redirects_every_library() -> None:
    text = (ROOT / "remote_gpu/native/audit/audit.c").read_text()
    for name in library.LIBRARIES:
        for soname in library.load(name).sonames.values():
            assert f'{{"{soname}", "{soname}"}}' in text, f"{soname} is not redirected"


def test_rules_that_cannot_hold_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The generator takes no description for granted."""
    for name in ("cufft.yaml", "cufft_calls.yaml"):
        (tmp_path / name).write_text((library.API / name).read_text())
    monkeypatch.setattr(library, "API", tmp_path)
    assert library.load("cufft").kinds()["cufftXtExec"] == "async"
    calls = tmp_path / "cufft_calls.yaml"
    good = calls.read_text()
    for rule, complaint in (
        ("{functions: cufftNothing}", "matches no function"),
        ("{functions: cufftXtSetGPUs, parameters: {whichGPUs: sideways}}", "no way to travel"),
        ("{functions: cufftXtMemcpy, parameters: {dstPointer: out}}", "how many bytes"),
    ):
        calls.write_text(good + f"  - {rule}\n")
        with pytest.raises(SystemExit, match=complaint):
            library.load("cufft")
    calls.write_text(
        good + "  - {functions: cufftXtSetGPUs, parameters: {whichGPUs: in 4 * many}}\n"
    )
    broken = library.load("cufft")
    with pytest.raises(SystemExit, match="many"):
        library_cpp.table(broken, [function.shape for function in broken.functions])


def test_descriptions_are_for_what_torch_needs() -> None:
    """The imports are recorded for PyTorch, JAX and CuPy."""
    clients: set[str] = set()
    for path in (ROOT / "remote_gpu/api/imports").glob("*.yaml"):
        clients |= set(yaml.safe_load(path.read_text()))
    assert {client.split()[0] for client in clients} >= {"PyTorch", "JAX", "CuPy"}


def test_nothing_of_the_libraries_needs_libcuda_to_load() -> None:
    """Loading a client library asks for no GPU: `import torch` does that everywhere."""
    for soname in ("libcublas.so.13", "libcupti.so.13", "libnvshmem_host.so.3"):
        ctypes.CDLL(str(environment.CLIENT_LIB / soname))
    with open("/proc/self/maps", encoding="ascii") as maps:
        assert str(environment.CLIENT_LIB / "libcuda.so.1") not in maps.read()
