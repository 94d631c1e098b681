"""The benchmark of whole models (bench.models) runs, counts and compares: in shapes of nothing, on
the null device, and compiled on the software GPU, which computes.

No figure is checked: only that there is one, and what waits.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.torch.test_torch import ROOT, SECONDS, TORCH_PYTHON

pytestmark = pytest.mark.timeout(SECONDS + 30)


def bench(folder: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    """Figures and output of a run of bench.models."""
    output = folder / "figures.json"
    done = subprocess.run(
        [
            sys.executable, "-m", "bench.models", "--tiny", "--rounds", "1", "--round-s", "0.05",
            "--added-ms", "0,2", "--python", str(TORCH_PYTHON), "--logs", str(folder / "logs"),
            "--output", str(output), *arguments,
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    logs = "".join(one.read_text()[-2000:] for one in sorted((folder / "logs").glob("*.log")))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    figures: dict[str, Any] = json.loads(output.read_text())
    return figures, done.stdout


def test_every_model_runs_on_the_null_device(tmp_path: Path) -> None:
    figures, said = bench(tmp_path, "--device", "null")
    rows = {(row["model"], row["task"]): row for row in figures["rows"]}
    assert len(rows) == 24
    for row in rows.values():
        assert row["native_ms"] > 0
        assert set(row["remote_ms"]) == set(row["slowdown_pct"]) == {"0", "2"}
        # 2 ms were added to each of its round trips, and it makes one at least
        assert row["remote_ms"]["2"] > 1.5
        assert row["round_trips"] >= 1
    # a step waits where its program reads the result, and nowhere else
    assert rows["mlp", "train"]["round_trips"] == 1
    assert rows["gcn", "infer"]["waits"] == {"cuMemcpyDtoHAsync_v2": 1.0}
    assert "computes nothing" in said
    assert "never of a GPU" in said
    assert "null device" in figures["device"]["name"]


def test_graphs_run_on_the_null_device(tmp_path: Path) -> None:
    figures, _ = bench(tmp_path, "--device", "null", "--models", "mlp", "--modes", "graph")
    assert [(row["task"], row["round_trips"]) for row in figures["rows"]] == [
        ("infer", 1),
        ("train", 1),
    ]


def test_a_model_that_fails_says_so_and_the_next_one_runs(tmp_path: Path) -> None:
    """Eager kernels are machine code, which a software GPU has none of."""
    output = tmp_path / "figures.json"
    done = subprocess.run(
        [
            sys.executable, "-m", "bench.models", "--device", "software", "--vram", "1GiB",
            "--tiny", "--models", "mlp", "--tasks", "infer", "--modes", "eager,compile",
            "--added-ms", "0", "--rounds", "1", "--python", str(TORCH_PYTHON),
            "--output", str(output),
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == 1
    eager, compiled = json.loads(output.read_text())["rows"]
    assert "only compiled models run" in eager["failed"]
    assert not compiled["failed"]
    assert compiled["remote_ms"]["0"] > 0
    assert compiled["round_trips"] == 1
    assert "never of a GPU" in done.stdout
