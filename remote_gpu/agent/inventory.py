"""The GPUs of this node: NVIDIA's through NVML, or software GPUs from configuration."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import environment
from . import readings
from .tflops import dense_fp16_tflops

#: Compute of a software GPU: a nominal figure to lease by, no measurement.
SOFTWARE_TFLOPS = 20.0


class NoGpu(Exception):
    """This node has no usable GPU; ``str()`` says what to do."""


@dataclass(frozen=True)
class Gpu:
    """One device. ``index`` is its ordinal for the driver at ``driver``."""

    index: int
    uuid: str
    pci_bus_id: str
    model: str
    vram_mib: int
    tflops: float
    software: bool
    compute_capability: str
    multiprocessors: int
    driver: Path
    driver_version: str
    cuda_version: int
    libraries: Path | None = None  # a folder in which its workers find CUDA's libraries
    computes: bool = True  # a null device does not

    @property
    def needs_ptx(self) -> bool:
        """Whether programs must hand over PTX, because machine code does not run there."""
        return self.software and self.computes


def software_setting(count: int, vram: str, state: Path | None, extra: str = "") -> str:
    """The value of ``CARREL_SOFTGPU`` for ``count`` software GPUs of ``vram`` ("8GiB") each."""
    parts = [f"count={count}", f"vram={vram}"]
    if extra:
        parts.append(extra)
    if state:
        parts.append(f"state={state}")
    return ",".join(parts)


def software_gpus(setting: str, tflops: float | None = None) -> list[Gpu]:
    """The software GPUs (null devices among them) that ``setting`` (``CARREL_SOFTGPU``) describes.

    Raises:
        NoGpu: the library is missing or refuses the setting.
    """
    from .. import __version__

    computes = not re.search(r"(^|,)\s*null\s*=\s*1\s*(,|$)", setting)
    try:
        found = _probe(environment.SOFTWARE_DRIVER, {"CARREL_SOFTGPU": setting})
    except NoGpu as error:
        if wrong := re.search(r"CARREL_SOFTGPU: (.+ is not allowed; .+)", str(error)):
            raise NoGpu(
                f"software GPU: {wrong[1]}; an example of a whole setting is vram=8GiB,cc=8.0"
            ) from None
        raise
    return [
        Gpu(
            index=device["index"],
            uuid=device["uuid"],
            pci_bus_id=device["pci_bus_id"],
            model=device["name"],
            vram_mib=device["vram_bytes"] >> 20,
            tflops=tflops or SOFTWARE_TFLOPS,
            software=True,
            compute_capability=device["compute_capability"],
            multiprocessors=device["multiprocessors"],
            driver=environment.SOFTWARE_DRIVER,
            driver_version=__version__,
            cuda_version=device["cuda_version"],
            libraries=environment.SOFTWARE_LIBRARIES if computes else environment.NULL_LIBRARIES,
            computes=computes,
        )
        for device in found
    ]


def nvidia_gpus(driver: Path = Path("libcuda.so.1"), tflops: float | None = None) -> list[Gpu]:
    """NVIDIA's GPUs: memory and driver version from NVML where there is one, the rest from the
    driver.

    Raises:
        NoGpu: there is no NVIDIA driver here, or it shows no GPU.
    """
    try:
        devices = _probe(driver, {})
    except NoGpu as error:
        raise NoGpu(
            f"no NVIDIA GPU found on this host ({error}). Use software GPUs: "
            "carrel-run --software-gpu vram=8GiB, carrel-agent --software-gpus=2"
        ) from None
    version, models = "", {}
    with _nvml() as nvml:
        if nvml is not None:
            version = nvml.nvmlSystemGetDriverVersion()
            for index in range(nvml.nvmlDeviceGetCount()):
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                name, memory = nvml.nvmlDeviceGetName(handle), nvml.nvmlDeviceGetMemoryInfo(handle)
                models[nvml.nvmlDeviceGetUUID(handle)] = (name, memory.total)
    gpus = []
    for device in devices:
        name, total = models.get(device["uuid"], (device["name"], device["vram_bytes"]))
        compute = tflops or dense_fp16_tflops(name, device["multiprocessors"], device["clock_mhz"])
        gpus.append(
            Gpu(
                index=device["index"],
                uuid=device["uuid"],
                pci_bus_id=device["pci_bus_id"],
                model=name,
                vram_mib=int(total) >> 20,
                tflops=compute,
                software=False,
                compute_capability=device["compute_capability"],
                multiprocessors=device["multiprocessors"],
                driver=driver,
                driver_version=version,
                cuda_version=device["cuda_version"],
            )
        )
    if not gpus:
        raise NoGpu("the NVIDIA driver shows no GPU; CUDA_VISIBLE_DEVICES may hide them")
    return gpus


def measured_use() -> dict[str, tuple[int, float]]:
    """Used MiB and utilisation (percent) of each NVIDIA GPU, by uuid; empty without NVML."""
    use: dict[str, tuple[int, float]] = {}
    with _nvml() as nvml:
        if nvml is None:
            return use
        for index in range(nvml.nvmlDeviceGetCount()):
            with contextlib.suppress(nvml.NVMLError):
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                memory = nvml.nvmlDeviceGetMemoryInfo(handle)
                rates = nvml.nvmlDeviceGetUtilizationRates(handle)
                uuid = nvml.nvmlDeviceGetUUID(handle)
                use[uuid] = (int(memory.used) >> 20, float(rates.gpu))
    return use


def nvml_readings() -> dict[str, dict[str, str]]:
    """What the host's NVML says of each NVIDIA GPU (see :mod:`readings`), by uuid."""
    found: dict[str, dict[str, str]] = {}
    with _nvml() as nvml:
        if nvml is None:
            return found
        for index in range(nvml.nvmlDeviceGetCount()):
            with contextlib.suppress(nvml.NVMLError):
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                found[nvml.nvmlDeviceGetUUID(handle)] = readings.take(nvml, handle)
    return found


@contextlib.contextmanager
def _nvml() -> Iterator[Any]:
    """pynvml, initialised, or None where there is no NVML."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _probe(driver: Path, extra: dict[str, str]) -> list[dict[str, Any]]:
    if driver.is_absolute() and not driver.exists():
        ours = driver == environment.SOFTWARE_DRIVER
        hint = ": build the native parts (make build) or install a wheel" if ours else ""
        raise NoGpu(f"{driver} is missing{hint}")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "remote_gpu.agent.probe", str(driver)],
            env={**environment.without_slice(os.environ), **extra},
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise NoGpu(f"{driver} did not answer within 60 s") from None
    if done.returncode:
        said = done.stderr.strip().removeprefix(f"{driver}: ")
        raise NoGpu(f"{driver}: {said or 'it crashed when asked for its devices'}")
    devices: list[dict[str, Any]] = json.loads(done.stdout)
    return devices
