"""What the host's NVML says of a whole GPU: clocks, power, temperature, links, errors.

A slice's NVML shows these as they are, for the slice runs on that GPU. They travel in the text of
the monitor protocol as ``nvml.KEY=VALUES``: KEY is NVML's function without ``nvmlDeviceGet`` and
with the numbers among its arguments (``ClockInfo.2``), VALUES its outputs. What identifies the
board or the host (serial numbers, part numbers, processor affinity) stays there.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

#: Functions ``nvmlDeviceGet...`` and how many values each number among their arguments may have.
#: As ``readings`` of ``api/nvml_calls.yaml``.
NUMBERS: dict[str, tuple[int, ...]] = {
    "PersistenceMode": (), "MaxPcieLinkGeneration": (), "GpuMaxPcieLinkGeneration": (),
    "MaxPcieLinkWidth": (), "CurrPcieLinkGeneration": (), "CurrPcieLinkWidth": (),
    "PcieThroughput": (2,), "PcieReplayCounter": (), "PcieLinkMaxSpeed": (), "PcieSpeed": (),
    "BusType": (), "MemoryBusWidth": (), "ClockInfo": (4,), "MaxClockInfo": (4,),
    "ApplicationsClock": (4,), "DefaultApplicationsClock": (4,), "Clock": (4, 4),
    "MaxCustomerBoostClock": (4,), "AutoBoostedClocksEnabled": (), "AdaptiveClockInfoStatus": (),
    "CurrentClocksEventReasons": (), "CurrentClocksThrottleReasons": (),
    "SupportedClocksEventReasons": (), "SupportedClocksThrottleReasons": (),
    "NumFans": (), "FanSpeed": (), "FanSpeed_v2": (8,), "TargetFanSpeed": (8,),
    "MinMaxFanSpeed": (), "Temperature": (1,), "TemperatureThreshold": (8,),
    "PerformanceState": (), "PowerState": (), "PowerManagementMode": (),
    "PowerManagementLimit": (), "PowerManagementLimitConstraints": (),
    "PowerManagementDefaultLimit": (), "EnforcedPowerLimit": (), "PowerUsage": (),
    "PowerSource": (), "TotalEnergyConsumption": (), "EccMode": (), "DefaultEccMode": (),
    "TotalEccErrors": (2, 2), "MemoryErrorCounter": (2, 2, 7), "RetiredPagesPendingStatus": (),
    "RemappedRows": (), "EncoderUtilization": (), "DecoderUtilization": (), "JpgUtilization": (),
    "OfaUtilization": (), "GspFirmwareMode": (),
}  # fmt: skip

#: Those whose value is text.
TEXTS = ("VbiosVersion", "GspFirmwareVersion")

#: Fields of nvmlDeviceGetFieldValues: ECC, temperatures, energy, power and the PCIe link. What
#: belongs to processes of others, or to NVLink's other end, is not among them.
FIELDS = (*range(1, 7), 82, 83, 94, 95, 169, *range(173, 184), *range(185, 199))

#: How long a reading serves.
FRESH_S = 1.0

_TYPES = {0: "dVal", 1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}


def take(nvml: Any, device: Any) -> dict[str, str]:
    """All readings of ``device`` that ``nvml`` (pynvml, initialised) gives."""
    found: dict[str, str] = {}

    def ask(key: str, function: str, *arguments: Any) -> Any:
        call = getattr(nvml, function, None)
        if call is None:
            return None
        try:
            answer = call(*arguments)
        except nvml.NVMLError:
            return None
        values = answer if isinstance(answer, list | tuple) else [answer]
        if all(isinstance(value, int | str | bytes) for value in values):
            found[key] = " ".join(map(_text, values))
        return answer

    for name, limits in NUMBERS.items():
        for inputs in itertools.product(*map(range, limits)):
            ask(".".join([name, *map(str, inputs)]), f"nvmlDeviceGet{name}", device, *inputs)
    for name in TEXTS:
        ask(name, f"nvmlDeviceGet{name}", device)
    memory_clocks = ask("SupportedMemoryClocks", "nvmlDeviceGetSupportedMemoryClocks", device)
    for clock in memory_clocks or ():
        key = f"SupportedGraphicsClocks.{clock}"
        ask(key, "nvmlDeviceGetSupportedGraphicsClocks", device, clock)
    bar1 = ask("", "nvmlDeviceGetBAR1MemoryInfo", device)
    if bar1 is not None:
        found["BAR1MemoryInfo"] = f"{bar1.bar1Total} {bar1.bar1Free} {bar1.bar1Used}"
    branch = ask("", "nvmlSystemGetDriverBranch")
    if branch is not None:
        found["DriverBranch"] = _text(branch.branch)
    for field in ask("", "nvmlDeviceGetFieldValues", device, list(FIELDS)) or ():
        if field.nvmlReturn == 0 and field.valueType in _TYPES:
            value = getattr(field.value, _TYPES[field.valueType])
            if isinstance(value, int):
                found[f"Field.{field.fieldId}"] = f"{field.valueType} {value}"
    found.pop("", None)
    return found


def _text(value: int | str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


class Readings:
    """The readings of GPUs by uuid, at most a second old while somebody asks.

    NVML may take tens of milliseconds (a PCIe counter is measured over twenty), so they are taken
    in a thread of their own: a question is answered with the last ones at once.
    """

    def __init__(self, take_all: Callable[[], dict[str, dict[str, str]]]) -> None:
        self._take_all = take_all
        self._latest: dict[str, dict[str, str]] = {}
        self._at = float("-inf")
        self._lock = threading.Lock()

    def start(self, uuids: Iterable[str]) -> None:
        """Takes the first ones, and waits for them, if there is a GPU to read."""
        if any(True for _ in uuids):
            self._refresh()

    def of(self, uuid: str) -> dict[str, str]:
        """The last readings of that GPU; empty where its host has none."""
        if self._latest and time.monotonic() - self._at > FRESH_S and not self._lock.locked():
            threading.Thread(target=self._refresh, name="readings", daemon=True).start()
        return self._latest.get(uuid, {})

    def _refresh(self) -> None:
        if not self._lock.acquire(blocking=False):
            return
        try:
            self._latest = self._take_all() or self._latest
            self._at = time.monotonic()
        finally:
            self._lock.release()
