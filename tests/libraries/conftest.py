"""Plain libraries for the GPU host, and programs that run on a slice with them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SOURCES = {
    "plain_cublas.c": "libcublas.so.13",
    "plain_cublaslt.c": "libcublasLt.so.13",
    "plain_cudnn.c": "libcudnn.so.9",
    "plain_cufft.c": "libcufft.so.12",
    "plain_cusolver.c": "libcusolver.so.12",
    "plain_cusparse.c": "libcusparse.so.12",
    "plain_cusparselt.c": "libcusparseLt.so.0",
}

PRELUDE = """
import ctypes, threading
from array import array
from ctypes import byref, c_double, c_float, c_int, c_longlong, c_size_t, c_uint64, c_void_p
from gpu import Device, check, cuda, start
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plain libraries."""
    folder = tmp_path_factory.mktemp("libraries")
    for source, name in SOURCES.items():
        subprocess.run(
            ["cc", "-std=gnu11", "-O1", "-shared", "-fPIC", "-Wall", "-Werror",
             "-Wl,-soname," + name, "-o", str(folder / name), str(HERE / source), "-lm"],
            check=True,
        )  # fmt: skip
    return folder


@pytest.fixture
def run(folder: Path) -> Run:
    """Runs a program on a slice whose GPU host has the plain libraries, or those of a folder."""

    def go(program: str, libraries: Path = folder, **env: str) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("CARREL_")}
        done = subprocess.run(
            [sys.executable, "-m", "remote_gpu.run", "--software-gpu", "vram=256MiB", "--",
             sys.executable, "-c", PRELUDE + program],
            env=clean
            | {"PYTHONPATH": f"{ROOT}:{HERE}", "CARREL_LIBRARY_PATH": str(libraries)}
            | env,
            capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done

    return go
