"""``make gpu``: on a host with an NVIDIA GPU, everything that must be seen on one, native beside
remote.

Needs no network. Runs the numba and nvcc programs and numba-cuda's own tests natively and through a
worker on the real driver, then measures both in turns: the driver benchmark (small launches,
copies), and whole PyTorch models with round trips of 0, 0.3 and 1 ms added. Writes
``bench/results/<gpu>.json``, after each part, with GPU, driver and versions named. A part whose
tools are missing is named and left out.

``--device null`` rehearses it without a GPU: the software GPU stands in where results are checked,
the null device where models are timed. Its figures say nothing of a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from . import checks, driver, machine
from .models import __main__ as model_bench
from .models import lanes

ROOT = Path(__file__).resolve().parent.parent
LIB = ROOT / "remote_gpu" / "lib"
PARTS = ("programs", "samples", "conformance", "driver", "models")
SOFTWARE_GPU = "vram=4GiB"


def gpu() -> dict[str, str]:
    """Name, driver and memory of the first GPU, from NVIDIA's own tool."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    except FileNotFoundError:
        sys.exit("make gpu: no NVIDIA GPU here (nvidia-smi not found)")
    if done.returncode or not done.stdout.strip():
        said = (done.stdout + done.stderr).strip()
        sys.exit(f"make gpu: no NVIDIA GPU here (nvidia-smi says: {said})")
    name, driver_version, memory = (one.strip() for one in done.stdout.splitlines()[0].split(","))
    return {"name": name, "driver": driver_version, "memory": memory}


def versions() -> dict[str, str]:
    """Of the packages that the checks use, as far as they are here."""
    found = {}
    for package in ("numba-cuda", "numba", "cuda-bindings", "triton", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def ways(real: bool, folder: Path) -> tuple[checks.Way, checks.Way]:
    """Natively, and through Carrel; the software GPU stands in for a real one."""
    if real:
        return checks.Way(), checks.Way([*lanes.CARREL_RUN, "--"])
    (folder / "libcuda.so.1").symlink_to(LIB / "libcarrel-softgpu.so")
    (folder / "libcudart.so.13").symlink_to(LIB / "client" / "libcudart.so.13")
    native = {"LD_LIBRARY_PATH": str(folder), "CARREL_SOFTGPU": SOFTWARE_GPU}
    return checks.Way([], native), checks.Way(
        [*lanes.CARREL_RUN, "--software-gpu", SOFTWARE_GPU, "--"]
    )


def compare_driver(native: checks.Way, remote: checks.Way) -> dict[str, Any]:
    """The driver benchmark both ways, in one run."""
    figures = {}
    for name, way in (("native", native), ("remote", remote)):
        prefix = [*way.prefix]
        if way.env:
            prefix = ["env", *(f"{key}={value}" for key, value in way.env.items()), *prefix]
        figures[name] = driver.run(prefix)
        figures[name]["attach_ms"] = driver.attach_ms(prefix)
    print(f"{'figure':24} {'native':>12} {'remote':>12}")
    for figure in sorted(set(figures["native"]) & set(figures["remote"])):
        if figure in ("device", "driver_version"):
            continue
        print(
            f"{figure:24} {float(figures['native'][figure]):12.4g} "
            f"{float(figures['remote'][figure]):12.4g}",
            flush=True,
        )
    return figures


def compare_models(arguments: argparse.Namespace, real: bool) -> dict[str, Any]:
    python = model_bench.torch_python(arguments.python)
    if python is None:
        raise checks.NotRun(
            "PyTorch not found: install its CUDA wheel, or name a Python that has it with "
            "--python or CARREL_TORCH_PYTHON"
        )
    device = lanes.device("gpu" if real else "null", arguments.vram, arguments.model, python)
    try:
        return model_bench.run(model_bench.plan_from(arguments, device, python))
    except lanes.Failed as error:
        raise checks.NotRun(f"PyTorch of {python} does not start: {error}") from None


def failures(result: dict[str, Any]) -> list[str]:
    """What passes natively and not remotely, by name; models that failed."""
    failed = [
        f"{part} {name}"
        for part in ("programs", "samples")
        for name, pair in result.get(part, {}).items()
        if pair["native"]["passed"] and not pair["remote"]["passed"]
    ]
    failed += result.get("conformance", {}).get("only_native_passes", [])
    failed += [
        f"model {row['model']} {row['task']} {row['mode']}"
        for row in result.get("models", {}).get("rows", [])
        if row["failed"]
    ]
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--device", choices=("gpu", "null"), default="gpu")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"which of {', '.join(PARTS)}")
    parser.add_argument("--sample", action="store_true", help="150 of numba-cuda's tests, not all")
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1),
                        help="test processes at a time")  # fmt: skip
    parser.add_argument("--vram", default="8GiB", help="of the null device")
    parser.add_argument("--model", default="H100", help="which GPU the null device stands for")
    parser.add_argument("--output", type=Path, default=None)
    model_bench.add_arguments(parser)
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--parts: {', '.join(sorted(unknown))} is none of {', '.join(PARTS)}")

    real = arguments.device == "gpu"
    device = gpu() if real else {"name": "no GPU: software GPU and null device", "driver": "Carrel"}
    print(f"{device['name']}, driver {device['driver']}", flush=True)
    slug = re.sub(r"[^a-z0-9]+", "-", device["name"].lower()).strip("-") if real else "rehearsal"
    output = arguments.output or ROOT / "bench" / "results" / f"{slug}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "machine": machine.describe(), "gpu": device, "versions": versions(), "not_run": {},
    }  # fmt: skip

    with tempfile.TemporaryDirectory(prefix="carrel-gpu-") as folder:
        native, remote = ways(real, Path(folder))
        todo: dict[str, Callable[[], dict[str, Any]]] = {
            "programs": lambda: checks.programs(native, remote),
            "samples": lambda: checks.samples(native, remote, real=real),
            "conformance": lambda: checks.conformance(
                native, remote, sample=arguments.sample, jobs=arguments.jobs
            ),
            "driver": lambda: compare_driver(native, remote),
            "models": lambda: compare_models(arguments, real),
        }
        for part in (one for one in PARTS if one in parts):
            print(f"\n== {part}", flush=True)
            try:
                result[part] = todo[part]()
            except checks.NotRun as error:
                result["not_run"][part] = str(error)
                print(f"NOT RUN: {error}", flush=True)
            output.write_text(json.dumps(result, indent=2) + "\n")  # should the rest fail

    failed = failures(result)
    print(f"\nwritten to {output}")
    for part, why in result["not_run"].items():
        print(f"NOT RUN: {part}: {why.splitlines()[0]}")
    for name in failed:
        print(f"FAILED remotely: {name}")
    if not failed:
        print("all that ran is right remotely, as far as it is natively")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
