"""``carrel-smi``: shows the slice this process is in, or an administrator's pool.

In a slice it is also ``nvidia-smi``, with the part of its options that scripts use.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from .handshake import HandshakeError
from .monitor import Monitor, NotInSlice, SliceState
from .units import format_size

if TYPE_CHECKING:
    from gpu_broker.models import Node, Session

_WIDTH = 78
_BAR = 24


def _reading(key: str, divisor: int = 1) -> Callable[[SliceState], object]:
    """Reads what the host's NVML says of the whole GPU; None where it says nothing."""

    def read(state: SliceState) -> object:
        value = state.readings.get(key, "").partition(" ")[0]
        if not value:
            return None
        return f"{int(value) / divisor:.2f}" if divisor > 1 else value

    return read


#: What ``--query-gpu`` knows: the value without unit (None: not available), and its unit.
_FIELDS: dict[str, tuple[Callable[[SliceState], object], str]] = {
    "index": (lambda s: 0, ""),
    "name": (lambda s: s.name, ""),
    "uuid": (lambda s: s.uuid, ""),
    "gpu_uuid": (lambda s: s.uuid, ""),
    "gpu_name": (lambda s: s.name, ""),
    "count": (lambda s: 1, ""),
    "pci.bus_id": (lambda s: s.pci_bus_id, ""),
    "driver_version": (lambda s: s.driver_version, ""),
    "compute_cap": (lambda s: s.compute_capability, ""),
    "memory.total": (lambda s: s.vram_total_bytes >> 20, "MiB"),
    "memory.used": (lambda s: s.vram_used_bytes >> 20, "MiB"),
    "memory.free": (lambda s: (s.vram_total_bytes - s.vram_used_bytes) >> 20, "MiB"),
    "utilization.gpu": (lambda s: s.gpu_utilization, "%"),
    "utilization.memory": (lambda s: s.memory_utilization, "%"),
    "temperature.gpu": (_reading("Temperature.0"), ""),
    "power.draw": (_reading("PowerUsage", 1000), "W"),
    "power.limit": (_reading("EnforcedPowerLimit", 1000), "W"),
    "clocks.gr": (_reading("ClockInfo.0"), "MHz"),
    "clocks.sm": (_reading("ClockInfo.1"), "MHz"),
    "clocks.mem": (_reading("ClockInfo.2"), "MHz"),
    "fan.speed": (_reading("FanSpeed"), "%"),
    "vbios_version": (_reading("VbiosVersion"), ""),
    "timestamp": (lambda s: datetime.now().strftime("%Y/%m/%d %H:%M:%S.%f")[:-3], ""),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    arguments = _parse(argv)
    try:
        if arguments.broker:
            _pool(arguments)
        else:
            _slice(arguments)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="carrel-smi",
        description="Show the slice of a GPU that this process is in; with --broker, the pool.",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument(
        "-l",
        "--loop",
        "--watch",
        type=float,
        metavar="SECONDS",
        dest="watch",
        help="show it again every so many seconds",
    )
    parser.add_argument(
        "--broker",
        metavar="URL",
        help="show a broker's nodes, GPUs and sessions; the token is read from "
        "CARREL_TOKEN or JUPYTERHUB_API_TOKEN",
    )
    parser.add_argument("-L", "--list-gpus", action="store_true", help="one line for the slice")
    parser.add_argument(
        "--query-gpu", metavar="FIELD,…", help=f"these fields as CSV: {', '.join(_FIELDS)}"
    )
    parser.add_argument("--format", default="csv", metavar="csv[,noheader][,nounits]",
                        help="how --query-gpu prints")  # fmt: skip
    arguments = parser.parse_args(argv)
    if arguments.watch is not None and not arguments.watch >= 0.1:
        parser.error("--watch: at least 0.1 seconds")
    if arguments.query_gpu:
        unknown = [f for f in _fields(arguments.query_gpu) if f not in _FIELDS]
        if unknown:
            parser.error(f"--query-gpu: unknown field {unknown[0]}; known are {', '.join(_FIELDS)}")
        if arguments.format.split(",")[0].strip() != "csv":
            parser.error("--format: csv, with noheader and nounits")
    return arguments


def _fields(text: str) -> list[str]:
    return [field.strip() for field in text.split(",")]


# --- the slice ------------------------------------------------------------------------------------


def _slice(arguments: argparse.Namespace) -> None:
    try:
        with Monitor() as monitor:
            while True:
                print(_show_slice(monitor.read(), arguments), flush=True)
                if arguments.watch is None:
                    return
                time.sleep(arguments.watch)
    except NotInSlice as error:
        sys.exit(f"carrel-smi: {error}")
    except (HandshakeError, OSError) as error:
        sys.exit(f"carrel-smi: the GPU node at {os.environ.get('CARREL_ENDPOINT')}: {error}")


def _show_slice(state: SliceState, arguments: argparse.Namespace) -> str:
    if arguments.json:
        values = dataclasses.asdict(state)
        if math.isinf(state.expires_at):
            values["expires_at"] = None  # JSON has no infinity
        return json.dumps(values, indent=None if arguments.watch else 2)
    if arguments.list_gpus:
        return f"GPU 0: {state.name} (UUID: {state.uuid})"
    if arguments.query_gpu:
        return _csv(state, _fields(arguments.query_gpu), arguments.format)
    return table(state)


def _csv(state: SliceState, fields: Sequence[str], how: str) -> str:
    options = _fields(how)
    lines = []
    if "noheader" not in options:
        units = [f" [{_FIELDS[f][1]}]" if _FIELDS[f][1] else "" for f in fields]
        lines.append(", ".join(f + unit for f, unit in zip(fields, units, strict=True)))
    values = []
    for field in fields:
        read, unit = _FIELDS[field]
        value = read(state)
        if value is None:
            values.append("[N/A]")
        else:
            values.append(f"{value} {unit}" if unit and "nounits" not in options else str(value))
    lines.append(", ".join(values))
    return "\n".join(lines)


def _bar(percent: float) -> str:
    filled = round(_BAR * min(max(percent, 0.0), 100.0) / 100)
    return "[" + "#" * filled + "." * (_BAR - filled) + "]"


def table(state: SliceState) -> str:
    """The slice for people; plain text of 78 columns."""
    rule = "+" + "-" * (_WIDTH - 2) + "+"

    def row(text: str) -> str:
        return f"| {text[: _WIDTH - 4]:<{_WIDTH - 4}} |"

    used, total = state.vram_used_bytes, state.vram_total_bytes
    cuda = f"{state.cuda_version // 1000}.{state.cuda_version % 1000 // 10}"
    expires = "when its program ends"
    if state.expires_at != float("inf"):
        left = max(0, int(state.expires_at - time.time()))
        expires = f"in {left // 3600} h {left % 3600 // 60} min unless extended"
    lines = [
        rule,
        row(f"carrel-smi    driver {state.driver_version}    CUDA {cuda}    node {state.node}"),
        rule,
        row(f"{state.name}, compute capability {state.compute_capability}"),
        row(state.uuid),
        row(f"slice   {format_size(total)} of VRAM, {state.tflops:g} TFLOPS"),
        row(f"VRAM    {_bar(100 * used / total if total else 0)} {used >> 20} / {total >> 20} MiB"),
        row(f"GPU     {_bar(state.gpu_utilization)} {state.gpu_utilization} %"),
        row(f"lease   {state.lease}, expires {expires}"),
    ]
    if state.software:
        lines.append(row("This is a software GPU: a development device that runs on the CPU."))
    lines += [rule, row(f"{'PID':>8}  {'VRAM':>10}  program or notebook"), rule]
    for process in state.processes:
        size = f"{process.vram_used_bytes >> 20} MiB"
        lines.append(row(f"{process.pid:>8}  {size:>10}  {process.name}"))
    if not state.processes:
        lines.append(row("no program uses the slice"))
    lines.append(rule)
    return "\n".join(lines)


# --- the pool -------------------------------------------------------------------------------------


def _pool(arguments: argparse.Namespace) -> None:
    from gpu_broker.client import BrokerClient, BrokerError

    token = os.environ.get("CARREL_TOKEN") or os.environ.get("JUPYTERHUB_API_TOKEN")
    if not token:
        sys.exit("carrel-smi: --broker needs a token in CARREL_TOKEN or JUPYTERHUB_API_TOKEN")
    try:
        with BrokerClient(arguments.broker, token) as broker:
            while True:
                nodes, sessions = broker.nodes(), broker.sessions()
                if arguments.json:
                    print(json.dumps({
                        "nodes": [node.model_dump(mode="json") for node in nodes],
                        "sessions": [session.model_dump(mode="json") for session in sessions],
                    }))  # fmt: skip
                else:
                    print(pool_table(nodes, sessions), flush=True)
                if arguments.watch is None:
                    return
                time.sleep(arguments.watch)
    except BrokerError as error:
        sys.exit(f"carrel-smi: {error}")


def pool_table(nodes: Sequence[Node], sessions: Sequence[Session]) -> str:
    """Nodes, GPUs and sessions for an administrator."""
    lines = [
        f"{'NODE':<16} {'STATE':<8} {'GPU':<26} {'LEASED MiB':>15} {'USED MiB':>9} {'UTIL':>5}"
    ]
    for node in nodes:
        for gpu in node.gpus:
            leased = f"{gpu.vram_mib - gpu.vram_free_mib}/{gpu.vram_mib}"
            lines.append(
                f"{node.name[:16]:<16} {node.state:<8} {f'{gpu.index} {gpu.model}'[:26]:<26} "
                f"{leased:>15} {gpu.used_mib:>9} {gpu.utilization:>4.0f}%"
            )
    lines += ["", f"{'USER':<16} {'NODE':<16} {'VRAM MiB':>9} {'IDLE s':>7}  PROGRAM OR NOTEBOOK"]
    for session in sessions:
        lines.append(
            f"{session.user[:16]:<16} {session.node[:16]:<16} {session.vram_bytes >> 20:>9} "
            f"{session.idle_s:>7.0f}  {session.name or session.program}"
        )
    if not sessions:
        lines.append("no sessions")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
