"""``make gpu`` on hosts that lack something: a clear line each; and what counts as a failure."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from bench import checks, gpu
from bench.models import __main__ as models
from bench.programs import ROOT


def make_gpu(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """bench/gpu.sh, with only the programs in ``folder`` and the system's."""
    return subprocess.run(
        ["bash", str(ROOT / "bench" / "gpu.sh"), *arguments],
        env={**os.environ, "PATH": f"{folder}:/usr/bin:/bin"},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def fake(folder: Path, name: str, script: str) -> None:
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_no_driver_is_one_line(tmp_path: Path) -> None:
    done = make_gpu(tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("make gpu: no NVIDIA GPU here (nvidia-smi not found)")
    assert len(done.stderr.splitlines()) == 1


def test_a_driver_without_a_gpu_is_one_line(tmp_path: Path) -> None:
    fake(tmp_path, "nvidia-smi", 'echo "No devices were found" >&2; exit 6')
    done = make_gpu(tmp_path)
    assert done.returncode == 1
    assert done.stderr == "make gpu: no NVIDIA GPU here (nvidia-smi lists none)\n"


def test_a_python_without_what_the_build_needs_is_one_line(tmp_path: Path) -> None:
    fake(tmp_path, "nvidia-smi", 'echo "GPU 0: A GPU"')
    fake(tmp_path, "cmake", "exit 1")
    fake(tmp_path, "python3", 'case "$2" in *yaml*) exit 1;; esac')
    done = make_gpu(tmp_path)
    assert done.returncode == 1
    assert done.stderr == "make gpu: python3 lacks yaml: pip install pyyaml nvidia-ml-py\n"


def test_nvidias_tool_is_asked_for_name_driver_and_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(tmp_path, "nvidia-smi", 'echo "NVIDIA H100 80GB HBM3, 570.1, 81559 MiB"')
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert gpu.gpu() == {
        "name": "NVIDIA H100 80GB HBM3", "driver": "570.1", "memory": "81559 MiB",
    }  # fmt: skip


def test_no_compiler_is_a_part_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    way = checks.Way()
    with pytest.raises(checks.NotRun, match="nvcc not found: install the CUDA toolkit"):
        checks.samples(way, way, real=False)
    with pytest.raises(checks.NotRun, match="numba_cuda, numpy, cuda not found: pip install"):
        checks.programs(way, way)
    with pytest.raises(checks.NotRun, match="numba-cuda's tests need"):
        checks.conformance(way, way, sample=True, jobs=1)


def test_a_python_with_pytorch_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CARREL_TORCH_PYTHON", raising=False)
    monkeypatch.setattr("bench.models.lanes.ROOT", tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert models.torch_python() is None
    monkeypatch.setenv("CARREL_TORCH_PYTHON", "/some/python")
    assert models.torch_python() == Path("/some/python")
    assert models.torch_python(Path("/another")) == Path("/another")


def test_what_passes_natively_and_not_remotely_is_a_failure() -> None:
    good, bad = {"passed": True}, {"passed": False}
    result = {
        "programs": {"a": {"native": good, "remote": bad}, "b": {"native": bad, "remote": bad}},
        "samples": {"c": {"native": good, "remote": good}},
        "conformance": {"only_native_passes": ["cudapy/test_x.py::T::test"]},
        "models": {"rows": [{"model": "m", "task": "infer", "mode": "eager", "failed": "no"}]},
    }
    assert gpu.failures(result) == [
        "programs a", "cudapy/test_x.py::T::test", "model m infer eager",
    ]  # fmt: skip


def test_a_program_that_fails_leaves_its_last_words() -> None:
    done = checks.Way(env={"WORD": "gone"}).run(["sh", "-c", 'echo "it is $WORD" >&2; exit 3'])
    assert not done["passed"]
    assert done["error"] == "it is gone\n"
