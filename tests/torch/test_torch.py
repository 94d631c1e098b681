"""Stock PyTorch's CUDA wheel on a software GPU, through carrel-run. Its own lane, for the wheel is
large: ``make test-torch``.

PyTorch's own kernels are machine code, which a software GPU refuses; what computes here is compiled
by torch.compile through Triton to PTX, or a product of cuBLAS.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TORCH_PYTHON = Path(os.environ.get("CARREL_TORCH_PYTHON", ROOT / ".venv-torch" / "bin" / "python"))
SECONDS = 560

pytestmark = pytest.mark.timeout(SECONDS + 30)


def run(program: str, *arguments: str, cache: Path, under: Sequence[str] = (), **env: str) -> str:
    """Runs a program of this folder on a slice, ``under`` another command; all that it printed."""
    assert TORCH_PYTHON.exists(), f"{TORCH_PYTHON} is missing: run make test-torch"
    done = subprocess.run(
        [
            sys.executable, "-m", "remote_gpu.run", "--software-gpu", "vram=1GiB", "--",
            *under, str(TORCH_PYTHON), str(HERE / program), *arguments,
        ],
        env={
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "PYTHONPATH": str(ROOT),
            "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
            "TRITON_CACHE_DIR": str(cache / "triton"),
            **env,
        },
        cwd=cache,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "subject",
    [
        "properties",
        "copies",
        "streams",
        "pinned",
        "allocator",
        "out_of_memory",
        "products",
        "graphs",
    ],
)
def test_device(subject: str, tmp_path: Path) -> None:
    assert f"{subject}: well" in run("device.py", subject, cache=tmp_path)


@pytest.mark.parametrize("model", ["mlp", "transformer"])
def test_training_agrees_with_the_cpu(model: str, tmp_path: Path) -> None:
    """Ten steps of a compiled model; the losses as on the CPU, to 1e-4."""
    assert "10 losses agree" in run("training.py", model, "10", cache=tmp_path)


def test_training_goes_on_when_the_cable_is_pulled(tmp_path: Path) -> None:
    """Two seconds without a connection, in the middle of the loop: the same losses."""
    relay = (sys.executable, "-m", "bench.network", "--cut", "signal:2", "--")
    done = run("training.py", "mlp", "10", "cut", cache=tmp_path, under=relay)
    assert "10 losses agree" in done
    assert "relay: 1 cuts, 2 connections" in done


def test_a_step_waits_only_for_its_loss(tmp_path: Path) -> None:
    """The round trips that ten more steps take: one each, where the program reads the loss."""

    def round_trips(steps: int) -> int:
        done = run("training.py", "mlp", str(steps), cache=tmp_path, CARREL_TRACE="summary")
        (line,) = [line for line in done.splitlines() if line.endswith("  in all")]
        return int(line.split()[2])

    round_trips(2)  # compiles, and measures what it compiles
    assert round_trips(12) - round_trips(2) == 10
