"""The environment of a slice."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from remote_gpu import environment
from remote_gpu.environment import slice_environment, without_slice

KEY = "ab" * 32


@pytest.fixture(autouse=True)
def audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "libcarrel-audit.so"
    path.touch()
    monkeypatch.setattr(environment, "AUDIT_LIBRARY", path)
    monkeypatch.setattr(sys, "executable", "/venv/bin/python")
    return path


def test_what_is_set(audit: Path) -> None:
    env = slice_environment("gpu:7480", "lease-1", KEY, "a.ipynb", {"PATH": "/bin", "HOME": "/h"})
    assert env == {
        "HOME": "/h",
        "PATH": f"{environment.SLICE_BIN}:/bin:/venv/bin",  # where carrel-smi is
        "CARREL_ENDPOINT": "gpu:7480",
        "CARREL_LEASE": "lease-1",
        "CARREL_LEASE_KEY": KEY,
        "CARREL_SESSION_NAME": "a.ipynb",
        "LD_AUDIT": str(audit),
        "NVCC_APPEND_FLAGS": "-cudart shared",
        "TRITON_LIBCUDA_PATH": str(environment.CLIENT_LIB),
        "CUPY_ACCELERATORS": "",
    }
    assert (environment.SLICE_BIN / "nvidia-smi").exists()


def test_a_slice_within_a_slice_replaces_it(audit: Path) -> None:
    base = {"PATH": "/bin:/venv/bin", "LD_AUDIT": "/opt/other.so"}
    outer = slice_environment("a:1", "outer", KEY, "name", base)
    inner = slice_environment("b:2", "inner", KEY, None, outer)
    assert inner["LD_AUDIT"] == f"{audit}:/opt/other.so"
    assert inner["PATH"] == f"{environment.SLICE_BIN}:/bin:/venv/bin"
    assert (inner["CARREL_LEASE"], inner["CARREL_ENDPOINT"]) == ("inner", "b:2")
    assert "CARREL_SESSION_NAME" not in inner
    assert without_slice(inner) == base


def test_what_a_software_gpu_needs_besides() -> None:
    env = slice_environment("a:1", "l", KEY, base={"PATH": "/bin"}, software=True)
    assert env["CARREL_SOFTWARE_GPU"] == "1"  # for the kernels of a server
    assert env["CUPY_COMPILE_WITH_PTX"] == "1"
    assert env["TRITON_PTXAS_PATH"] == str(environment.SLICE_BIN / "carrel-copy-ptx")
    hardware = slice_environment("a:1", "l", KEY, base=env)
    for variable in ("CARREL_SOFTWARE_GPU", "CUPY_COMPILE_WITH_PTX", "TRITON_PTXAS_PATH"):
        assert variable not in hardware


def test_the_users_own_settings_stay() -> None:
    own = {
        "PATH": "/bin:/venv/bin",
        "NVCC_APPEND_FLAGS": "-lineinfo",
        "TRITON_PTXAS_PATH": "/opt/ptxas",
        "CUPY_ACCELERATORS": "cutensor",
    }
    env = slice_environment("a:1", "l", KEY, base=own, software=True)
    assert env["NVCC_APPEND_FLAGS"] == "-lineinfo -cudart shared"
    assert env["TRITON_PTXAS_PATH"] == "/opt/ptxas"
    assert env["CUPY_ACCELERATORS"] == "cutensor"
    assert without_slice(env) == own
    static = slice_environment("a:1", "l", KEY, base={"NVCC_APPEND_FLAGS": "--cudart=static"})
    assert static["NVCC_APPEND_FLAGS"] == "--cudart=static"


def test_ptx_is_handed_on(tmp_path: Path) -> None:
    copier = str(environment.SLICE_BIN / "carrel-copy-ptx")
    source, output = tmp_path / "kernel.ptx", tmp_path / "kernel.cubin"
    source.write_text(".version 8.0")
    # as Triton calls ptxas
    options = ["-lineinfo", "-v", "--gpu-name=sm_80", str(source), "-o", str(output)]
    subprocess.run([copier, *options], check=True)
    assert output.read_text() == ".version 8.0"
    version = subprocess.run([copier, "--version"], check=True, capture_output=True, text=True)
    assert re.search(r"release (\d+\.\d+)", version.stdout)
    wrong = subprocess.run([copier, "--bogus"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "usage" in wrong.stderr


def test_base_is_not_changed() -> None:
    base = {"PATH": "/bin"}
    slice_environment("a:1", "l", KEY, None, base)
    assert base == {"PATH": "/bin"}


def test_before_the_native_parts_are_built(audit: Path) -> None:
    audit.unlink()
    with pytest.raises(FileNotFoundError, match="make build"):
        slice_environment("a:1", "l", KEY, None, {})
