"""``carrel-agent``: the node agent, one per GPU host."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shutil
import signal
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any

from traitlets import Bool, Float, Integer, List, TraitError, Unicode, default, validate
from traitlets.config import Application, catch_config_error

from .. import __version__, environment
from . import inventory
from .door import host_name
from .fleet import FleetClient
from .node import Node

_TOKEN_VARIABLE = "CARREL_NODE_TOKEN"  # noqa: S105
_LOOPBACK = re.compile(r"localhost|127(\.\d+){3}|::1")


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON: time, level, logger, message."""
        line = {
            "at": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class CarrelAgent(Application):
    """Offers this host's GPUs to a broker: admits leases and starts a worker per program."""

    name = "carrel-agent"
    version = __version__
    description = __doc__
    examples = """
    carrel-agent --broker=broker.example.edu:8096 --ip=0.0.0.0      # this host's NVIDIA GPUs
    carrel-agent --broker=127.0.0.1:8096 --software-gpus=2           # two software GPUs
    """

    broker = Unicode(
        "127.0.0.1:8096",
        help="host:port of the broker's fleet address (BrokerApp.fleet_ip, fleet_port there).",
    ).tag(config=True)
    token_file = Unicode(
        "",
        help="File that holds the node token (the broker's node_token_file has the same). "
        f"Without it the environment variable {_TOKEN_VARIABLE} is read. Never an argument.",
    ).tag(config=True)
    broker_ca = Unicode(
        "",
        help="PEM file of the authority that signed the broker's certificate. Empty: no TLS, which "
        "is for loopback only.",
    ).tag(config=True)
    allow_insecure_broker = Bool(
        False,
        help="Allow a broker beyond loopback without TLS. Only where something else encrypts that "
        "network, because the node token and the keys of leases pass here.",
    ).tag(config=True)
    node_name = Unicode("", help="This node's name; unique. Default: the host's name.").tag(
        config=True
    )
    ip = Unicode(
        "127.0.0.1",
        help="Address on which the front door listens. Programs must reach it; the default is "
        "loopback, for a hub on the same host.",
    ).tag(config=True)
    port = Integer(7480, help="Port of the front door; 0 picks a free one.").tag(config=True)
    endpoint = Unicode(
        "",
        help="host:port by which programs reach the front door, when it is not ip:port (behind NAT "
        "or a service).",
    ).tag(config=True)
    software_gpus = Integer(
        0, help="Offer that many software GPUs instead of NVIDIA's; for trials and tests."
    ).tag(config=True)
    software_vram = Unicode("8GiB", help="VRAM of each software GPU.").tag(config=True)
    software_options = Unicode(
        "", help="Further settings of the software GPUs, such as sms=16,cc=8.0."
    ).tag(config=True)
    state_dir = Unicode(
        help="Directory in which software GPUs account for their VRAM. It also names them: with "
        "the same directory they have the same UUIDs after a restart. Default: one of this user "
        "and node name in $XDG_RUNTIME_DIR or the temporary directory. Removed at the end.",
    ).tag(config=True)
    tflops = Float(
        0.0,
        min=0.0,
        help="Dense FP16 TFLOPS of each GPU of this node. 0: from the table of known models.",
    ).tag(config=True)
    driver = Unicode("libcuda.so.1", help="NVIDIA's driver library.").tag(config=True)
    worker_command = List(
        Unicode(),
        [str(environment.WORKER)],
        help="The worker program and leading arguments.",
    ).tag(config=True)
    json_logs = Bool(False, help="One JSON object per log line.").tag(config=True)

    aliases = {  # noqa: RUF012
        "broker": "CarrelAgent.broker",
        "node-name": "CarrelAgent.node_name",
        "ip": "CarrelAgent.ip",
        "port": "CarrelAgent.port",
        "endpoint": "CarrelAgent.endpoint",
        "software-gpus": "CarrelAgent.software_gpus",
        "software-vram": "CarrelAgent.software_vram",
        "software-options": "CarrelAgent.software_options",
        "state-dir": "CarrelAgent.state_dir",
        "tflops": "CarrelAgent.tflops",
        "token-file": "CarrelAgent.token_file",
        "config": "CarrelAgent.config_file",
        "log-level": "Application.log_level",
    }
    config_file = Unicode("", help="A Python configuration file.").tag(config=True)
    generate_config = Bool(False, help="Print a commented configuration file and exit.").tag(
        config=True
    )
    flags = {  # noqa: RUF012
        "generate-config": (
            {"CarrelAgent": {"generate_config": True}},
            "Print a commented configuration file and exit.",
        ),
    }

    @default("state_dir")
    def _state_dir(self) -> str:
        base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
        return str(base / f"carrel-softgpu-{os.getuid()}-{self.node_name or host_name()}")

    @validate("node_name")
    def _printable_name(self, proposal: Any) -> str:
        name = str(proposal["value"])
        if name and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name):
            raise TraitError(f"{name!r} is no node name: letters, digits, '.', '_' and '-' only")
        return name

    @validate("port")
    def _port_in_range(self, proposal: Any) -> int:
        port = int(proposal["value"])
        if not 0 <= port <= 65535:
            raise TraitError(f"port {port} is not between 0 and 65535")
        return port

    @catch_config_error
    def initialize(self, argv: list[str] | None = None) -> None:
        """Reads the command line and the configuration file."""
        super().initialize(argv)
        if self.config_file:
            if not Path(self.config_file).is_file():
                self.exit(f"carrel-agent: there is no configuration file {self.config_file}")
            self.load_config_file(self.config_file)
            self.parse_command_line(argv)  # the command line wins
        if self.generate_config:
            print(self.generate_config_file())
            sys.exit(0)

    def start(self) -> None:
        """Runs until a signal."""
        self._log_to_stderr()
        broker = self.broker.rpartition(":")[0].strip("[]")
        if not (self.broker_ca or self.allow_insecure_broker or _LOOPBACK.fullmatch(broker)):
            sys.exit(
                f"carrel-agent: the broker at {self.broker} is not on loopback: set "
                "CarrelAgent.broker_ca, or CarrelAgent.allow_insecure_broker if something else "
                "encrypts that network"
            )
        try:
            self._certificate = Path(self.broker_ca).read_bytes() if self.broker_ca else None
            asyncio.run(self._serve())
        except (inventory.NoGpu, OSError) as error:
            sys.exit(f"carrel-agent: {error}")
        except KeyboardInterrupt:  # before there was anything to end
            sys.exit(130)

    def _log_to_stderr(self) -> None:
        handler = logging.StreamHandler()
        plain = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
        handler.setFormatter(JsonFormatter() if self.json_logs else plain)
        logger = logging.getLogger("carrel")
        logger.addHandler(handler)
        logger.setLevel(min(logging.INFO, int(self.log.level)))

    def _token(self) -> str:
        token = os.environ.pop(_TOKEN_VARIABLE, "")
        if self.token_file:
            token = Path(self.token_file).read_text()
        if not token.strip():
            sys.exit(
                "carrel-agent: no node token. Put it into a file (--token-file) or into "
                f"{_TOKEN_VARIABLE}; the broker has the same token"
            )
        return token.strip()

    def _private_state(self) -> Path:
        """The directory of :attr:`state_dir`, made if need be, this user's alone."""
        path = Path(self.state_dir)
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            sys.exit(f"carrel-agent: {path} is not a directory of this user; set --state-dir")
        return path

    async def _serve(self) -> None:
        token = self._token()
        setting, state = "", None
        try:
            if self.software_gpus:
                state = self._private_state()
                setting = inventory.software_setting(
                    self.software_gpus, self.software_vram, state, self.software_options
                )
                gpus = inventory.software_gpus(setting, self.tflops or None)
            else:
                gpus = inventory.nvidia_gpus(Path(self.driver), self.tflops or None)
            node = Node(gpus, self.node_name, self.ip, self.port, self.worker_command, setting)
            await self._run(node, token)
        finally:
            if state:
                shutil.rmtree(state, ignore_errors=True)

    async def _run(self, node: Node, token: str) -> None:
        log = logging.getLogger("carrel.agent")
        for gpu in node.gpus.values():
            log.info("GPU %d: %s, %d MiB, %g TFLOPS, %s",
                     gpu.index, gpu.model, gpu.vram_mib, gpu.tflops, gpu.uuid)  # fmt: skip
        log.info("node %s: front door at %s, broker at %s", node.name, node.endpoint, self.broker)
        client = FleetClient(node, self.broker, token, self.endpoint, self._certificate)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        fleet = asyncio.create_task(client.run())
        stopping = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait({fleet, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if fleet in done:
                fleet.result()  # raises what ended it
        finally:
            fleet.cancel()
            stopping.cancel()
            await asyncio.gather(fleet, stopping, return_exceptions=True)
            await node.close()


def main() -> None:
    """Entry point."""
    CarrelAgent.launch_instance()


if __name__ == "__main__":
    main()
