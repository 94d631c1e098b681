"""Every function of pynvml that takes a device, and what the host's NVML says of the whole GPU.

The node is real, with its front door; the host's readings are given, as no NVIDIA GPU is here.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pynvml
import pytest
import pytest_asyncio
import yaml

from remote_gpu import environment
from remote_gpu.agent import readings
from remote_gpu.agent.node import Node
from remote_gpu.agent.readings import Readings
from remote_gpu.codegen import nvml
from tests.agent.support import KEY, make_gpu

CLIENT = Path(environment.__file__).parent / "lib" / "client"

GIVEN = {
    "PowerUsage": "71234",
    "PowerManagementLimitConstraints": "100000 700000",
    "TotalEnergyConsumption": "18446744073709551615",
    "ClockInfo.0": "1980",
    "ClockInfo.2": "2619",
    "Clock.0.0": "1980",
    "Temperature.0": "41",
    "TemperatureThreshold.1": "90",
    "EccMode": "1 0",
    "RemappedRows": "0 1 0 0",
    "EncoderUtilization": "3 167000",
    "MemoryErrorCounter.1.0.2": "5",
    "SupportedMemoryClocks": "2619 1593",
    "SupportedGraphicsClocks.2619": "1980 1965 1950",
    "SupportedGraphicsClocks.1593": "1500",
    "BAR1MemoryInfo": "137438953472 137437904896 1048576",
    "VbiosVersion": "96.00.74.00.01",
    "DriverBranch": "r580_00",
    "Field.82": "1 39",
    "Field.83": "3 123456789012",
}


@pytest_asyncio.fixture
async def slice_env() -> AsyncIterator[dict[str, str]]:
    """The environment of a slice whose host gives the readings GIVEN."""
    node = Node([make_gpu()], "node-1")
    node._readings = Readings(lambda: {make_gpu().uuid: dict(GIVEN)})
    node._readings.start([make_gpu().uuid])
    node.admit("lease-1", KEY, make_gpu().uuid, 1024, 5.0, time.time() + 3600)
    yield environment.without_slice(os.environ) | {
        "CARREL_ENDPOINT": node.endpoint,
        "CARREL_LEASE": "lease-1",
        "CARREL_LEASE_KEY": KEY.hex(),
        "LD_LIBRARY_PATH": str(CLIENT),
    }
    await node.close()


async def in_slice(env: dict[str, str], program: str) -> str:
    """What ``program`` prints, with pynvml on the slice's NVML as ``pynvml`` and ``device``."""
    head = "import json, pynvml\npynvml.nvmlInit()\ndevice = pynvml.nvmlDeviceGetHandleByIndex(0)\n"
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", head + program],
        env=env, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


async def test_the_hosts_readings_arrive_as_they_were_taken(slice_env: dict[str, str]) -> None:
    seen = json.loads(
        await in_slice(
            slice_env,
            "from remote_gpu.agent.readings import take\nprint(json.dumps(take(pynvml, device)))",
        )
    )
    assert {key: seen[key] for key in GIVEN} == GIVEN
    assert set(seen) == set(GIVEN)


async def test_readings_in_structures(slice_env: dict[str, str]) -> None:
    out = await in_slice(
        slice_env,
        """
from ctypes import byref, c_uint
assert pynvml.nvmlDeviceGetTemperatureV(device, 0) == 41
wrong = pynvml.c_nvmlTemperature_v1_t()
wrong.version = pynvml.nvmlTemperature_v1 + 1
call = pynvml._nvmlGetFunctionPointer
assert call("nvmlDeviceGetTemperatureV")(device, byref(wrong)) == 25
room = c_uint(1)
assert call("nvmlDeviceGetSupportedMemoryClocks")(device, byref(room), byref(c_uint())) == 7
assert room.value == 2
assert call("nvmlDeviceGetClockInfo")(device, 4, byref(c_uint())) == 2
assert call("nvmlDeviceGetClockInfo")(device, 0, None) == 2
assert call("nvmlDeviceGetClockInfo")(None, 0, byref(c_uint())) == 2
assert call("nvmlDeviceGetClockInfo")(device, 1, byref(c_uint())) == 3
known, unknown = pynvml.nvmlDeviceGetFieldValues(device, [82, 250])
assert (known.nvmlReturn, known.valueType, known.value.uiVal) == (0, 1, 39)
assert unknown.nvmlReturn == 3
print("done")
""",
    )
    assert out == "done\n"


async def test_carrel_smi_queries_readings(slice_env: dict[str, str]) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", "from remote_gpu.smi import main; main()",
         "--query-gpu=temperature.gpu,power.draw,clocks.mem,fan.speed", "--format=csv"],
        env=slice_env, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "temperature.gpu, power.draw [W], clocks.mem [MHz], fan.speed [%]",
        "41, 71.23 W, 2619 MHz, [N/A]",
    ], done.stderr


async def test_events_never_come(slice_env: dict[str, str]) -> None:
    out = await in_slice(
        slice_env,
        """
import time
events = pynvml.nvmlEventSetCreate()
pynvml.nvmlDeviceRegisterEvents(device, pynvml.nvmlDeviceGetSupportedEventTypes(device), events)
began = time.monotonic()
try:
    pynvml.nvmlEventSetWait_v2(events, 50)
except pynvml.NVMLError_Timeout:
    print(time.monotonic() - began >= 0.05)
pynvml.nvmlEventSetFree(events)
for call in (lambda: pynvml.nvmlEventSetFree(events),
             lambda: pynvml.nvmlEventSetWait_v2(events, 0)):
    try:
        call()
    except pynvml.NVMLError_InvalidArgument:
        print("no such set")
""",
    )
    assert out == "True\nno such set\nno such set\n"


async def test_every_function_that_takes_a_device_answers(slice_env: dict[str, str]) -> None:
    out = await in_slice(
        slice_env,
        """
import ctypes, inspect
from remote_gpu.codegen import nvml
functions, _ = nvml.read()
takes_device = [name for name, f in inspect.getmembers(pynvml, inspect.isfunction)
                if name.startswith("nvmlDevice")
                and list(inspect.signature(f).parameters)[:1] in (["handle"], ["device"])]
answers = {}
for name in takes_device:
    parameters = functions.get(name, [])
    if not parameters or parameters[0][0] != "nvmlDevice_t":
        continue  # pynvml's own helper
    function = pynvml._nvmlGetFunctionPointer(name)
    # Straight to the library: zero for each number, room where something may be written.
    rest = [ctypes.create_string_buffer(65536) if "*" in type_ else ctypes.c_ulonglong(0)
            for type_, _ in parameters[1:]]
    answers[name] = [function(device, *rest), function(None, *rest)]
print(json.dumps(answers))
""",
    )
    answers = json.loads(out)
    kinds = nvml.load()
    assert len(answers) > 150
    for name, (ours, none) in answers.items():
        assert none == pynvml.NVML_ERROR_INVALID_ARGUMENT, name
        if kinds[name] == "refused":
            assert ours == pynvml.NVML_ERROR_NO_PERMISSION, name
        elif kinds[name] == "unsupported":
            assert ours == pynvml.NVML_ERROR_NOT_SUPPORTED, name
        else:  # with senseless arguments
            assert ours in (
                pynvml.NVML_SUCCESS,
                pynvml.NVML_ERROR_INVALID_ARGUMENT,
                pynvml.NVML_ERROR_NOT_SUPPORTED,
                pynvml.NVML_ERROR_INSUFFICIENT_SIZE,
                pynvml.NVML_ERROR_NOT_FOUND,  # no process
                25,  # argument version mismatch
            ), name


def test_agent_and_library_agree_on_the_readings() -> None:
    calls = yaml.safe_load((nvml.API / "nvml_calls.yaml").read_text())
    theirs = {name.removeprefix("nvmlDeviceGet"): tuple(n) for name, n in calls["readings"].items()}
    assert theirs == readings.NUMBERS
    asked = [name for name in readings.NUMBERS if hasattr(pynvml, f"nvmlDeviceGet{name}")]
    assert len(asked) > 0.8 * len(readings.NUMBERS)
    for name in asked:
        parameters = inspect.signature(getattr(pynvml, f"nvmlDeviceGet{name}")).parameters
        needed = [p for p in parameters.values() if p.default is inspect.Parameter.empty]
        assert len(needed) == 1 + len(readings.NUMBERS[name]), name


@pytest.mark.parametrize("uuids", [[], ["GPU-1"]])
def test_readings_are_taken_where_there_is_a_gpu(uuids: list[str]) -> None:
    taken = []

    def take_all() -> dict[str, dict[str, str]]:
        taken.append(time.monotonic())
        return {"GPU-1": {"PowerUsage": str(len(taken))}}

    held = Readings(take_all)
    held.start(uuids)
    assert held.of("GPU-1") == ({"PowerUsage": "1"} if uuids else {})
    assert held.of("GPU-2") == {}
    held._at -= 2 * readings.FRESH_S  # as if that was a while ago
    deadline = time.monotonic() + 10
    while uuids and held.of("GPU-1") != {"PowerUsage": "2"}:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(taken) == 2 * len(uuids)
