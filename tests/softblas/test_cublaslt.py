"""The software GPU's cuBLASLt against numpy in double precision."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from ctypes import byref, c_int, c_int64, c_size_t, c_uint64, c_void_p
from typing import Any

import numpy as np
import pytest

from tests.softblas.library import (
    COMPUTE_32F,
    COMPUTE_64F,
    DTYPES,
    ILLEGAL_ADDRESS,
    INVALID_VALUE,
    NOT_SUPPORTED,
    R_16BF,
    R_16F,
    R_32F,
    R_64F,
    SUCCESS,
    Array,
    Gpu,
    N,
    T,
    assert_close,
    load,
    operate,
    random,
    scalar,
)

POINTER_MODE, TRANSA, TRANSB, EPILOGUE, BIAS = 2, 3, 4, 7, 8
AUX, AUX_LD, A_SCALE, BIAS_TYPE = 11, 12, 17, 26
ORDER, BATCH, STRIDE = 1, 5, 6
RELU, BIASED, DRELU, BGRAD, GELU, DGELU, WITH_AUX, BGRADA, BGRADB = (
    2, 4, 8, 16, 32, 64, 128, 256, 512,
)  # fmt: skip


class Heuristic(ctypes.Structure):
    _fields_ = (
        ("algo", c_uint64 * 8),
        ("workspace", c_size_t),
        ("state", c_int),
        ("waves", ctypes.c_float),
        ("reserved", c_int * 4),
    )


class Lt:
    """One product's descriptors; ``run`` asks for an algorithm and multiplies with it."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.library = load("softgpu/libcublasLt.so.13")
        self.handle = c_void_p()
        assert self.library.cublasLtCreate(byref(self.handle)) == SUCCESS
        self.made: list[tuple[str, c_void_p]] = []

    def close(self) -> None:
        for kind, made in self.made:
            assert getattr(self.library, f"cublasLt{kind}Destroy")(made) == SUCCESS
        assert self.library.cublasLtDestroy(self.handle) == SUCCESS

    def make(self, kind: str, *arguments: Any) -> c_void_p:
        made = c_void_p()
        assert getattr(self.library, f"cublasLt{kind}Create")(byref(made), *arguments) == SUCCESS
        self.made.append((kind, made))
        return made

    def set(self, kind: str, target: c_void_p, attribute: int, value: Any) -> int:
        function = getattr(self.library, f"cublasLt{kind}SetAttribute")
        return int(function(target, attribute, byref(value), c_size_t(ctypes.sizeof(value))))

    def layout(
        self, code: int, rows: int, columns: int, ld: int, order: int = 0, batch: int = 1
    ) -> c_void_p:
        layout = self.make("MatrixLayout", code, c_uint64(rows), c_uint64(columns), c_int64(ld))
        assert self.set("MatrixLayout", layout, ORDER, c_int(order)) == SUCCESS
        assert self.set("MatrixLayout", layout, BATCH, c_int(batch)) == SUCCESS
        assert self.set("MatrixLayout", layout, STRIDE, c_int64(rows * columns)) == SUCCESS
        return layout

    def description(self, compute: int, scale: int, **attributes: Any) -> c_void_p:
        description = self.make("MatmulDesc", compute, scale)
        for name, value in attributes.items():
            assert self.set("MatmulDesc", description, globals()[name], value) == SUCCESS
        return description

    def heuristic(self, description: c_void_p, layouts: list[c_void_p]) -> tuple[int, Heuristic]:
        preference = self.make("MatmulPreference")
        result, count = Heuristic(), c_int()
        status = self.library.cublasLtMatmulAlgoGetHeuristic(
            self.handle, description, *layouts, preference, 1, byref(result), byref(count)
        )
        assert count.value == (1 if status == SUCCESS else 0)
        return int(status), result

    def run(
        self,
        description: c_void_p,
        alpha: Any,
        a: tuple[Any, c_void_p],
        b: tuple[Any, c_void_p],
        beta: Any,
        c: tuple[Any, c_void_p],
        d: tuple[Any, c_void_p],
    ) -> int:
        status, found = self.heuristic(description, [a[1], b[1], c[1], d[1]])
        assert status == SUCCESS
        assert found.workspace == 0
        return int(
            self.library.cublasLtMatmul(
                self.handle,
                description,
                alpha,
                *_operand(a),
                *_operand(b),
                beta,
                *_operand(c),
                *_operand(d),
                byref(found.algo),
                None,
                c_size_t(0),
                None,
            )
        )


def _operand(pair: tuple[Any, c_void_p]) -> tuple[Any, c_void_p]:
    array, layout = pair
    return (array.pointer if isinstance(array, Array) else array), layout


@pytest.fixture
def lt(gpu: Gpu) -> Iterator[Lt]:
    lt = Lt(gpu)
    yield lt
    lt.close()


TYPES = {
    "single": (COMPUTE_32F, R_32F, R_32F, R_32F),
    "double": (COMPUTE_64F, R_64F, R_64F, R_64F),
    "half": (COMPUTE_32F, R_32F, R_16F, R_16F),
    "bfloat16": (COMPUTE_32F, R_32F, R_16BF, R_16BF),
    "half to single": (COMPUTE_32F, R_32F, R_16F, R_32F),
}
each_type = pytest.mark.parametrize("types", TYPES)
M, COLUMNS, K = 6, 5, 4


def gelu(x: Any) -> Any:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def gelu_slope(x: Any) -> Any:
    return gelu(x + 1e-30j).imag / 1e-30  # exact: no difference of near numbers is taken


class Case:
    """op(A) is M x K, op(B) K x COLUMNS; on the GPU and in double."""

    def __init__(self, lt: Lt, types: str, trans_a: int = N, trans_b: int = N) -> None:
        rng = np.random.default_rng(5)
        self.lt = lt
        self.compute, self.scale, self.in_type, self.out_type = TYPES[types]
        self.trans = trans_a, trans_b
        a = random(rng, (M, K) if trans_a == N else (K, M), DTYPES[self.in_type])
        b = random(rng, (K, COLUMNS) if trans_b == N else (COLUMNS, K), DTYPES[self.in_type])
        self.bias = random(rng, (M,), DTYPES[self.out_type])
        self.a = Array(lt.gpu, a), lt.layout(self.in_type, *a.shape, a.shape[0])
        self.b = Array(lt.gpu, b), lt.layout(self.in_type, *b.shape, b.shape[0])
        self.d_layout = lt.layout(self.out_type, M, COLUMNS, M)
        self.d = Array(lt.gpu, np.zeros((M, COLUMNS), DTYPES[self.out_type])), self.d_layout
        self.in_a = operate(trans_a, a.astype(np.float64))
        self.in_b = operate(trans_b, b.astype(np.float64))
        self.product = self.in_a @ self.in_b

    def run(self, epilogue: int, **attributes: Any) -> Any:
        description = self.lt.description(
            self.compute,
            self.scale,
            TRANSA=c_int(self.trans[0]),
            TRANSB=c_int(self.trans[1]),
            EPILOGUE=c_int(epilogue),
            **attributes,
        )
        one, zero = (scalar(complex(x), DTYPES[self.scale]) for x in (1, 0))
        assert self.lt.run(description, one, self.a, self.b, zero, self.d, self.d) == SUCCESS
        return self.d[0].read()


@each_type
@pytest.mark.parametrize("trans_a", [N, T])
@pytest.mark.parametrize("trans_b", [N, T])
@pytest.mark.parametrize("activation", [0, RELU, GELU])
@pytest.mark.parametrize("biased", [0, BIASED])
def test_forward_epilogues(
    lt: Lt, types: str, trans_a: int, trans_b: int, activation: int, biased: int
) -> None:
    case = Case(lt, types, trans_a, trans_b)
    bias = Array(lt.gpu, case.bias)
    attributes = {"BIAS": c_uint64(bias.address)} if biased else {}
    got = case.run(activation | biased or 1, **attributes)
    want = case.product + (case.bias.astype(np.float64)[:, None] if biased else 0)
    want = np.maximum(want, 0) if activation == RELU else gelu(want) if activation else want
    assert_close(got, want, slack=4)


@each_type
def test_relu_and_its_gradient(lt: Lt, types: str) -> None:
    case = Case(lt, types)
    ld = 128
    bits = Array(lt.gpu, np.zeros(ld * COLUMNS // 8, np.uint8))
    bias = Array(lt.gpu, case.bias)
    aux = {"AUX": c_uint64(bits.address), "AUX_LD": c_int64(ld)}
    got = case.run(RELU | WITH_AUX | BIASED, BIAS=c_uint64(bias.address), **aux)
    before = case.product + case.bias.astype(np.float64)[:, None]
    assert_close(got, np.maximum(before, 0), slack=4)
    mask = np.unpackbits(bits.read(), bitorder="little").reshape(COLUMNS, ld)[:, :M].T
    np.testing.assert_array_equal(mask, before > 0)
    gradient = Array(lt.gpu, np.zeros(M, DTYPES[case.out_type]))
    got = case.run(DRELU | WITH_AUX | BGRAD, BIAS=c_uint64(gradient.address), **aux)
    want = np.where(before > 0, case.product, 0)
    assert_close(got, want, slack=4)
    assert_close(gradient.read(), want.sum(axis=1), slack=8)


@each_type
def test_gelu_and_its_gradient(lt: Lt, types: str) -> None:
    case = Case(lt, types)
    before = Array(lt.gpu, np.zeros((8, COLUMNS), DTYPES[case.out_type]))
    aux = {"AUX": c_uint64(before.address), "AUX_LD": c_int64(8)}
    got = case.run(GELU | WITH_AUX, **aux)
    assert_close(got, gelu(case.product), slack=4)
    kept = before.read()
    assert_close(kept[:M], case.product, slack=4)
    np.testing.assert_array_equal(kept[M:].astype(np.float64), 0)
    gradient = Array(lt.gpu, np.zeros(M, DTYPES[case.out_type]))
    got = case.run(DGELU | WITH_AUX | BGRAD, BIAS=c_uint64(gradient.address), **aux)
    want = case.product * gelu_slope(kept[:M].astype(np.float64))
    assert_close(got, want, slack=8)
    assert_close(gradient.read(), want.sum(axis=1), slack=20)


@each_type
@pytest.mark.parametrize("trans", [N, T])
def test_bias_gradients_of_operands(lt: Lt, types: str, trans: int) -> None:
    case = Case(lt, types, trans, trans)
    for epilogue, length, want in (
        (BGRADA, M, case.in_a.sum(axis=1)),
        (BGRADB, COLUMNS, case.in_b.sum(axis=0)),
    ):
        gradient = Array(lt.gpu, np.zeros(length, DTYPES[case.out_type]))
        got = case.run(epilogue, BIAS=c_uint64(gradient.address))
        assert_close(got, case.product, slack=4)
        assert_close(gradient.read(), want, slack=8)


@pytest.mark.parametrize("orders", [(0, 0, 0), (1, 0, 0), (0, 1, 1), (1, 1, 0), (1, 1, 1)])
@pytest.mark.parametrize("trans", [N, T])
def test_rows_first_and_batches(lt: Lt, orders: tuple[int, int, int], trans: int) -> None:
    rng, batch = np.random.default_rng(2), 3
    a = random(rng, (batch, M, K) if trans == N else (batch, K, M), np.dtype(np.float32))
    b = random(rng, (batch, K, COLUMNS), np.dtype(np.float32))
    c = random(rng, (batch, M, COLUMNS), np.dtype(np.float32))

    def operand(values: Any, order: int) -> tuple[Array, c_void_p]:
        flat = np.concatenate([v.ravel(order="C" if order else "F") for v in values])
        rows, columns = values.shape[1:]
        ld = columns if order else rows
        return Array(lt.gpu, flat), lt.layout(R_32F, rows, columns, ld, order, batch)

    on_d = operand(np.zeros_like(c), orders[2])
    description = lt.description(COMPUTE_32F, R_32F, TRANSA=c_int(trans))
    alpha, beta = (scalar(complex(x), np.dtype(np.float32)) for x in (2, -1))
    assert (
        lt.run(description, alpha, operand(a, orders[0]), operand(b, orders[1]), beta,
               operand(c, 0), on_d) == SUCCESS
    )  # fmt: skip
    got = on_d[0].read().reshape(batch, -1)
    for i in range(batch):
        want = 2 * operate(trans, a[i].astype(np.float64)) @ b[i].astype(np.float64) - c[i]
        assert_close(got[i], want.ravel(order="C" if orders[2] else "F"), slack=4)


def test_scalars_on_the_device(lt: Lt) -> None:
    case = Case(lt, "half")
    description = lt.description(COMPUTE_32F, R_32F, POINTER_MODE=c_int(1))
    three, zero = (Array(lt.gpu, np.array([x], np.float32)) for x in (3, 0))
    assert lt.run(description, three.pointer, case.a, case.b, zero.pointer, case.d,
                  case.d) == SUCCESS  # fmt: skip
    assert_close(case.d[0].read(), 3 * case.product, slack=4)


def test_bias_of_another_type(lt: Lt) -> None:
    case = Case(lt, "half")
    bias = Array(lt.gpu, case.bias.astype(np.float32))
    got = case.run(BIASED, BIAS=c_uint64(bias.address), BIAS_TYPE=c_int(R_32F))
    assert_close(got, case.product + case.bias.astype(np.float64)[:, None], slack=4)


def test_descriptors_keep_what_they_are_told(lt: Lt) -> None:
    opaque = (c_uint64 * 32)()
    assert (
        lt.library.cublasLtMatmulDescInit_internal(opaque, c_size_t(256), COMPUTE_32F, R_32F) == 0
    )
    value, written = c_int(BIASED), c_size_t()
    size = c_size_t(4)
    assert lt.library.cublasLtMatmulDescSetAttribute(opaque, EPILOGUE, byref(value), size) == 0
    got = c_int()
    assert (
        lt.library.cublasLtMatmulDescGetAttribute(
            opaque, EPILOGUE, byref(got), size, byref(written)
        )
        == 0
    )
    assert (got.value, written.value) == (BIASED, 4)
    assert lt.set("MatmulDesc", opaque, EPILOGUE, c_int64(0)) == INVALID_VALUE  # the wrong size
    assert lt.set("MatmulDesc", opaque, 999, c_int(0)) == NOT_SUPPORTED
    small = lt.library.cublasLtMatmulDescInit_internal(opaque, c_size_t(8), COMPUTE_32F, R_32F)
    assert small == INVALID_VALUE


def test_what_is_not_supported_is_said(lt: Lt) -> None:
    case = Case(lt, "single")
    layouts = [case.a[1], case.b[1], case.d[1], case.d[1]]
    for attributes in (
        {"A_SCALE": c_uint64(64)},
        {"EPILOGUE": c_int(RELU | GELU)},
        {"POINTER_MODE": c_int(2)},
    ):
        description = lt.description(COMPUTE_32F, R_32F, **attributes)
        assert lt.heuristic(description, layouts)[0] == NOT_SUPPORTED
    description = lt.description(COMPUTE_64F, R_64F)
    assert lt.heuristic(description, layouts)[0] == NOT_SUPPORTED
    description = lt.description(COMPUTE_32F, R_32F)
    assert lt.heuristic(description, [case.b[1], case.b[1], *layouts[2:]])[0] == INVALID_VALUE
    float8 = c_void_p()
    assert lt.library.cublasLtMatrixLayoutCreate(
        byref(float8), 28, c_uint64(K), c_uint64(COLUMNS), c_int64(K)
    ) == SUCCESS  # fmt: skip
    assert lt.heuristic(description, [float8, *layouts[1:]])[0] == NOT_SUPPORTED
    assert lt.library.cublasLtMatrixLayoutDestroy(float8) == SUCCESS


def test_foreign_bias_fails_the_context(gpu: Gpu, capfd: pytest.CaptureFixture[str]) -> None:
    lt = Lt(gpu)
    case = Case(lt, "single")
    outside = np.zeros(M, np.float32)
    description = lt.description(
        COMPUTE_32F, R_32F, EPILOGUE=c_int(BIASED), BIAS=c_uint64(outside.ctypes.data)
    )
    one, zero = (scalar(complex(x), np.dtype(np.float32)) for x in (1, 0))
    assert lt.run(description, one, case.a, case.b, zero, case.d, case.d) == SUCCESS
    assert gpu.synchronize() == ILLEGAL_ADDRESS
    assert "cublasLtMatmul" in capfd.readouterr().err
    lt.close()
