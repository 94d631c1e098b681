from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.softblas.library import Cublas, Gpu


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    """A context of this test's own: a test may fail it for good."""
    gpu = Gpu()
    yield gpu
    gpu.close()


@pytest.fixture
def blas(gpu: Gpu) -> Iterator[Cublas]:
    blas = Cublas(gpu)
    yield blas
    blas.close()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)
