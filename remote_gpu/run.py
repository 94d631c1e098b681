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
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import environment, orphans
from .agent import inventory
from .agent.node import Node
from .units import format_size, parse_size

if TYPE_CHECKING:
    from gpu_broker.client import AsyncBrokerClient

_PR_SET_PDEATHSIG = 1
_ATTACH_TIMEOUT_S = 60.0
_MAX_LABEL = 256

_EXAMPLES = """
examples:
  carrel-run --software-gpu vram=8GiB -- python prog.py     no GPU needed
  carrel-run --null-gpu vram=8GiB,model=H100 -- python prog.py
                                        a device that computes nothing and takes the time that an
                                        H100 might: for measuring the way to it, not for results
  carrel-run --vram 2GiB -- python prog.py                  2 GiB of this machine's GPU
  carrel-run --broker https://hub.example.edu/services/gpu --vram 2GiB --tflops 5 -- python prog.py
                                        a lease from a broker; the token is read from CARREL_TOKEN
                                        or JUPYTERHUB_API_TOKEN
"""


class Failure(Exception):
    """Carrel itself failed; the message is for the person who ran the command."""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; exits with the program's status (128 + n when signal n ended it)."""
    arguments = _parse(sys.argv[1:] if argv is None else list(argv))
    level = os.environ.get("CARREL_LOG", "warning").upper()
    logging.basicConfig(level=level if level in ("DEBUG", "INFO", "WARNING") else "WARNING",
                        format="carrel: %(message)s", stream=sys.stderr)  # fmt: skip
    if level == "WARNING":
        logging.getLogger("carrel.agent").setLevel(logging.ERROR)
    try:
        orphans.adopt()
        try:
            status = asyncio.run(_run(arguments))
        finally:
            orphans.end_all()  # what the program left behind
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
        "--null-gpu",
        metavar="vram=SIZE[,…]",
        dest="null",
        help="use a null device: it accepts any code, keeps memory, computes nothing, and lets "
        "launches take a modelled time, for example vram=8GiB,model=H100; timing=none: no time",
    )
    parser.add_argument(
        "--local",
        action="store_true",
        help="with --software-gpu or --null-gpu: the device in the program's own process, without "
        "a worker and a network between them, to measure against",
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
    if arguments.null is not None:
        if arguments.software:
            parser.error("--null-gpu and --software-gpu exclude each other")
        arguments.software = f"null=1,{arguments.null}".rstrip(",")
    if arguments.local and not arguments.software:
        parser.error("--local needs --software-gpu or --null-gpu")
    if arguments.local and (arguments.vram or arguments.tflops):
        parser.error("--local is the whole device; give its size with --null-gpu vram=SIZE")
    if arguments.broker and (arguments.software or arguments.driver):
        parser.error("--broker uses the broker's GPUs; leave out --software-gpu and --driver")
    if arguments.software and arguments.driver:
        parser.error("--software-gpu and --driver exclude each other")
    program = arguments.command[0]
    if not shutil.which(program, path=environment.search_path(os.environ)):
        found = "/" in program and Path(program).exists()
        why = "not executable" if found else "command not found"
        print(f"carrel-run: {program}: {why}", file=sys.stderr)
        sys.exit(126 if found else 127)
    return arguments


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


async def _run(arguments: argparse.Namespace) -> int:
    signals = Signals()
    work = asyncio.create_task(
        _run_leased(arguments, signals) if arguments.broker else _run_private(arguments, signals)
    )
    signals.interrupt = work.cancel
    try:
        return await work
    except asyncio.CancelledError:
        return 128 + signals.first


# --- signals -------------------------------------------------------------------------------------


class Signals:
    """Passes signals on to the program; before there is one, they end the preparations."""

    _ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    _FROM_KEYBOARD = (signal.SIGINT, signal.SIGQUIT)

    def __init__(self) -> None:
        self.first = 0
        self.interrupt: Callable[[], object] = lambda: None
        self.program: subprocess.Popen[bytes] | None = None
        loop = asyncio.get_running_loop()
        for number in self._ENDING:
            loop.add_signal_handler(number, self._arrived, number)

    def _arrived(self, number: signal.Signals) -> None:
        again, self.first = bool(self.first), self.first or number
        if self.program is None:
            if not again:
                self.interrupt()
        elif not (number in self._FROM_KEYBOARD and _in_foreground()):
            # In the foreground, the terminal has sent it to the program, too.
            self.program.send_signal(number)


def _in_foreground() -> bool:
    """Whether this process group is the one that the terminal's keyboard interrupts."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


# --- a private node ------------------------------------------------------------------------------


async def _run_private(arguments: argparse.Namespace, signals: Signals) -> int:
    if arguments.software:
        if re.search(r"(^|,)\s*count\s*=", arguments.software):
            raise Failure("--software-gpu: a slice is of one GPU; leave count out")
        setting = f"count=1,{arguments.software}"
        gpus = inventory.software_gpus(setting)
        if arguments.local:
            return await _run_local(arguments.command, setting, gpus[0], signals)
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
    tflops = arguments.tflops or gpu.tflops
    if tflops > gpu.tflops:
        raise Failure(f"--tflops {tflops:g} is more than {gpu.model} has ({gpu.tflops:g})")
    node = Node([gpu], name=socket.gethostname(), software=setting)
    try:
        key = secrets.token_bytes(32)
        lease = f"private-{secrets.token_hex(4)}"
        node.admit(lease, key, gpu.uuid, vram_mib, tflops, math.inf)
        env = environment.slice_environment(
            node.endpoint, lease, key.hex(), arguments.name, software=gpu.needs_ptx
        )
        return await _run_program(arguments.command, env, signals)
    finally:
        await node.close("the program has ended")


async def _run_local(command: list[str], setting: str, gpu: inventory.Gpu, signals: Signals) -> int:
    assert gpu.libraries
    with tempfile.TemporaryDirectory(prefix="carrel-local-") as folder:
        env = environment.local_environment(setting, gpu.libraries, Path(folder))
        return await _run_program(command, env, signals)


# --- a lease from a broker -----------------------------------------------------------------------


async def _run_leased(arguments: argparse.Namespace, signals: Signals) -> int:
    from gpu_broker.client import AsyncBrokerClient, BrokerError

    token = os.environ.get("CARREL_TOKEN") or os.environ.get("JUPYTERHUB_API_TOKEN")
    if not token:
        raise Failure("--broker needs a token in CARREL_TOKEN or JUPYTERHUB_API_TOKEN")
    if arguments.vram is None or arguments.tflops is None:
        raise Failure("--broker needs --vram and --tflops: how much of a GPU to lease")
    name = arguments.name or " ".join(arguments.command)
    async with AsyncBrokerClient(arguments.broker, token) as broker:
        # A name of its own: asking again for the same user and name would replace that lease.
        server_name = f"carrel-run-{secrets.token_hex(4)}"
        asked = asyncio.ensure_future(
            broker.create_lease(
                vram_mib=max(1, arguments.vram >> 20),
                tflops=arguments.tflops,
                server_name=server_name,
                name=name[:_MAX_LABEL],
            )
        )
        try:
            try:
                lease = await asyncio.shield(asked)
            except asyncio.CancelledError:  # it may be ours already: give it back
                await broker.end_lease((await asked).id)
                raise
            try:
                await broker.wait_active(lease.id, _ATTACH_TIMEOUT_S)
                credentials = await broker.credentials(lease.id)
                env = environment.slice_environment(
                    credentials.endpoint,
                    credentials.lease,
                    credentials.key,
                    arguments.name,
                    software=lease.gpu.software,
                )
                heart = asyncio.create_task(
                    _heartbeat(broker, lease.id, lease.expires_at.timestamp())
                )
                try:
                    return await _run_program(arguments.command, env, signals)
                finally:
                    heart.cancel()
            finally:
                with contextlib.suppress(BrokerError):
                    await broker.end_lease(lease.id)
        except BrokerError as error:
            raise Failure(str(error)) from None


async def _heartbeat(broker: AsyncBrokerClient, lease: str, expires_at: float) -> None:
    """Extends the lease well before it expires, until it has ended."""
    from gpu_broker.client import BrokerError, Unavailable

    log = logging.getLogger("carrel")
    while True:
        await asyncio.sleep(min(60.0, max(1.0, (expires_at - time.time()) / 3)))
        try:
            expires_at = (await broker.heartbeat(lease)).expires_at.timestamp()
        except Unavailable as error:
            log.info("the lease was not extended yet: %s", error)
        except BrokerError as error:
            log.warning("the GPU is gone: %s", error)
            return


# --- the program ---------------------------------------------------------------------------------


async def _run_program(command: Sequence[str], env: dict[str, str], signals: Signals) -> int:
    """Runs ``command`` to its end; returns its exit status as a shell would."""
    loop = asyncio.get_running_loop()
    try:
        program = _start(command, env)
    except OSError as error:
        raise Failure(f"{command[0]}: {error.strerror}") from None
    signals.program = program
    ended = asyncio.Event()
    pidfd = os.pidfd_open(program.pid)
    loop.add_reader(pidfd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
    status = program.wait()
    return 128 - status if status < 0 else status


def _start(command: Sequence[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
    """Starts the program such that it gets SIGTERM when carrel-run dies, even by SIGKILL."""
    libc, parent = ctypes.CDLL(None), os.getpid()

    def die_with_parent() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before we asked
            os.kill(os.getpid(), signal.SIGTERM)

    return subprocess.Popen(command, env=env, preexec_fn=die_with_parent)


if __name__ == "__main__":
    main()
