"""The text that monitors read."""

from __future__ import annotations

import math

import pytest

from remote_gpu import monitor
from remote_gpu.monitor import Monitor, NotInSlice, Process, SliceState


def state(**more: object) -> SliceState:
    values: dict[str, object] = {
        "name": "Carrel Software GPU", "uuid": "GPU-1", "pci_bus_id": "0000:01:00.0",
        "driver_version": "0.1.0", "cuda_version": 13000, "compute_capability": "8.0",
        "multiprocessors": 8, "vram_total_bytes": 2 << 30, "vram_used_bytes": 1 << 20,
        "tflops": 2.5, "gpu_utilization": 40, "memory_utilization": 1, "software": True,
        "node": "node-1", "lease": "lease-1", "expires_at": 1.5e9,
        "processes": [Process(7, 1 << 20, "a notebook.ipynb", 35), Process(8, 0, "")],
        "readings": {"PowerUsage": "71234", "RemappedRows": "0 1 0 0"},
    }  # fmt: skip
    return SliceState(**(values | more))  # type: ignore[arg-type]


def test_what_is_written_is_read() -> None:
    assert monitor.parse(state().encode()) == state()
    assert monitor.parse(state(expires_at=math.inf).encode()).expires_at == math.inf


def test_the_lines_are_those_of_the_contract() -> None:
    lines = state().encode().splitlines()
    assert "vram_total_bytes=2147483648" in lines
    assert "software=1" in lines
    assert "session=7 1048576 a notebook.ipynb" in lines
    assert "busy=35" in lines
    assert "nvml.RemappedRows=0 1 0 0" in lines


def test_unknown_keys_are_ignored() -> None:
    assert monitor.parse("future=1\nname=G\nnonsense\n").name == "G"


def test_a_name_cannot_add_lines() -> None:
    nasty = state(processes=[Process(7, 0, "x\nvram_total_bytes=9\nsession=1 2 y")])
    read = monitor.parse(nasty.encode())
    assert read.vram_total_bytes == 2 << 30
    assert len(read.processes) == 1


def test_the_text_is_bounded_and_its_lines_whole() -> None:
    many = state(processes=[Process(pid, 1, "n" * 256) for pid in range(300)])
    text = many.encode()
    assert len(text.encode()) <= monitor.MAX_TEXT
    assert len(monitor.parse(text).processes) > 200


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"CARREL_ENDPOINT": "127.0.0.1:1"},
        {"CARREL_ENDPOINT": "nowhere", "CARREL_LEASE": "l", "CARREL_LEASE_KEY": "00"},
        {"CARREL_ENDPOINT": "127.0.0.1:1", "CARREL_LEASE": "l", "CARREL_LEASE_KEY": "zz"},
    ],
)
def test_outside_of_a_slice(env: dict[str, str]) -> None:
    with pytest.raises(NotInSlice):
        Monitor(env)


def test_no_node_there() -> None:
    env = {"CARREL_ENDPOINT": "127.0.0.1:1", "CARREL_LEASE": "l", "CARREL_LEASE_KEY": "00" * 32}
    with pytest.raises(ConnectionRefusedError):
        Monitor(env)
