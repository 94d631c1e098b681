"""The environment of a slice."""

from __future__ import annotations

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


def test_base_is_not_changed() -> None:
    base = {"PATH": "/bin"}
    slice_environment("a:1", "l", KEY, None, base)
    assert base == {"PATH": "/bin"}


def test_before_the_native_parts_are_built(audit: Path) -> None:
    audit.unlink()
    with pytest.raises(FileNotFoundError, match="make build"):
        slice_environment("a:1", "l", KEY, None, {})
