"""``python -m bench`` (``make bench``): every benchmark that runs without a GPU.

Each figure is measured beside its own limit (raw TCP on loopback, the same calls waited for) in the
same run, through a private node with a software GPU. Then the network emulator is calibrated and,
where PyTorch is installed (``make torch-wheel``), a few whole models are run on the null device;
for all of them ``python -m bench.models``. Writes ``bench/latest.json``, where figures of a device
stand under its name.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import driver, machine, network
from .models import __main__ as models
from .models import lanes

ROOT = Path(__file__).resolve().parent.parent
CARREL_RUN = Path(sys.executable).with_name("carrel-run")
SOFTGPU = ROOT / "remote_gpu" / "lib" / "libcarrel-softgpu.so"


@dataclass(frozen=True)
class Reach:
    """What a figure has to reach; ``best`` says which direction is good."""

    figure: str
    meaning: str
    best: str  # "low", "high" or "" (reported only)
    bound: float = 0.0

    def verdict(self, value: float) -> str:
        if not self.best:
            return ""
        good = value <= self.bound if self.best == "low" else value >= self.bound
        sign = "≤" if self.best == "low" else "≥"
        return f"{sign} {self.bound:g} {'yes' if good else 'NO'}"


REACHES = (
    Reach("launch_client_us", "client-side cost of an asynchronous launch, µs", "low", 0.5),
    Reach("launch_speedup", "launches pipelined ÷ each waited for", "high", 10),
    Reach("launches_per_s", "launches per second to a null device, pipelined", "high", 1e6),
    Reach("softgpu_launches_per_s", "the same to the software GPU, which runs them", ""),
    Reach("sync_ratio", "cuCtxSynchronize, idle ÷ raw TCP ping-pong", "low", 1.2),
    Reach("sync_us", "cuCtxSynchronize on an idle device, µs", ""),
    Reach("tcp_ping_us", "raw TCP ping-pong, µs", ""),
    Reach("h2d_ratio", "256 MiB to the device ÷ raw TCP stream", "high", 0.6),
    Reach("d2h_ratio", "256 MiB to the host ÷ raw TCP stream", "high", 0.6),
    Reach("h2d_gib_s", "256 MiB to the device, GiB/s", ""),
    Reach("d2h_gib_s", "256 MiB to the host, GiB/s", ""),
    Reach("tcp_send_gib_s", "raw TCP stream, sending, GiB/s", ""),
    Reach("tcp_receive_gib_s", "raw TCP stream, receiving, GiB/s", ""),
    Reach("shm_sync_ratio", "cuCtxSynchronize, shared memory ÷ TCP", "low", 0.3),
    Reach("shm_sync_ratio_1cpu", "the same with everything on one CPU", ""),
    Reach("shm_sync_us", "cuCtxSynchronize over shared memory, µs", ""),
    Reach("shm_h2d_gib_s", "256 MiB to the device over shared memory, GiB/s", ""),
    Reach("shm_d2h_gib_s", "256 MiB to the host over shared memory, GiB/s", ""),
    Reach("alloc_us", "cuMemAlloc of 1 MiB, µs", "low", 5),
    Reach("free_us", "cuMemFree of 1 MiB, µs", ""),
    Reach("softgpu_mips", "software GPU, tiled matmul 512×512, million thread-instr./s", ""),
    Reach("attach_ms", "process start to first CUDA calls answered, ms", ""),
)


def softgpu_mips(size: int = 512) -> float:
    """Million thread-instructions per second of the software GPU itself, no wire between."""
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "libcuda.so.1").symlink_to(SOFTGPU)
        done = subprocess.run(
            ["env", f"LD_LIBRARY_PATH={directory}", "CARREL_SOFTGPU=vram=1GiB",
             sys.executable, "-m", "bench.kernels", str(size)],
            cwd=ROOT, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
    if done.returncode:
        sys.exit(f"bench: matmul failed ({done.returncode})\n{done.stdout}{done.stderr}")
    return float(json.loads(done.stdout.splitlines()[-1])["mips"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "latest.json")
    parser.add_argument("--no-models", action="store_true", help="leave the models out")
    arguments = parser.parse_args()
    prefix = [str(CARREL_RUN), "--software-gpu", "vram=2GiB", "--"]

    print("driver API through a worker on loopback …", file=sys.stderr, flush=True)
    figures = driver.run(prefix)
    nothing = [str(CARREL_RUN), "--null-gpu", "vram=2GiB,timing=none", "--"]
    figures["softgpu_launches_per_s"] = figures["launches_per_s"]
    figures["launches_per_s"] = driver.launches_per_s(nothing)
    print("attaching …", file=sys.stderr, flush=True)
    figures["attach_ms"] = driver.attach_ms(prefix)
    print("software GPU …", file=sys.stderr, flush=True)
    figures["softgpu_mips"] = softgpu_mips()

    result = {"machine": machine.describe(), "figures": figures}
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")  # should the rest fail
    named = result["machine"]
    print(f"{named['cpu']}, {named['cores']} cores, Linux {named['kernel']}, {named['commit']}")
    print(
        "software GPU and null device: figures of the road, never of a GPU. "
        f"Written to {arguments.output}\n"
    )
    for reach in REACHES:
        value = float(figures[reach.figure])
        print(f"{reach.figure:20} {value:12.4g}  {reach.verdict(value):12} {reach.meaning}")

    print()
    result |= {} if arguments.no_models else short_models()
    if "relay" not in result:
        calibration = network.calibrate()
        network.print_table(calibration)
        result["relay"] = [asdict(row) for row in calibration]
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")


def short_models() -> dict[str, Any]:
    """The relay's calibration and a few models on the null device, by its name."""
    python = models.torch_python()
    if python is None:
        print("models: NOT RUN, no PyTorch here (make torch-wheel)")
        return {}
    device = lanes.device("null", "8GiB", "H100", python)
    plan = models.Plan(device, python, models=models.SHORT, rounds=3, round_s=0.3)
    try:
        figures = models.run(plan)
    except lanes.Failed as error:
        print(f"models: NOT RUN, PyTorch of {python} does not start: {error}")
        return {}
    return {"relay": figures.pop("relay"), "models": {figures["device"]["name"]: figures}}


if __name__ == "__main__":
    main()
