"""Triton's kernels as PTX (triton_ptx/generate.py), launched by the driver API, against numpy."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path

import numpy as np
from cuda.bindings import driver

HERE = Path(__file__).parent / "triton_ptx"
FACTS = json.loads((HERE / "kernels.json").read_text(encoding="utf-8"))
random = np.random.default_rng(7)


def ok(answer):
    """The values of a call's answer, after its status has been checked."""
    status, *values = answer
    assert int(status) == 0, status
    return values[0] if len(values) == 1 else values


class Array:
    """A device copy of a numpy array."""

    def __init__(self, host: np.ndarray):
        self.host = np.ascontiguousarray(host)
        self.pointer = ok(driver.cuMemAlloc(self.host.nbytes))
        ok(driver.cuMemcpyHtoD(self.pointer, self.host.ctypes.data, self.host.nbytes))

    def get(self) -> np.ndarray:
        result = np.empty_like(self.host)
        ok(driver.cuMemcpyDtoH(result.ctypes.data, self.pointer, result.nbytes))
        return result


def launch(name: str, grid: tuple[int, int], *arguments: Array | int | float) -> None:
    facts = FACTS[name]
    module = ok(driver.cuModuleLoadData((HERE / f"{name}.ptx").read_bytes()))
    function = ok(driver.cuModuleGetFunction(module, facts["kernel"].encode()))
    values: list[int | float] = []
    types: list[type] = []
    for each in arguments:
        values.append(int(each.pointer) if isinstance(each, Array) else each)
        is_float = isinstance(each, float)
        types.append(
            ctypes.c_void_p
            if isinstance(each, Array)
            else (ctypes.c_float if is_float else ctypes.c_int)
        )
    # Triton adds scratch memory that these kernels do not use.
    while int(driver.cuFuncGetParamInfo(function, len(values))[0]) == 0:
        values.append(0)
        types.append(ctypes.c_void_p)
    ok(
        driver.cuLaunchKernel(
            function,
            *grid,
            1,
            facts["threads"],
            1,
            1,
            facts["shared"],
            0,
            (tuple(values), tuple(types)),
            0,
        )
    )
    ok(driver.cuCtxSynchronize())
    ok(driver.cuModuleUnload(module))


def to_bf16(values: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def close(got: np.ndarray, want: np.ndarray, tolerance: float) -> None:
    got, want = (np.asarray(each, np.float64) for each in (got, want))
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


def vector_add() -> None:
    x, y = random.random((2, 5000), np.float32)
    out = Array(np.zeros_like(x))
    launch("vector_add", (5, 1), Array(x), Array(y), out, x.size)
    assert (out.get() == x + y).all()


def softmax() -> None:
    x = random.normal(size=(37, 784)).astype(np.float32)
    out = Array(np.zeros_like(x))
    launch("softmax", (8, 1), out, Array(x), *x.shape)
    power = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    close(out.get(), power / power.sum(axis=1, keepdims=True), 1e-6)


def matmul(name: str, type_: type, tolerance: float) -> None:
    m, n, k = 100, 96, 112
    a, b = random.normal(size=(m, k)).astype(type_), random.normal(size=(k, n)).astype(type_)
    c = Array(np.zeros((m, n), type_))
    launch(name, (2, 2), Array(a), Array(b), c, m, n, k)
    close(c.get(), a.astype(np.float64) @ b.astype(np.float64), tolerance)


def layer_norm() -> None:
    x = random.normal(2, 0.5, (9, 1152)).astype(np.float16)
    weight, bias = random.random((2, 1152)).astype(np.float16)
    out = Array(np.zeros_like(x))
    launch("layer_norm", (9, 1), Array(x), out, Array(weight), Array(bias), 1152, 1e-5)
    exact = x.astype(np.float64)
    spread = np.sqrt(exact.var(axis=1, keepdims=True) + 1e-5)
    want = (exact - exact.mean(axis=1, keepdims=True)) / spread * weight + bias
    close(out.get(), want, 5e-3)


def locked_sum() -> None:
    x = random.integers(0, 100, (24, 400)).astype(np.float32)
    out, lock = Array(np.zeros(400, np.float32)), Array(np.zeros(1, np.int32))
    launch("locked_sum", (24, 1), Array(x), out, lock, 400)
    assert (out.get() == x.sum(axis=0)).all()
    assert lock.get()[0] == 0


def attention() -> None:
    n, depth = 128, 64
    q, k, v = (to_bf16(random.normal(size=(n, depth))) for _ in range(3))
    out = Array(np.zeros_like(q))
    launch("attention_bf16", (2, 1), Array(q), Array(k), Array(v), out, 0.125, n)
    scores = from_bf16(q).astype(np.float64) @ from_bf16(k).T * 0.125
    power = np.exp(scores - scores.max(axis=1, keepdims=True))
    want = power / power.sum(axis=1, keepdims=True) @ from_bf16(v)
    close(from_bf16(out.get()), want, 2e-2)


def dropout() -> None:
    x = np.ones(4000, np.float32)
    out = Array(np.zeros_like(x))
    launch("dropout", (4, 1), Array(x), out, x.size, 0.25, 123)
    kept = out.get() != 0
    close(out.get()[kept], np.full(kept.sum(), 1 / 0.75), 1e-6)
    assert 0.72 < kept.mean() < 0.78


def main() -> None:
    ok(driver.cuInit(0))
    device = ok(driver.cuDeviceGet(0))
    ok(driver.cuCtxSetCurrent(ok(driver.cuDevicePrimaryCtxRetain(device))))
    vector_add()
    softmax()
    matmul("matmul_fp16", np.float16, 2e-2)
    matmul("matmul_tf32", np.float32, 6e-2)
    layer_norm()
    locked_sum()
    attention()
    dropout()
    ok(driver.cuDevicePrimaryCtxRelease(device))


if __name__ == "__main__":
    main()
