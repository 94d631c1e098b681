"""What is particular to a library: cuDNN's graphs, cuFFT's plans, cuSPARSELt's objects."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

Run = Callable[..., subprocess.CompletedProcess[str]]

DNN = """
dnn = ctypes.CDLL("libcudnn.so.9")
start()
handle = c_void_p()
assert dnn.cudnnCreate(byref(handle)) == 0
HANDLE, INT64, VOID_PTR, DESCRIPTOR = 0, 3, 6, 15
"""


def test_a_graph_of_cudnn(run: Run) -> None:
    done = run(
        DNN
        + """
def make(kind):
    made = c_void_p()
    assert dnn.cudnnBackendCreateDescriptor(kind, byref(made)) == 0
    return made
def put(where, kind, *values):
    data = (c_uint64 * len(values))(*values)
    return dnn.cudnnBackendSetAttribute(where, 1, kind, c_longlong(len(values)), data)
tensor, plan, pack = make(17), make(5), make(16)
assert put(tensor, INT64, 3, 4, 5) == 0
assert dnn.cudnnBackendFinalize(tensor) == 0
count, numbers = c_longlong(), (c_longlong * 2)()
assert dnn.cudnnBackendGetAttribute(tensor, 1, INT64, c_longlong(2), byref(count), numbers) == 0
assert count.value == 3 and list(numbers) == [3, 4]
assert dnn.cudnnBackendFinalize(plan) == 3000, "a plan of nothing is not supported, told at once"
assert put(plan, DESCRIPTOR, tensor.value) == 0
assert put(plan, HANDLE, handle.value) == 0
assert dnn.cudnnBackendFinalize(plan) == 0
# a descriptor that the program made is filled
other = make(3)
into = (c_void_p * 1)(other)
assert dnn.cudnnBackendGetAttribute(plan, 1, DESCRIPTOR, c_longlong(1), None, into) == 0
assert dnn.cudnnBackendGetAttribute(other, 1, INT64, c_longlong(0), byref(count), None) == 0
X = Device([1, 2, 3])
stack = c_double.from_buffer(bytearray(8))  # of the host, passed by value: a float and what follows
by_value = c_float.from_buffer(stack)
for by_value.value in (0.5, 1.5):
    assert put(pack, VOID_PTR, X.address.value, ctypes.addressof(by_value)) == 0
    assert dnn.cudnnBackendFinalize(pack) == 0
    assert dnn.cudnnBackendExecute(handle, plan, pack) == 0
    by_value.value = 99
assert X.read() == [3, 4, 5], X.read()
assert put(plan, DESCRIPTOR, 12345) == 2000, "no descriptor"
for each in (tensor, plan, pack, other):
    assert dnn.cudnnBackendDestroyDescriptor(each) == 0
assert dnn.cudnnBackendExecute(handle, plan, pack) == 2000
message = ctypes.create_string_buffer(40)
dnn.cudnnGetLastErrorString(message, c_size_t(40))
assert message.value == b"nothing is wrong"
dnn.cudnnGetVersion.restype = c_size_t
assert dnn.cudnnGetVersion() == 92800
assert dnn.cudnnDestroy(handle) == 0
check(cuda.cuCtxSynchronize())
""",
        CARREL_TRACE="summary",
    )
    assert " 2            0  cudnnBackendExecute" in done.stderr, done.stderr


def test_scalars_of_cudnn_follow_the_data(run: Run) -> None:
    run(
        DNN
        + """
tensor = c_void_p()
assert dnn.cudnnCreateTensorDescriptor(byref(tensor)) == 0
for kind, code, scalar in ((0, "f", c_float(2)), (1, "d", c_double(3))):
    sizes, strides = (c_int * 2)(2, 2), (c_int * 2)(2, 1)
    assert dnn.cudnnSetTensorNdDescriptor(tensor, kind, 2, sizes, strides) == 0
    X = Device([1, 2, 3, 4], code)
    assert dnn.cudnnScaleTensor(handle, tensor, X.address, byref(scalar)) == 0
    assert X.read() == [v * scalar.value for v in (1, 2, 3, 4)]
got, dims, sizes, strides = c_int(), c_int(), (c_int * 4)(), (c_int * 4)()
assert dnn.cudnnGetTensorNdDescriptor(tensor, 4, byref(got), byref(dims), sizes, strides) == 0
assert (got.value, dims.value, list(sizes)) == (1, 2, [2, 2, 0, 0])
""",
    )


def test_labels_on_the_host(run: Run) -> None:
    run(
        DNN
        + """
tensor, loss = c_void_p(), c_void_p()
assert dnn.cudnnCreateTensorDescriptor(byref(tensor)) == 0
assert dnn.cudnnCreateCTCLossDescriptor(byref(loss)) == 0
dims = (c_int * 3)(5, 2, 4)  # time, batch, classes
assert dnn.cudnnSetTensorNdDescriptor(tensor, 0, 3, dims, (c_int * 3)(8, 4, 1)) == 0
costs = Device([0, 0])
assert dnn.cudnnCTCLoss(handle, tensor, costs.address, (c_int * 3)(1, 2, 3), (c_int * 2)(1, 2),
                        (c_int * 2)(5, 4), costs.address, tensor, costs.address, 0, loss, None,
                        c_size_t(0)) == 0
assert costs.read() == [5001, 4005]
""",
    )


def test_plans_of_cufft_are_numbers(run: Run) -> None:
    run(
        """
fft = ctypes.CDLL("libcufft.so.12")
start()
plans = [c_int(), c_int()]
C32 = 4
for plan, n in zip(plans, (4, 2)):
    assert fft.cufftCreate(byref(plan)) == 0
    assert fft.cufftSetAutoAllocation(plan, 0) == 0
    size = c_size_t()
    def make(length):
        one = c_longlong(1)
        return fft.cufftXtMakePlanMany(plan, 1, (c_longlong * 1)(length), None, one, one, C32, None,
                                       one, one, C32, one, byref(size), C32)
    assert make(0) == 8
    assert make(n) == 0 and size.value == 8 * n
X, Y = Device([1, 0, 2, 0, 3, 0, 4, 0]), Device([0] * 8)
assert fft.cufftSetWorkArea(plans[0], Y.address) == 0
assert fft.cufftXtSetWorkArea(plans[0], (c_void_p * 1)(Y.address.value)) == 0
stream = c_void_p()
check(cuda.cuStreamCreate(byref(stream), 0))
assert fft.cufftSetStream(plans[0], stream) == 0
assert fft.cufftXtExec(plans[0], X.address, Y.address, -1) == 0
check(cuda.cuStreamSynchronize(stream))
assert [round(v, 5) for v in Y.read()] == [10, 0, -2, 2, -2, 0, -2, -2], Y.read()
assert fft.cufftXtExec(plans[1], X.address, Y.address, -1) == 0
assert [round(v, 5) for v in Y.read()[:4]] == [3, 0, -1, 0], Y.read()
assert fft.cufftDestroy(plans[1]) == 0
assert fft.cufftDestroy(plans[1]) == 1
assert fft.cufftXtExec(c_int(0), X.address, Y.address, -1) == 1
check(cuda.cuCtxSynchronize())
""",
    )


def test_objects_of_cusparselt_stay_where_they_are(run: Run) -> None:
    run(
        """
lt = ctypes.CDLL("libcusparseLt.so.0")
start()
handle, matrix, product, choice, plan = ((c_uint64 * 64)() for _ in range(5))
assert lt.cusparseLtInit(handle) == 0
rows = c_longlong(8)
assert lt.cusparseLtDenseDescriptorInit(handle, matrix, c_longlong(3), rows, rows, 16, 0, 1) == 3
assert lt.cusparseLtDenseDescriptorInit(handle, matrix, rows, rows, rows, 16, 0, 1) == 0
four = [matrix] * 4
assert lt.cusparseLtMatmulDescriptorInit(handle, product, 0, 0, *four, 0) == 0
bias, out = Device([42]), Device([0, 0, 0])
address = byref(bias.address)
assert lt.cusparseLtMatmulDescSetAttribute(handle, product, 1, address, c_size_t(8)) == 0
assert lt.cusparseLtMatmulAlgSelectionInit(handle, choice, product, 0) == 0
assert lt.cusparseLtMatmulPlanInit(handle, plan, product, choice) == 0
stream, alpha, beta = c_void_p(), c_float(0.5), c_float(0)
check(cuda.cuStreamCreate(byref(stream), 0))
assert lt.cusparseLtMatmul(handle, plan, byref(alpha), out.address, out.address, byref(beta),
                           out.address, out.address, None, byref(stream), 1) == 0
assert out.read() == [2.5, 11, 42], out.read()
never = (c_uint64 * 64)()
assert lt.cusparseLtMatmulPlanDestroy(never) == 3
assert lt.cusparseLtMatmulPlanDestroy(matrix) == 3, "a matrix is no plan"
assert lt.cusparseLtMatmulPlanDestroy(plan) == 0
assert lt.cusparseLtMatDescriptorDestroy(matrix) == 0
assert lt.cusparseLtDestroy(handle) == 0
check(cuda.cuCtxSynchronize())
""",
    )


def test_attention_of_cudnn(run: Run) -> None:
    run(
        DNN
        + """
data, attention = c_void_p(), c_void_p()
assert dnn.cudnnCreateSeqDataDescriptor(byref(data)) == 0
assert dnn.cudnnCreateAttnDescriptor(byref(attention)) == 0
dims, axes, lengths = (c_int * 4)(5, 2, 1, 8), (c_int * 4)(0, 1, 2, 3), (c_int * 2)(5, 4)
for kind, padding in ((0, c_float(1.5)), (1, c_double(2.5))):
    assert dnn.cudnnSetSeqDataDescriptor(data, kind, 4, dims, axes, c_size_t(2), lengths,
                                         byref(padding)) == 0
    got, count, found, seen = c_int(), c_int(), c_size_t(), (c_int * 2)()
    room = (type(padding) * 2)(9, 9)
    assert dnn.cudnnGetSeqDataDescriptor(data, byref(got), byref(count), 4, (c_int * 4)(),
                                         (c_int * 4)(), byref(found), c_size_t(2), seen, room) == 0
    assert (got.value, count.value, found.value, list(seen)) == (kind, 4, 2, [5, 4])
    assert list(room) == [padding.value, 9], "as wide as the data's type, and no wider"
ones = (1,) * 7
assert dnn.cudnnSetAttnDescriptor(attention, 0, 1, c_double(0.25), 0, 0, 0, None, None, *ones,
                                  3, 3, 1, 1) == 0
out, zero = Device([0, 0, 0]), c_size_t(0)
assert dnn.cudnnMultiHeadAttnForward(
    handle, attention, -1, (c_int * 3)(0, 1, 2), (c_int * 3)(3, 3, 9), None, None, data, None, None,
    data, None, data, None, data, out.address, zero, None, zero, None, zero, None) == 0
assert out.read() == [3, 2, 7], out.read()
""",
    )


def test_a_description_of_cusparse_serves_cusolver(run: Run) -> None:
    run(
        """
sparse, solver = ctypes.CDLL("libcusparse.so.12"), ctypes.CDLL("libcusolver.so.12")
start()
description, handle, dense = c_void_p(), c_void_p(), c_void_p()
assert solver.cusolverSpCreate(byref(handle)) == 0
assert solver.cusolverDnCreate(byref(dense)) == 0
assert sparse.cusparseCreateMatDescr(byref(description)) == 0
assert sparse.cusparseSetMatType(description, 2) == 0
values, b, x = Device([2, 4], "d"), Device([6, 4], "d"), Device([0, 0], "d")
rows, columns, singular = Device([0, 1, 2], "i"), Device([0, 1], "i"), c_int(7)
def solve(description):
    return solver.cusolverSpDcsrlsvqr(handle, 2, 2, description, values.address, rows.address,
                                      columns.address, b.address, c_double(0), 0, x.address,
                                      byref(singular))
assert solve(description) == 0
assert x.read() == [5, 3] and singular.value == -1
assert solve(handle) == 3, "a handle of cuSOLVER is no description"
there, found = (c_double * 2)(8, 0), (c_double * 2)()
assert solver.cusolverSpDcsrlsvqrHost(
    handle, 2, 2, description, there, (c_int * 3)(0, 1, 2), (c_int * 2)(0, 1), (c_double * 2)(4, 1),
    c_double(0), 0, found, byref(singular)) == 0
assert found[0] == 2.5 and singular.value == 1
params, iterations = c_void_p(), c_int()
assert solver.cusolverDnIRSParamsCreate(byref(params)) == 0
assert solver.cusolverDnIRSParamsSetTol(params, c_double(0.5)) == 0
assert solver.cusolverDnIRSParamsSetMaxIters(params, 12) == 0
assert solver.cusolverDnIRSParamsGetMaxIters(params, byref(iterations)) == 0
assert iterations.value == 12
for kind, code, limit in ((0, "f", c_float), (1, "d", c_double)):
    A, info, count = Device([1, 2, 3], code), Device([9], "i"), c_longlong()
    one, n, size = c_longlong(1), c_longlong(3), c_size_t(8)
    assert solver.cusolverDnXsyevdx(
        dense, None, 0, 1, 0, n, kind, A.address, n, byref(limit(1)), byref(limit(3)), one, n,
        byref(count), kind, A.address, kind, None, c_size_t(0), ctypes.create_string_buffer(8),
        size, info.address) == 0
    assert count.value == 2 and info.read() == [0]
assert solver.cusolverSpDestroy(handle) == 0
assert sparse.cusparseDestroyMatDescr(description) == 0
assert solve(description) == 3
check(cuda.cuCtxSynchronize())
""",
    )


def test_groups_of_matrices(run: Run) -> None:
    run(
        """
blas = ctypes.CDLL("libcublas.so.13")
start()
handle = c_void_p()
assert blas.cublasCreate_v2(byref(handle)) == 0
C = Device([0] * 3)
at = Device([C.address.value, C.address.value + 4, C.address.value + 8], "Q")
two = c_int * 2
assert blas.cublasSgemmGroupedBatched(
    handle, two(0, 0), two(0, 0), two(10, 20), two(1, 2), two(1, 1), (c_float * 2)(1, 2),
    at.address, two(1, 1), at.address, two(1, 1), (c_float * 2)(3, 4), at.address, two(1, 1), 2,
    two(1, 2)) == 0
assert C.read() == [13, 48, 48], C.read()
assert blas.cublasDestroy_v2(handle) == 0
""",
    )
