"""Whole PyTorch models, remote beside the same device natively, with round trips added.

Every step ends with the program reading its result: the loss of a training step, the answer of an
inference. All lanes take turns in one run; a figure is the median of its steps. The remote device
is on this machine; +0 is TCP on loopback, the others go through a relay (``bench.network``),
calibrated first. Needs PyTorch (``make torch-wheel``, or any Python that has it).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import machine, network

from . import lanes, report
from .measure import Row, Setting, measure

#: Names of the zoo, which only PyTorch's Python can read; those without a loss have no training.
INFERENCE_ONLY = ("llama_prefill", "llama_decode")
MODELS = (
    "resnet50", "bert", "bart", "llama", *INFERENCE_ONLY, "gcn", "gin", "edgecnn", "unet", "albert",
    "whisper", "mlp",
)  # fmt: skip
TASKS = ("infer", "train")
MODES = ("eager", "compile", "graph")
#: What a short run takes: one of each kind.
SHORT = ("bert", "llama_decode", "gcn", "mlp")


def torch_python(given: Path | None = None) -> Path | None:
    """The Python that has PyTorch: as given, CARREL_TORCH_PYTHON's, .venv-torch's, or this one."""
    if given:
        return given
    if named := os.environ.get("CARREL_TORCH_PYTHON"):
        return Path(named)
    made = lanes.ROOT / ".venv-torch" / "bin" / "python"
    if made.exists():
        return made
    from importlib.util import find_spec

    return Path(sys.executable) if find_spec("torch") else None


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    device: lanes.Device
    python: Path
    models: Sequence[str] = MODELS
    tasks: Sequence[str] = TASKS
    modes: Sequence[str] = ("eager",)
    added_ms: Sequence[float] = (0.0, *network.ADDED_MS)
    tiny: bool = False
    rounds: int = 5
    round_s: float = 0.5
    logs: Path | None = None


def run(plan: Plan) -> dict[str, Any]:
    """Measures, printing as it goes; returns all figures. A model that fails has a row of its own.

    Raises:
        lanes.Failed: no model can run: PyTorch does not start, or sees no GPU.
    """
    aims = [aim for aim in plan.added_ms if aim > 0]
    calibration = network.calibrate((0.0, *aims))
    network.print_table(calibration)
    told = {row.aim_ms: row.set_ms for row in calibration}
    columns = [f"{aim:g}" for aim in plan.added_ms]

    with tempfile.TemporaryDirectory(prefix="carrel-models-") as scratch:
        logs = plan.logs or Path(scratch)
        logs.mkdir(parents=True, exist_ok=True)

        def lane(
            prefix: Sequence[str], name: str, *, relayed: bool = False, trace: bool = False
        ) -> lanes.Lane:
            return lanes.Lane(
                prefix, plan.python, relayed=relayed, trace=trace,
                log=logs / f"{name}.log", caches=Path(scratch),
            )  # fmt: skip

        device = plan.device
        native = None if device.native is None else lane(device.native, "native")
        # Counting costs a little: the lane nearest to the native one does it only if it must.
        direct = lane(device.remote, "remote", trace=not aims)
        relayed = lane(device.remote, "relayed", relayed=True, trace=True) if aims else direct
        settings = [
            Setting(f"{aim:g}", relayed, told[aim]) if aim else Setting("0", direct)
            for aim in plan.added_ms
        ]
        all_lanes = [one for one in (native, direct, relayed) if one]
        try:
            found = (native or direct).ask("device", 300.0)
            print(
                f"\n{found['name']}, PyTorch {found['torch']}"
                + (f": {device.says}" * bool(device.says))
            )
            report.print_heading(columns)
            known, rows = report.published(), []
            for model in plan.models:
                for task in plan.tasks:
                    if task == "train" and model in INFERENCE_ONLY:
                        continue
                    for mode in plan.modes:
                        row = measure(
                            model, task, mode, native=native, settings=settings, traced=relayed,
                            tiny=plan.tiny, compiled_only=device.compiled_only,
                            rounds=plan.rounds, round_s=plan.round_s,
                        )  # fmt: skip
                        report.print_row(row, columns, known)
                        rows.append(row)
        finally:
            for one in all_lanes:
                one.close()
    report.print_summary(rows, columns)
    return {
        "device": found,
        "says": device.says,
        "tiny": plan.tiny,
        "relay": [asdict(row) for row in calibration],
        "rows": [_rounded(row) for row in rows],
    }


def _rounded(row: Row) -> dict[str, Any]:
    def short(value: Any) -> Any:
        if isinstance(value, float):
            return round(value, 4)
        return {k: short(v) for k, v in value.items()} if isinstance(value, dict) else value

    return {name: short(value) for name, value in asdict(row).items()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say what to measure."""

    def names(known: Sequence[str]) -> Any:
        def parse(text: str) -> list[str]:
            chosen = text.split(",")
            for one in chosen:
                if one not in known:
                    raise argparse.ArgumentTypeError(f"{one} is none of {', '.join(known)}")
            return chosen

        return parse

    parser.add_argument("--models", type=names(MODELS), default=list(MODELS), metavar="A,B",
                        help=f"which of {', '.join(MODELS)}")  # fmt: skip
    parser.add_argument("--tasks", type=names(TASKS), default=list(TASKS), metavar="A,B")
    parser.add_argument("--modes", type=names(MODES), default=["eager"], metavar="A,B",
                        help="eager (the default), compile (torch.compile), graph (CUDA graphs)"
                        )  # fmt: skip
    parser.add_argument("--added-ms", default="0,0.3,1", metavar="A,B",
                        type=lambda text: [float(one) for one in text.split(",")],
                        help="round trips to add, ms (default: 0,0.3,1)")  # fmt: skip
    parser.add_argument(
        "--tiny", action="store_true", help="shapes of nothing: does it run at all?"
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each lane")
    parser.add_argument("--round-s", type=float, default=0.5, help="about how long a turn is, s")
    parser.add_argument("--logs", type=Path, help="a folder for what the programs print")
    parser.add_argument("--python", type=Path, help="a Python that has PyTorch")


def plan_from(arguments: argparse.Namespace, device: lanes.Device, python: Path) -> Plan:
    return Plan(
        device, python, arguments.models, arguments.tasks, arguments.modes, arguments.added_ms,
        arguments.tiny, arguments.rounds, arguments.round_s, arguments.logs,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.models", description=__doc__)
    parser.add_argument("--device", choices=("gpu", "null", "software"), default="null",
                        help="gpu: NVIDIA's driver, natively and behind Carrel; null (the default) "
                        "computes nothing; software runs compiled models only")  # fmt: skip
    parser.add_argument("--vram", default="8GiB", help="of a device that is not real")
    parser.add_argument("--model", default="H100", help="which GPU the null device stands for")
    parser.add_argument("--output", type=Path, help="write all figures there (JSON)")
    add_arguments(parser)
    arguments = parser.parse_args()
    python = torch_python(arguments.python)
    if python is None:
        sys.exit(
            "bench.models: no PyTorch here; run make torch-wheel, or name a Python with --python"
        )
    device = lanes.device(arguments.device, arguments.vram, arguments.model, python)
    try:
        result = {"machine": machine.describe(), **run(plan_from(arguments, device, python))}
    except lanes.Failed as error:
        sys.exit(f"bench.models: {error}")
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(1 if any(row["failed"] for row in result["rows"]) else 0)


if __name__ == "__main__":
    main()
