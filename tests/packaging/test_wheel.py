"""The wheel, installed into an empty virtual environment, runs a CUDA program on a slice."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# The driver API by ctypes: needs nothing but the wheel.
PROGRAM = """
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
def check(result):
    assert result == 0, result
check(cuda.cuInit(0))
context, memory = ctypes.c_void_p(), ctypes.c_uint64()
check(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0))
check(cuda.cuCtxSetCurrent(context))
check(cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(1 << 20)))
sent = bytes(range(256)) * 4096
received = ctypes.create_string_buffer(len(sent))
check(cuda.cuMemcpyHtoD_v2(memory, sent, ctypes.c_size_t(len(sent))))
check(cuda.cuMemcpyDtoH_v2(received, memory, ctypes.c_size_t(len(sent))))
assert received.raw == sent
print("moved", len(sent), "bytes")
"""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=540
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.timeout(600)
def test_wheel_in_an_empty_environment(tmp_path: Path) -> None:
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation",
        "-w", tmp_path, ROOT, cwd=ROOT)  # fmt: skip
    [wheel] = tmp_path.glob("carrel-*-py3-none-linux_x86_64.whl")

    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", wheel, cwd=tmp_path)

    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    carrel_run = python.with_name("carrel-run")
    out = run(carrel_run, "--software-gpu", "vram=64MiB", "--", python, program, cwd=tmp_path)
    assert out.strip() == f"moved {1 << 20} bytes"

    for script in ("carrel-broker", "carrel-agent", "carrel-demo", "carrel-smi"):
        assert "options" in run(python.with_name(script), "--help", cwd=tmp_path).lower()
