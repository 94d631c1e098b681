"""The slice through NVML's library and carrel-smi, with the programs people use.

Everything runs for real: a private node, its front door, the audit library, unmodified clients.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
SLICE_MIB = 512


def in_slice(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs ``command`` on a slice of 512 MiB of a 2 GiB software GPU."""
    done = subprocess.run(
        [BIN / "carrel-run", "--software-gpu", "vram=2GiB", "--vram", f"{SLICE_MIB}MiB",
         "--tflops", "5", "--", *command],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    if check:
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


# Holds 64 MiB of the slice, then runs what follows.
HOLDING = """
import ctypes, json, os, sys
cuda = ctypes.CDLL("libcuda.so.1")
context, memory = ctypes.c_void_p(), ctypes.c_uint64()
assert cuda.cuInit(0) == 0
assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
assert cuda.cuCtxSetCurrent(context) == 0
assert cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(64 << 20)) == 0
identity = ctypes.create_string_buffer(16)
assert cuda.cuDeviceGetUuid_v2(identity, 0) == 0
bus = ctypes.create_string_buffer(32)
assert cuda.cuDeviceGetPCIBusId(bus, 32, 0) == 0
"""


def test_pynvml_sees_the_slice() -> None:
    out = in_slice(
        sys.executable,
        "-c",
        HOLDING
        + """
import uuid, pynvml
pynvml.nvmlInit()
assert pynvml.nvmlDeviceGetCount() == 1
device = pynvml.nvmlDeviceGetHandleByIndex(0)
memory = pynvml.nvmlDeviceGetMemoryInfo(device)
second = pynvml.nvmlDeviceGetMemoryInfo(device, version=pynvml.nvmlMemory_v2)
assert (second.total, second.used) == (memory.total, memory.used)
same = pynvml.nvmlDeviceGetHandleByUUID(pynvml.nvmlDeviceGetUUID(device))
assert pynvml.nvmlDeviceGetIndex(same) == 0
for call in (pynvml.nvmlDeviceGetFanSpeed, pynvml.nvmlDeviceGetPowerUsage):
    try:
        call(device)
    except pynvml.NVMLError_NotSupported:
        pass
    else:
        raise AssertionError(call)
try:
    pynvml.nvmlDeviceGetHandleByIndex(1)
except pynvml.NVMLError_InvalidArgument:
    pass
else:
    raise AssertionError("a second device")
processes = pynvml.nvmlDeviceGetComputeRunningProcesses(device)
[sample] = pynvml.nvmlDeviceGetProcessUtilization(device, 0)
[newer] = pynvml.nvmlDeviceGetProcessesUtilizationInfo(device, 0)
assert sample.pid == newer.pid == os.getpid() and 0 <= sample.smUtil <= 100
assert sample.timeStamp > 0 and sample.decUtil == newer.ofaUtil == 0
try:
    pynvml.nvmlDeviceGetProcessUtilization(device, sample.timeStamp + 10**9)
except pynvml.NVMLError_NotFound:
    pass
else:
    raise AssertionError("a sample of the future")
[detail] = pynvml.nvmlDeviceGetRunningProcessDetailList(device, pynvml.nvmlProcessDetailList_v1, 0)
assert (detail.pid, detail.usedGpuMemory) == (processes[0].pid, processes[0].usedGpuMemory)
print(json.dumps({
    "name": pynvml.nvmlDeviceGetName(device),
    "uuid": pynvml.nvmlDeviceGetUUID(device),
    "cuda_uuid": f"GPU-{uuid.UUID(bytes=identity.raw)}",
    "bus": pynvml.nvmlDeviceGetPciInfo(device).busId,
    "cuda_bus": bus.value.decode(),
    "total": memory.total, "used": memory.used, "free": memory.free,
    "capability": pynvml.nvmlDeviceGetCudaComputeCapability(device),
    "driver": pynvml.nvmlSystemGetDriverVersion(),
    "cuda": pynvml.nvmlSystemGetCudaDriverVersion_v2(),
    "pids": [p.pid for p in processes], "pid": os.getpid(),
    "process_name": pynvml.nvmlSystemGetProcessName(os.getpid()),
    "utilization": pynvml.nvmlDeviceGetUtilizationRates(device).gpu,
}))
pynvml.nvmlShutdown()
""",
    ).stdout
    seen = json.loads(out.splitlines()[-1])
    assert seen["total"] == SLICE_MIB << 20
    assert 64 << 20 <= seen["used"] <= 128 << 20
    assert seen["free"] == seen["total"] - seen["used"]
    assert "Software" in seen["name"]
    assert seen["uuid"] == seen["cuda_uuid"]
    assert seen["bus"].lower().endswith(seen["cuda_bus"].lower().removesuffix(".0")[-7:] + ".0")
    assert seen["capability"] == [8, 0]
    assert seen["cuda"] == 13000
    assert seen["pids"] == [seen["pid"]]
    assert "python" in seen["process_name"]
    assert 0 <= seen["utilization"] <= 100


def test_nvitop_and_gpustat() -> None:
    out = in_slice(
        sys.executable,
        "-c",
        HOLDING
        + """
import nvitop
[device] = nvitop.Device.all()
snapshot = device.as_snapshot()
print(json.dumps({"total": snapshot.memory_total, "used": snapshot.memory_used,
                  "pids": sorted(device.processes()), "pid": os.getpid()}))
""",
    ).stdout
    seen = json.loads(out.splitlines()[-1])
    assert seen["total"] == SLICE_MIB << 20
    assert seen["used"] >= 64 << 20
    assert seen["pids"] == [seen["pid"]]

    shown = json.loads(in_slice(str(BIN / "gpustat"), "--json").stdout)
    assert [gpu["memory.total"] for gpu in shown["gpus"]] == [SLICE_MIB]


def test_monitoring_survives_a_fork() -> None:
    in_slice(
        sys.executable,
        "-c",
        """
import os, pynvml
pynvml.nvmlInit()
device = pynvml.nvmlDeviceGetHandleByIndex(0)
before = pynvml.nvmlDeviceGetMemoryInfo(device).total
child = os.fork()
if child == 0:
    os._exit(0 if pynvml.nvmlDeviceGetMemoryInfo(device).total == before else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert pynvml.nvmlDeviceGetMemoryInfo(device).total == before
""",
    )


def test_a_fork_amidst_other_threads_calls() -> None:
    in_slice(
        sys.executable,
        "-c",
        """
import os, signal, threading, pynvml
pynvml.nvmlInit()
device = pynvml.nvmlDeviceGetHandleByIndex(0)
done = threading.Event()
def poll():
    while not done.is_set():
        pynvml.nvmlDeviceGetMemoryInfo(device)
threads = [threading.Thread(target=poll) for _ in range(4)]
for thread in threads:
    thread.start()
statuses = set()
for _ in range(20):
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # ends a child that waits for ever
        pynvml.nvmlDeviceGetMemoryInfo(device)
        os._exit(0)
    statuses.add(os.waitpid(child, 0)[1])
done.set()
for thread in threads:
    thread.join()
assert statuses == {0}, statuses
""",
    )


def test_a_silent_node_costs_two_seconds_and_is_forgiven() -> None:
    in_slice(
        sys.executable,
        "-c",
        """
import os, signal, time, pynvml
pynvml.nvmlInit()
device = pynvml.nvmlDeviceGetHandleByIndex(0)
node = os.getppid()  # carrel-run, with the front door in it
os.kill(node, signal.SIGSTOP)
try:
    time.sleep(0.2)  # beyond what may be answered from memory
    began = time.monotonic()
    try:
        pynvml.nvmlDeviceGetMemoryInfo(device)
    except pynvml.NVMLError_GpuIsLost:
        pass
    else:
        raise AssertionError("an answer of a stopped node")
    took = time.monotonic() - began
    assert 1.5 < took < 4, took
finally:
    os.kill(node, signal.SIGCONT)
time.sleep(0.6)  # a node that was silent is asked again after half a second
assert pynvml.nvmlDeviceGetMemoryInfo(device).total == 512 << 20
""",
    )


def test_the_device_by_every_way_to_write_its_bus_id() -> None:
    in_slice(
        sys.executable,
        "-c",
        """
import pynvml
pynvml.nvmlInit()
device = pynvml.nvmlDeviceGetHandleByIndex(0)
info = pynvml.nvmlDeviceGetPciInfo(device)
domain, bus = info.busId.split(":", 1)
for text in (info.busId, info.busIdLegacy, info.busId.lower(), f"{int(domain, 16):x}:{bus}", bus):
    assert pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByPciBusId(text))
for wrong, error in (("ffff:fe:1f.0", pynvml.NVMLError_NotFound),
                     ("nonsense", pynvml.NVMLError_InvalidArgument)):
    try:
        pynvml.nvmlDeviceGetHandleByPciBusId(wrong)
    except error:
        pass
    else:
        raise AssertionError(wrong)
assert pynvml.nvmlDeviceGetNumGpuCores(device) % 64 == 0
""",
    )


def test_what_a_slice_cannot_know_it_does_not_invent() -> None:
    out = in_slice(
        sys.executable,
        "-c",
        """
import pynvml
pynvml.nvmlInit()
device = pynvml.nvmlDeviceGetHandleByIndex(0)
for name, more in (("Temperature", [0]), ("PersistenceMode", []), ("BAR1MemoryInfo", []),
                   ("ClockInfo", [0]), ("Serial", []), ("EccMode", []), ("MinorNumber", [])):
    try:
        print(name, getattr(pynvml, "nvmlDeviceGet" + name)(device, *more))
    except pynvml.NVMLError_NotSupported:
        pass
""",
    ).stdout
    assert out == ""  # what is not supported printed nothing


def test_without_a_slice_nvml_says_so() -> None:
    library = Path(__file__).resolve().parents[2] / "remote_gpu/lib/client/libnvidia-ml.so.1"
    env = {k: v for k, v in os.environ.items() if not k.startswith("CARREL_")}
    done = subprocess.run(
        [sys.executable, "-c",
         f"import ctypes; print(ctypes.CDLL({str(library)!r}).nvmlInit_v2())"],
        capture_output=True, text=True, env=env, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == "9"  # NVML_ERROR_DRIVER_NOT_LOADED
    assert "not in a slice" in done.stderr
    assert "carrel-run" in done.stderr


def test_carrel_smi_for_people_and_programs() -> None:
    table = in_slice("carrel-smi").stdout
    assert "slice   512 MiB of VRAM, 5 TFLOPS" in table
    assert "software GPU" in table
    assert "no program uses the slice" in table
    assert {len(line) for line in table.splitlines()} == {78}

    shown = json.loads(in_slice("nvidia-smi", "--json").stdout)
    assert shown["vram_total_bytes"] == SLICE_MIB << 20
    assert shown["processes"] == []

    listed = in_slice("nvidia-smi", "-L").stdout
    assert listed == f"GPU 0: {shown['name']} (UUID: {shown['uuid']})\n"

    query = "--query-gpu=name,memory.total,memory.used"
    assert in_slice("nvidia-smi", query, "--format=csv,noheader,nounits").stdout == (
        f"{shown['name']}, {SLICE_MIB}, 0\n"
    )
    assert in_slice("nvidia-smi", query, "--format=csv").stdout.splitlines() == [
        "name, memory.total [MiB], memory.used [MiB]",
        f"{shown['name']}, {SLICE_MIB} MiB, 0 MiB",
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--query-gpu=colour"], "unknown field colour"),
        (["--watch", "0"], "at least 0.1 seconds"),
        (["--query-gpu=name", "--format=xml"], "csv"),
    ],
)
def test_carrel_smi_refuses_nonsense(arguments: list[str], expected: str) -> None:
    done = in_slice("carrel-smi", *arguments, check=False)
    assert done.returncode == 2
    assert expected in done.stderr


def test_carrel_smi_outside_a_slice() -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("CARREL_")}
    done = subprocess.run([BIN / "carrel-smi"], capture_output=True, text=True, env=env, timeout=60)
    assert done.returncode == 1
    assert "not in a slice" in done.stderr
