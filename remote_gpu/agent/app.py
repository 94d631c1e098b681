"""``carrel-agent``: the node agent, one per GPU host."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from traitlets import Bool, Float, Integer, List, Unicode, validate
from traitlets.config import Application

from .. import __version__, environment
from . import inventory
from .fleet import FleetClient
from .node import Node

_TOKEN_VARIABLE = "CARREL_NODE_TOKEN"  # noqa: S105


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

    @validate("port")
    def _port_in_range(self, proposal: Any) -> int:
        port = int(proposal["value"])
        if not 0 <= port <= 65535:
            raise ValueError(f"port {port} is not between 0 and 65535")
        return port

    def initialize(self, argv: list[str] | None = None) -> None:
        """Reads the command line and the configuration file."""
        super().initialize(argv)
        if self.config_file:
            self.load_config_file(self.config_file)
            self.parse_command_line(argv)  # the command line wins
        if self.generate_config:
            print(self.generate_config_file())
            sys.exit(0)

    def start(self) -> None:
        """Runs until a signal."""
        self._log_to_stderr()
        try:
            self._certificate = Path(self.broker_ca).read_bytes() if self.broker_ca else None
            asyncio.run(self._serve())
        except inventory.NoGpu as error:
            sys.exit(f"carrel-agent: {error}")
        except OSError as error:
            sys.exit(f"carrel-agent: {error}")

    def _log_to_stderr(self) -> None:
        handler = logging.StreamHandler()
        text = "%(asctime)s %(levelname)s %(message)s"
        if self.json_logs:
            text = '{"at": "%(asctime)s", "level": "%(levelname)s", "message": "%(message)s"}'
        handler.setFormatter(logging.Formatter(text))
        logger = logging.getLogger("carrel")
        logger.addHandler(handler)
        logger.setLevel(min(logging.INFO, int(self.log.level)))

    def _token(self) -> str:
        if self.token_file:
            return Path(self.token_file).read_text().strip()
        token = os.environ.pop(_TOKEN_VARIABLE, "")
        if not token:
            sys.exit(
                f"carrel-agent: no node token. Put it into a file (--token-file) or into "
                f"{_TOKEN_VARIABLE}; the broker has the same token"
            )
        return token

    async def _serve(self) -> None:
        token = self._token()
        setting, state = "", None
        try:
            if self.software_gpus:
                state = Path(tempfile.mkdtemp(prefix="carrel-softgpu-"))
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
            await node.close()


def main() -> None:
    """Entry point."""
    CarrelAgent.launch_instance()


if __name__ == "__main__":
    main()
