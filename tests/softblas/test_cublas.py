"""The software GPU's cuBLAS against numpy in double precision."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from ctypes import byref, c_double, c_float, c_int, c_int64, c_longlong, c_void_p
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.softblas.library import (
    COMPUTE_16F,
    COMPUTE_32F,
    COMPUTE_32I,
    COMPUTE_64F,
    DEVICE,
    DTYPES,
    EXECUTION_FAILED,
    HOST,
    ILLEGAL_ADDRESS,
    INVALID_VALUE,
    NOT_INITIALIZED,
    NOT_SUPPORTED,
    R_8I,
    R_16BF,
    R_16F,
    R_32F,
    R_32I,
    R_64F,
    SUCCESS,
    Array,
    C,
    Cublas,
    Gpu,
    N,
    T,
    assert_close,
    operate,
    pointers,
    random,
    scalar,
)

LETTERS = {
    "S": np.dtype(np.float32),
    "D": np.dtype(np.float64),
    "C": np.dtype(np.complex64),
    "Z": np.dtype(np.complex128),
}
each_type = pytest.mark.parametrize("letter", LETTERS)


def double(values: Any) -> Any:
    return values.astype(np.complex128 if values.dtype.kind == "c" else np.float64)


def stored(rng: np.random.Generator, op: int, rows: int, columns: int, ld: int, dtype: Any) -> Any:
    """A matrix to be operated on, within one of ``ld`` rows."""
    shape = (rows, columns) if op == N else (columns, rows)
    whole = random(rng, (max(ld, shape[0]), shape[1]), dtype)
    return whole, whole[: shape[0]]


# --- products ------------------------------------------------------------------------------------


@each_type
@pytest.mark.parametrize("op_a", [N, T, C])
@pytest.mark.parametrize("op_b", [N, T, C])
def test_gemm(blas: Cublas, rng: np.random.Generator, letter: str, op_a: int, op_b: int) -> None:
    dtype, m, n, k = LETTERS[letter], 5, 7, 3
    a_whole, a = stored(rng, op_a, m, k, 8, dtype)
    b_whole, b = stored(rng, op_b, k, n, 9, dtype)
    c = random(rng, (6, n), dtype)
    alpha, beta = 0.5 + 0.25j, -2 + 1j
    on_gpu = [Array(blas.gpu, x) for x in (a_whole, b_whole, c)]
    for suffix in ("", "_64"):
        result = Array(blas.gpu, c)
        status = blas.call(
            f"cublas{letter}gemm_v2{suffix}",
            c_int(op_a), c_int(op_b), m, n, k, scalar(alpha, dtype), on_gpu[0], len(a_whole),
            on_gpu[1], len(b_whole), scalar(beta, dtype), result, 6,
        )  # fmt: skip
        assert status == SUCCESS
        if dtype.kind != "c":
            alpha, beta = complex(alpha.real), complex(beta.real)
        want = double(c)
        product = operate(op_a, double(a)) @ operate(op_b, double(b))
        scaled = alpha * product + beta * want[:m]
        want[:m] = scaled if dtype.kind == "c" else scaled.real
        assert_close(result.read(), want, slack=4)


TYPES = [
    (COMPUTE_32F, R_32F, R_16F, R_16F),
    (COMPUTE_32F, R_32F, R_16F, R_32F),
    (COMPUTE_32F, R_32F, R_16BF, R_16BF),
    (COMPUTE_32F, R_32F, R_16BF, R_32F),
    (COMPUTE_32F, R_32F, R_32F, R_32F),
    (COMPUTE_32F, R_32F, R_8I, R_32F),
    (COMPUTE_16F, R_16F, R_16F, R_16F),
    (COMPUTE_64F, R_64F, R_64F, R_64F),
    (COMPUTE_32I, R_32I, R_8I, R_32I),
    (77, R_32F, R_32F, R_32F),  # TF32 allowed
]


@settings(max_examples=60, deadline=None)
@given(
    types=st.sampled_from(TYPES),
    ops=st.tuples(st.sampled_from([N, T]), st.sampled_from([N, T])),
    shape=st.tuples(*[st.integers(0, 40)] * 3),
    scales=st.sampled_from([(1, 0), (1, 1), (2, -1), (0, 2)]),
    on_device=st.booleans(),
    batch=st.integers(1, 3),
)
def test_gemm_strided_batched_ex(
    types: tuple[int, ...],
    ops: tuple[int, int],
    shape: tuple[int, int, int],
    scales: tuple[int, int],
    on_device: bool,
    batch: int,
) -> None:
    compute, scale, in_type, out_type = types
    m, n, k = shape
    rng = np.random.default_rng(m * 1681 + n * 41 + k)
    gpu = Gpu()
    blas = Cublas(gpu)
    a = [random(rng, (m, k) if ops[0] == N else (k, m), DTYPES[in_type]) for _ in range(batch)]
    b = [random(rng, (k, n) if ops[1] == N else (n, k), DTYPES[in_type]) for _ in range(batch)]
    c = [random(rng, (m, n), DTYPES[out_type]) for _ in range(batch)]

    def together(matrices: list[Any]) -> Array:
        return Array(gpu, np.concatenate([x.ravel(order="F") for x in matrices]))

    alpha, beta = (scalar(complex(s), DTYPES[scale]) for s in scales)
    factors: list[Any] = [alpha, beta]
    if on_device:
        blas.pointer_mode(DEVICE)
        factors = [Array(gpu, np.frombuffer(f.raw, DTYPES[scale])) for f in factors]
    arrays = [together(a), together(b), together(c)]
    status = blas.call(
        "cublasGemmStridedBatchedEx",
        ops[0], ops[1], m, n, k, factors[0],
        arrays[0], in_type, max(1, len(a[0])), c_longlong(m * k),
        arrays[1], in_type, max(1, len(b[0])), c_longlong(k * n), factors[1],
        arrays[2], out_type, max(1, m), c_longlong(m * n), batch, compute, -1,
    )  # fmt: skip
    assert status == SUCCESS
    got = arrays[2].read().reshape(batch, -1)
    for i in range(batch):
        product = operate(ops[0], double(a[i])) @ operate(ops[1], double(b[i]))
        want = scales[0] * product + scales[1] * double(c[i])
        assert_close(got[i], want.ravel(order="F"), slack=4)
    blas.close()
    del arrays, factors
    gpu.close()


@each_type
def test_gemm_of_arrays_of_matrices(blas: Cublas, rng: np.random.Generator, letter: str) -> None:
    dtype = LETTERS[letter]
    a = [random(rng, (4, 3), dtype) for _ in range(3)]
    b = [random(rng, (3, 2), dtype) for _ in range(3)]
    on_a, on_b = ([Array(blas.gpu, x) for x in xs] for xs in (a, b))
    on_c = [Array(blas.gpu, np.full((4, 2), np.nan, dtype)) for _ in range(3)]  # beta 0: not read
    lists = [pointers(blas.gpu, x) for x in (on_a, on_b, on_c)]
    status = blas.call(
        f"cublas{letter}gemmBatched", N, N, 4, 2, 3, scalar(1 + 0j, dtype), lists[0], 4, lists[1],
        3, scalar(0j, dtype), lists[2], 4, 3,
    )  # fmt: skip
    assert status == SUCCESS
    for i in range(3):
        assert_close(on_c[i].read(), double(a[i]) @ double(b[i]))


def test_large_gemm_takes_every_block(blas: Cublas, rng: np.random.Generator) -> None:
    a, b = random(rng, (300, 200), LETTERS["S"]), random(rng, (200, 150), LETTERS["S"])
    on_a, on_b, c = (Array(blas.gpu, x) for x in (a, b, np.zeros((300, 150), np.float32)))
    one, zero = scalar(1 + 0j, LETTERS["S"]), scalar(0j, LETTERS["S"])
    blas.call("cublasSgemm_v2", N, N, 300, 150, 200, one, on_a, 300, on_b, 200, zero, c, 300)
    assert_close(c.read(), double(a) @ double(b), slack=10)


def test_half_rounds_once(blas: Cublas) -> None:
    """Sums are kept in single precision: 2048 + 1 + 1 is 2050 in half, but only if so."""
    a, b = np.array([[2048, 1, 1]], np.float16), np.ones((3, 1), np.float16)
    on_a, on_b, c = (Array(blas.gpu, x) for x in (a, b, np.zeros((1, 1), np.float16)))
    one, zero = scalar(1 + 0j, LETTERS["S"]), scalar(0j, LETTERS["S"])
    assert blas.call("cublasGemmEx", N, N, 1, 1, 3, one, on_a, R_16F, 1, on_b, R_16F, 3, zero, c,
                     R_16F, 1, COMPUTE_32F, -1) == SUCCESS  # fmt: skip
    assert c.read()[0, 0] == 2050


def test_conversions_agree_with_numpy(blas: Cublas) -> None:
    """Every half and many singles: through geam-like products with one."""
    singles = np.concatenate(
        [
            np.arange(0, 2**16, dtype=np.uint16).view(np.float16).astype(np.float32),
            np.random.default_rng(1).integers(0, 2**32, 20000, np.uint32).view(np.float32),
        ]
    )
    singles = singles[np.isfinite(singles)]
    singles = singles[np.abs(singles) < 1e38]
    one, zero = scalar(1 + 0j, LETTERS["S"]), scalar(0j, LETTERS["S"])
    for code, dtype in ((R_16F, np.float16), (R_16BF, ml_dtypes.bfloat16)):
        with np.errstate(over="ignore"):
            narrow = singles.astype(dtype)
        a = Array(blas.gpu, narrow.reshape(-1, 1))
        b = Array(blas.gpu, np.ones((1, 1), dtype))
        wide = Array(blas.gpu, np.zeros((len(singles), 1), np.float32))
        back = Array(blas.gpu, np.zeros((len(singles), 1), dtype))
        for c, c_type in ((wide, R_32F), (back, code)):
            assert blas.call("cublasGemmEx", N, N, len(singles), 1, 1, one, a, code, len(singles),
                             b, code, 1, zero, c, c_type, len(singles), COMPUTE_32F,
                             -1) == SUCCESS  # fmt: skip
        np.testing.assert_array_equal(wide.read()[:, 0], narrow.astype(np.float32))
        np.testing.assert_array_equal(
            back.read()[:, 0].astype(np.float32), narrow.astype(np.float32)
        )


# --- the rest ------------------------------------------------------------------------------------


@each_type
@pytest.mark.parametrize("op", [N, T, C])
def test_gemv_and_ger(blas: Cublas, rng: np.random.Generator, letter: str, op: int) -> None:
    dtype = LETTERS[letter]
    a = random(rng, (5, 4), dtype)
    rows, columns = (5, 4) if op == N else (4, 5)
    x, y = random(rng, (columns,), dtype), random(rng, (2 * rows,), dtype)
    on_a, on_x, on_y = (Array(blas.gpu, v) for v in (a, x, y))
    assert blas.call(f"cublas{letter}gemv_v2", op, 5, 4, scalar(2 + 0j, dtype), on_a, 5, on_x, -1,
                     scalar(3 + 0j, dtype), on_y, 2) == SUCCESS  # fmt: skip
    want = double(y)
    want[::2] = 2 * operate(op, double(a)) @ double(x)[::-1] + 3 * want[::2]
    assert_close(on_y.read(), want, slack=4)
    name = {"S": "ger", "D": "ger", "C": "gerc", "Z": "gerc"}[letter]
    u, v = random(rng, (5,), dtype), random(rng, (4,), dtype)
    on_u, on_v = Array(blas.gpu, u), Array(blas.gpu, v)
    assert blas.call(f"cublas{letter}{name}_v2", 5, 4, scalar(2 + 0j, dtype), on_u, 1, on_v, 1,
                     on_a, 5) == SUCCESS  # fmt: skip
    assert_close(on_a.read(), double(a) + 2 * np.outer(double(u), double(v).conj()), slack=4)


@each_type
def test_vectors(blas: Cublas, rng: np.random.Generator, letter: str) -> None:
    dtype = LETTERS[letter]
    real = {"S": c_float, "C": c_float, "D": c_double, "Z": c_double}[letter]()
    prefix = {"S": "S", "D": "D", "C": "Sc", "Z": "Dz"}[letter]
    x, y = random(rng, (50,), dtype), random(rng, (50,), dtype)
    on_x, on_y = Array(blas.gpu, x), Array(blas.gpu, y)
    alpha = scalar(1.5 + 0j, dtype)
    assert blas.call(f"cublas{letter}axpy_v2", 50, alpha, on_x, 1, on_y, 1) == SUCCESS
    assert_close(on_y.read(), 1.5 * double(x) + double(y))
    assert blas.call(f"cublas{letter}scal_v2", 25, alpha, on_y, 2) == SUCCESS
    want = 1.5 * double(x) + double(y)
    want[::2] *= 1.5
    assert_close(on_y.read(), want)
    assert blas.call(f"cublas{prefix}nrm2_v2", 50, on_x, 1, byref(real)) == SUCCESS
    assert real.value == pytest.approx(np.linalg.norm(double(x)), rel=1e-6)
    assert blas.call(f"cublas{prefix}asum_v2", 50, on_x, 1, byref(real)) == SUCCESS
    assert real.value == pytest.approx(np.abs(x.real).sum() + np.abs(x.imag).sum(), rel=1e-5)
    index, wide = c_int(), c_int64()
    sizes = np.abs(x.real) + np.abs(x.imag)
    low = letter.lower()
    assert blas.call(f"cublasI{low}amax_v2", 50, on_x, 1, byref(index)) == SUCCESS
    assert index.value == int(np.argmax(sizes)) + 1
    assert blas.call(f"cublasI{low}amin_v2_64", 50, on_x, 1, byref(wide)) == SUCCESS
    assert wide.value == int(np.argmin(sizes)) + 1
    result = Array(blas.gpu, np.zeros(1, dtype))
    blas.pointer_mode(DEVICE)
    dot = "dotc" if dtype.kind == "c" else "dot"
    assert blas.call(f"cublas{letter}{dot}_v2", 50, on_x, 1, on_x, 1, result) == SUCCESS
    assert_close(result.read(), np.array([np.vdot(double(x), double(x))]))
    blas.pointer_mode(HOST)
    assert blas.call(f"cublas{letter}copy_v2", 50, on_x, 1, on_y, 1) == SUCCESS
    np.testing.assert_array_equal(on_y.read(), x)


def test_nrm2_neither_overflows_nor_vanishes(blas: Cublas) -> None:
    result = c_double()
    for values, want in (([3e200, 4e200], 5e200), ([3e-200, 4e-200], 5e-200), ([0.0, 0.0], 0.0)):
        x = Array(blas.gpu, np.array(values))
        assert blas.call("cublasDnrm2_v2", 2, x, 1, byref(result)) == SUCCESS
        assert result.value == pytest.approx(want, rel=1e-14)
    for odd in (np.nan, np.inf):
        x = Array(blas.gpu, np.array([1.0, odd]))
        assert blas.call("cublasDnrm2_v2", 2, x, 1, byref(result)) == SUCCESS
        np.testing.assert_equal(result.value, odd)


@each_type
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("uplo", [0, 1])
@pytest.mark.parametrize("op", [N, T, C])
@pytest.mark.parametrize("unit", [0, 1])
def test_trsm(
    blas: Cublas, rng: np.random.Generator, letter: str, side: int, uplo: int, op: int, unit: int
) -> None:
    dtype, m, n = LETTERS[letter], 6, 4
    order = m if side == 0 else n
    a = random(rng, (order, order), dtype) + order * np.eye(order, dtype=dtype)
    b = random(rng, (m, n), dtype)
    triangle = np.tril(double(a)) if uplo == 0 else np.triu(double(a))
    if unit:
        np.fill_diagonal(triangle, 1)
    inverse = np.linalg.inv(operate(op, triangle))
    want = 2 * (inverse @ double(b) if side == 0 else double(b) @ inverse)
    on_a, on_b = Array(blas.gpu, a), Array(blas.gpu, b)
    assert blas.call(f"cublas{letter}trsm_v2", side, uplo, op, unit, m, n, scalar(2 + 0j, dtype),
                     on_a, order, on_b, m) == SUCCESS  # fmt: skip
    assert_close(on_b.read(), want, slack=1000 if unit else 20)


@each_type
@pytest.mark.parametrize("op", [N, T, C])
def test_lu_of_many_matrices(blas: Cublas, rng: np.random.Generator, letter: str, op: int) -> None:
    dtype, n, batch = LETTERS[letter], 5, 3
    a = [random(rng, (n, n), dtype) + 2 * np.eye(n, dtype=dtype)[::-1] for _ in range(batch)]
    b = [random(rng, (n, 2), dtype) for _ in range(batch)]
    on_a, on_b = ([Array(blas.gpu, x) for x in xs] for xs in (a, b))
    on_c = [Array(blas.gpu, np.zeros((n, n), dtype)) for _ in range(batch)]
    lists = [pointers(blas.gpu, x) for x in (on_a, on_b, on_c)]
    pivots, info = (Array(blas.gpu, np.zeros(s, np.int32)) for s in (n * batch, batch))
    host_info = c_int(9)
    assert blas.call(f"cublas{letter}getrfBatched", n, lists[0], n, pivots, info, batch) == SUCCESS
    assert blas.call(f"cublas{letter}getrsBatched", op, n, 2, lists[0], n, pivots, lists[1], n,
                     byref(host_info), batch) == SUCCESS  # fmt: skip
    assert blas.call(f"cublas{letter}getriBatched", n, lists[0], n, pivots, lists[2], n, info,
                     batch) == SUCCESS  # fmt: skip
    assert host_info.value == 0
    np.testing.assert_array_equal(info.read(), 0)
    for i in range(batch):
        want = np.linalg.solve(operate(op, double(a[i])), double(b[i]))
        assert_close(on_b[i].read(), want, slack=50)
        assert_close(on_c[i].read(), np.linalg.inv(double(a[i])), slack=50)


def test_singular_matrix_is_told(blas: Cublas) -> None:
    a = Array(blas.gpu, np.array([[1.0, 2.0], [2.0, 4.0]]))
    info, pivots = (Array(blas.gpu, np.zeros(s, np.int32)) for s in (1, 2))
    listed = pointers(blas.gpu, [a])
    assert blas.call("cublasDgetrfBatched", 2, listed, 2, pivots, info, 1) == SUCCESS
    assert info.read()[0] == 2


@each_type
@pytest.mark.parametrize("uplo", [0, 1])
def test_rank_k_updates(blas: Cublas, rng: np.random.Generator, letter: str, uplo: int) -> None:
    dtype = LETTERS[letter]
    a, c = random(rng, (4, 3), dtype), random(rng, (4, 4), dtype)
    keep = np.tril if uplo else np.triu  # the other triangle
    keep_from = -1 if uplo else 1
    names = ["syrk", *(["herk"] if dtype.kind == "c" else [])]
    for name in names:
        on_a, on_c = Array(blas.gpu, a), Array(blas.gpu, c)
        factor = LETTERS["S" if letter in "SC" else "D"] if name == "herk" else dtype
        assert blas.call(f"cublas{letter}{name}_v2", uplo, N, 4, 3, scalar(2 + 0j, factor), on_a, 4,
                         scalar(1 + 0j, factor), on_c, 4) == SUCCESS  # fmt: skip
        other = double(a).conj().T if name == "herk" else double(a).T
        whole = 2 * double(a) @ other + double(c)
        if name == "herk":
            np.fill_diagonal(whole, whole.diagonal().real)
        want = keep(double(c), keep_from) + (np.triu(whole) if uplo else np.tril(whole))
        assert_close(on_c.read(), want, slack=4)


@each_type
def test_geam_and_dgmm(blas: Cublas, rng: np.random.Generator, letter: str) -> None:
    dtype = LETTERS[letter]
    a, b = random(rng, (4, 3), dtype), random(rng, (3, 4), dtype)
    x = random(rng, (3,), dtype)
    on_a, on_b, on_x = (Array(blas.gpu, v) for v in (a, b, x))
    c = Array(blas.gpu, np.zeros((4, 3), dtype))
    assert blas.call(f"cublas{letter}geam", N, C, 4, 3, scalar(2 + 0j, dtype), on_a, 4,
                     scalar(-1 + 0j, dtype), on_b, 3, c, 4) == SUCCESS  # fmt: skip
    assert_close(c.read(), 2 * double(a) - double(b).conj().T)
    assert blas.call(f"cublas{letter}dgmm", 1, 4, 3, on_a, 4, on_x, 1, c, 4) == SUCCESS
    assert_close(c.read(), double(a) * double(x))


# --- how calls fail, and order -------------------------------------------------------------------


def test_invalid_calls_are_refused(blas: Cublas) -> None:
    a = Array(blas.gpu, np.zeros((4, 4), np.float32))
    one = scalar(1 + 0j, LETTERS["S"])
    gemm = "cublasSgemm_v2"
    assert blas.call(gemm, N, N, -1, 4, 4, one, a, 4, a, 4, one, a, 4) == INVALID_VALUE
    assert blas.call(gemm, N, N, 4, 4, 4, one, a, 3, a, 4, one, a, 4) == INVALID_VALUE
    assert blas.call(gemm, 7, N, 4, 4, 4, one, a, 4, a, 4, one, a, 4) == INVALID_VALUE
    assert blas.call(gemm, N, N, 4, 4, 4, None, a, 4, a, 4, one, a, 4) == INVALID_VALUE
    assert blas.call("cublasGemmEx", N, N, 4, 4, 4, one, a, R_32F, 4, a, R_16F, 4, one, a, R_32F, 4,
                     COMPUTE_32F, -1) == NOT_SUPPORTED  # fmt: skip
    assert blas.call("cublasGemmEx", N, N, 4, 4, 4, one, a, 28, 4, a, 28, 4, one, a, R_32F, 4,
                     COMPUTE_32F, -1) == NOT_SUPPORTED  # fmt: skip
    assert blas.library.cublasSetStream_v2(None, None) == NOT_INITIALIZED


def test_foreign_memory_fails_the_context(gpu: Gpu, capfd: pytest.CaptureFixture[str]) -> None:
    blas = Cublas(gpu)
    host = np.zeros((4, 4), np.float32)
    c = Array(gpu, host)
    one = scalar(1 + 0j, LETTERS["S"])
    outside = c_void_p(host.ctypes.data)
    assert blas.call("cublasSgemm_v2", N, N, 4, 4, 4, one, outside, 4, c, 4, one, c, 4) == SUCCESS
    assert gpu.synchronize() == ILLEGAL_ADDRESS
    assert blas.call("cublasSgemm_v2", N, N, 4, 4, 4, one, c, 4, c, 4, one, c,
                     4) == EXECUTION_FAILED  # fmt: skip
    assert "cublasSgemm_v2: 64 bytes at" in capfd.readouterr().err
    blas.close()


def test_work_keeps_the_order_of_its_stream(gpu: Gpu) -> None:
    blas = Cublas(gpu)
    stream = gpu.stream()
    assert blas.library.cublasSetStream_v2(blas.handle, stream) == SUCCESS
    got = c_void_p()
    assert blas.library.cublasGetStream_v2(blas.handle, byref(got)) == SUCCESS
    assert got.value == stream.value
    x = Array(gpu, np.zeros(4, np.float64))
    one = Array(gpu, np.ones(4, np.float64))
    # x = 2 x + 1, over and over: any other order gives another number
    two, plus = (scalar(v + 0j, LETTERS["D"]) for v in (2, 1))
    for _ in range(30):
        assert blas.call("cublasDscal_v2", 4, two, x, 1) == SUCCESS
        assert blas.call("cublasDaxpy_v2", 4, plus, one, 1, x, 1) == SUCCESS
    assert gpu.cuda.cuStreamSynchronize(stream) == 0
    np.testing.assert_array_equal(x.read(), 2.0**30 - 1)
    blas.close()


def test_state_of_a_handle(blas: Cublas) -> None:
    value = c_int()
    for name, mode in (("PointerMode_v2", 1), ("MathMode", 3), ("AtomicsMode", 1)):
        assert getattr(blas.library, f"cublasSet{name}")(blas.handle, mode) == SUCCESS
        assert getattr(blas.library, f"cublasGet{name}")(blas.handle, byref(value)) == SUCCESS
        assert value.value == mode
    assert blas.library.cublasGetVersion_v2(blas.handle, byref(value)) == SUCCESS
    assert value.value // 10000 == 13
    blas.library.cublasGetStatusName.restype = ctypes.c_char_p
    assert blas.library.cublasGetStatusName(15) == b"CUBLAS_STATUS_NOT_SUPPORTED"


def test_handle_needs_a_context() -> None:
    gpu = Gpu()
    library = Cublas(gpu).library
    gpu.close()
    assert library.cublasCreate_v2(byref(c_void_p())) == NOT_INITIALIZED


def test_products_without_openblas() -> None:
    """The plain product of our own, which says so."""
    code = (
        "import numpy as np\n"
        "from tests.softblas import test_cublas as t\n"
        "from tests.softblas.library import Gpu, Cublas\n"
        "blas = Cublas(Gpu()); rng = np.random.default_rng(3)\n"
        "for letter in t.LETTERS:\n"
        "    for a in (t.N, t.T, t.C):\n"
        "        for b in (t.N, t.T, t.C): t.test_gemm(blas, rng, letter, a, b)\n"
        "t.test_large_gemm_takes_every_block(blas, rng)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "CARREL_OPENBLAS": "/nonexistent"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("run without OpenBLAS") == 1
