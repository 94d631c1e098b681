"""The functions of `math` in double precision, element by element against numpy."""

import math

import numpy as np
from numba import cuda

ONE = {
    "sin": (-10, 10),
    "cos": (-10, 10),
    "tan": (-1.4, 1.4),
    "asin": (-1, 1),
    "acos": (-1, 1),
    "atan": (-10, 10),
    "sinh": (-5, 5),
    "cosh": (-5, 5),
    "tanh": (-5, 5),
    "asinh": (-5, 5),
    "acosh": (1, 10),
    "atanh": (-0.99, 0.99),
    "exp": (-20, 20),
    "expm1": (-2, 2),
    "log": (1e-6, 100),
    "log2": (1e-6, 100),
    "log10": (1e-6, 100),
    "log1p": (-0.9, 10),
    "sqrt": (0, 100),
    "floor": (-10, 10),
    "ceil": (-10, 10),
    "fabs": (-10, 10),
    "erf": (-3, 3),
    "gamma": (0.5, 8),
    "lgamma": (0.5, 20),
}
TWO = ("atan2", "pow", "hypot", "fmod", "copysign")


def one_argument(name: str) -> object:
    function = getattr(math, name)

    @cuda.jit
    def kernel(x, out):
        i = cuda.grid(1)
        if i < x.size:
            out[i] = function(x[i])

    return kernel


def two_arguments(name: str) -> object:
    function = getattr(math, name)

    @cuda.jit
    def kernel(x, y, out):
        i = cuda.grid(1)
        if i < x.size:
            out[i] = function(x[i], y[i])

    return kernel


def main() -> None:
    rng = np.random.default_rng(9)
    n = 257
    for name, (low, high) in ONE.items():
        x = rng.uniform(low, high, n)
        out = np.zeros(n)
        one_argument(name)[3, 128](x, out)
        expected = np.array([getattr(math, name)(v) for v in x])
        np.testing.assert_allclose(out, expected, rtol=1e-13, atol=1e-14, err_msg=name)
    x, y = rng.uniform(0.1, 5, n), rng.uniform(0.1, 5, n)
    for name in TWO:
        out = np.zeros(n)
        two_arguments(name)[3, 128](x, y, out)
        expected = np.array([getattr(math, name)(a, b) for a, b in zip(x, y, strict=True)])
        np.testing.assert_allclose(out, expected, rtol=1e-13, atol=1e-14, err_msg=name)


if __name__ == "__main__":
    main()
