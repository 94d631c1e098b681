"""``carrel-run``: runs any program on a slice of a GPU.

Without ``--broker`` it is a private node for the length of the command: a front door on loopback,
one lease, and a worker for each process that uses CUDA. Nothing is left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import logging
import math
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import environment
from .agent import inventory
from .agent.node import Node
from .units import format_size, parse_size

_PR_SET_PDEATHSIG = 1
_GRACE_S = 10.0  # between a forwarded signal and SIGKILL
_ATTACH_TIMEOUT_S = 60.0

_EXAMPLES = """
examples:
  carrel-run --software-gpu vram=8GiB -- python prog.py     no GPU needed
  carrel-run --vram 2GiB -- python prog.py                  2 GiB of this machine's GPU
  carrel-run --broker https://hub.example.edu/services/gpu --vram 2GiB --tflops 5 -- python prog.py
                                        a lease from a broker; the token is read from CARREL_TOKEN
                                        or JUPYTERHUB_API_TOKEN
"""


class Failure(Exception):
    """Carrel itself failed; the message is for the person who ran the command."""


@dataclass(frozen=True)
class Slice:
    """What the program is to get. ``vram_mib`` None: all of the GPU."""

    vram_mib: int | None
    tflops: float | None
    name: str | None


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; exits with the program's status (128 + n when signal n ended it)."""
    arguments = _parse(sys.argv[1:] if argv is None else list(argv))
    level = os.environ.get("CARREL_LOG", "warning").upper()
    logging.basicConfig(level=level if level in ("DEBUG", "INFO", "WARNING") else "WARNING",
                        format="carrel: %(message)s", stream=sys.stderr)  # fmt: skip
    if level == "WARNING":
        logging.getLogger("carrel.agent").setLevel(logging.ERROR)
    try:
        if arguments.broker:
            status = asyncio.run(_run_leased(arguments))
        else:
            status = asyncio.run(_run_private(arguments))
    except (Failure, inventory.NoGpu, FileNotFoundError) as error:
        print(f"carrel-run: {error}", file=sys.stderr)
        sys.exit(125)
    sys.exit(status)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="carrel-run",
        description="Run a program on a slice of a GPU.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="carrel-run [options] -- COMMAND …",
    )
    parser.add_argument(
        "--vram",
        type=parse_size,
        metavar="SIZE",
        help="VRAM of the slice, such as 2GiB or 512MiB (default: all of the GPU)",
    )
    parser.add_argument(
        "--tflops",
        type=_positive,
        metavar="N",
        help="compute of the slice in dense FP16 TFLOPS (default: all of the GPU)",
    )
    parser.add_argument("--name", help="a label for the program's sessions")
    parser.add_argument(
        "--software-gpu",
        metavar="vram=SIZE[,…]",
        dest="software",
        help="use a software GPU (runs PTX on the CPU), for example vram=8GiB; "
        "also sms=N, cc=8.0, name=…",
    )
    parser.add_argument(
        "--driver",
        type=Path,
        metavar="PATH",
        help="the CUDA driver library (default: the system's libcuda.so.1)",
    )
    parser.add_argument(
        "--broker",
        metavar="URL",
        help="lease the slice from a broker instead of using this machine",
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")  # fmt: skip
    arguments = parser.parse_args(argv)
    if arguments.command[:1] == ["--"]:
        arguments.command = arguments.command[1:]
    if not arguments.command:
        parser.error("no command given; write it after --")
    if arguments.broker and (arguments.software or arguments.driver):
        parser.error("--broker uses the broker's GPUs; leave out --software-gpu and --driver")
    if arguments.software and arguments.driver:
        parser.error("--software-gpu and --driver exclude each other")
    if not shutil.which(arguments.command[0]):
        print(f"carrel-run: {arguments.command[0]}: command not found", file=sys.stderr)
        sys.exit(127)
    return arguments


def _positive(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


# --- a private node ------------------------------------------------------------------------------


async def _run_private(arguments: argparse.Namespace) -> int:
    if arguments.software:
        setting = f"count=1,{arguments.software}"
        gpus = inventory.software_gpus(setting)
    else:
        setting = ""
        gpus = inventory.nvidia_gpus(arguments.driver or Path("libcuda.so.1"))
    gpu = gpus[0]
    vram_mib = gpu.vram_mib if arguments.vram is None else max(1, arguments.vram >> 20)
    if vram_mib > gpu.vram_mib:
        raise Failure(
            f"--vram {format_size(vram_mib << 20)} is more than {gpu.model} has "
            f"({format_size(gpu.vram_mib << 20)})"
        )
    node = Node([gpu], name=socket.gethostname(), software=setting)
    try:
        key = secrets.token_bytes(32)
        lease = f"private-{secrets.token_hex(4)}"
        node.admit(lease, key, gpu.uuid, vram_mib, arguments.tflops or gpu.tflops, math.inf)
        env = environment.slice_environment(node.endpoint, lease, key.hex(), arguments.name)
        return await _run_program(arguments.command, env)
    finally:
        await node.close("the program has ended")


# --- a lease from a broker -----------------------------------------------------------------------


async def _run_leased(arguments: argparse.Namespace) -> int:
    from gpu_broker.client import AsyncBrokerClient, BrokerError

    token = os.environ.get("CARREL_TOKEN") or os.environ.get("JUPYTERHUB_API_TOKEN")
    if not token:
        raise Failure("--broker needs a token in CARREL_TOKEN or JUPYTERHUB_API_TOKEN")
    if arguments.vram is None or arguments.tflops is None:
        raise Failure("--broker needs --vram and --tflops: how much of a GPU to lease")
    name = arguments.name or " ".join(arguments.command)[:256]
    async with AsyncBrokerClient(arguments.broker, token) as broker:
        try:
            lease = await broker.create_lease(
                vram_mib=max(1, arguments.vram >> 20),
                tflops=arguments.tflops,
                server_name=f"carrel-run-{secrets.token_hex(4)}",
                name=name,
            )
        except BrokerError as error:
            raise Failure(str(error)) from None
        try:
            await broker.wait_active(lease.id, _ATTACH_TIMEOUT_S)
            credentials = await broker.credentials(lease.id)
            env = environment.slice_environment(
                credentials.endpoint, credentials.lease, credentials.key, arguments.name
            )
            heart = asyncio.create_task(_heartbeat(broker, lease.id, lease.expires_at.timestamp()))
            try:
                return await _run_program(arguments.command, env)
            finally:
                heart.cancel()
        except BrokerError as error:
            raise Failure(str(error)) from None
        finally:
            with contextlib.suppress(BrokerError):
                await broker.end_lease(lease.id)


async def _heartbeat(broker: object, lease: str, expires_at: float) -> None:
    from gpu_broker.client import AsyncBrokerClient, BrokerError

    assert isinstance(broker, AsyncBrokerClient)
    while True:
        await asyncio.sleep(min(60.0, max(1.0, (expires_at - time.time()) / 3)))
        try:
            expires_at = (await broker.heartbeat(lease)).expires_at.timestamp()
        except BrokerError as error:
            logging.getLogger("carrel").warning("the lease was not extended: %s", error)


# --- the program ---------------------------------------------------------------------------------


async def _run_program(command: Sequence[str], env: dict[str, str]) -> int:
    """Runs ``command`` to its end, forwarding signals; returns its exit status as a shell would."""
    loop = asyncio.get_running_loop()
    try:
        program = _start(command, env)
    except OSError as error:
        raise Failure(f"{command[0]}: {error.strerror}") from None
    ended = asyncio.Event()
    pidfd = os.pidfd_open(program.pid)
    loop.add_reader(pidfd, ended.set)

    def forward(number: signal.Signals) -> None:
        # A terminal sends Ctrl-C to the program itself too; do not deliver it twice.
        if number != signal.SIGINT or not sys.stdin.isatty():
            program.send_signal(number)
        loop.call_later(_GRACE_S, program.kill)

    forwarded = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    for number in forwarded:
        loop.add_signal_handler(number, forward, number)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
        for number in forwarded:
            loop.remove_signal_handler(number)
    status = program.wait()
    return 128 - status if status < 0 else status


def _start(command: Sequence[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
    """Starts the program such that it gets SIGTERM when carrel-run dies, even by SIGKILL."""
    libc = ctypes.CDLL(None)

    def die_with_parent() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return subprocess.Popen(command, env=env, preexec_fn=die_with_parent)


if __name__ == "__main__":
    main()
