"""``carrel-demo`` as the tests run it: hub, proxy, broker and node, all real, on free ports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from gpu_broker.client import BrokerClient
from gpu_broker.models import Lease
from hub_plugin.ports import free_ports
from tests.support.hub import Person

LIVE = ("queued", "granted", "active", "idle")
ROOT = Path(__file__).parents[2]


def eventually(what: Callable[[], Any], why: str, within_s: float = 20) -> Any:
    """Waits until ``what()`` is true and returns it; a timeout fails with ``why``."""
    deadline = time.monotonic() + within_s
    while not (value := what()):
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {why}"
        time.sleep(0.1)
    return value


class Demo:
    """A running demo; ``ttl_s`` is the TTL of its leases."""

    ttl_s = 20.0  # a restarting hub has to be back within it

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        (self.port,) = free_ports(1)
        self.output = directory / "demo.out"
        directory.mkdir(parents=True, exist_ok=True)
        with self.output.open("wb") as out:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "hub_plugin.demo", f"--port={self.port}",
                    f"--directory={directory}", f"--lease-ttl={self.ttl_s}", *options,
                ],
                stdout=out, stderr=out, stdin=subprocess.DEVNULL, cwd=ROOT,
            )  # fmt: skip
        try:
            eventually(lambda: self._ready() or self._failed(), "the demo starts", 120)
        except AssertionError:
            self.stop()
            raise
        assert not self._failed(), self.text()
        secrets = json.loads((directory / "secrets.json").read_text())
        self.password = secrets["password"]
        self.spawner_token = secrets["spawner"]
        self.url = f"http://127.0.0.1:{self.port}"
        self.broker = BrokerClient(self.facts()["broker_url"], self.spawner_token)

    def text(self) -> str:
        return self.output.read_text()

    def _ready(self) -> bool:
        return "Password" in self.text()

    def _failed(self) -> bool:
        return self.process.poll() is not None

    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((self.directory / "demo.json").read_text())
        return facts

    def pid(self, part: str) -> int:
        return int(self.facts()["parts"][part])

    def kill(self, part: str) -> None:
        """kill -9; the demo starts it again."""
        pid = self.pid(part)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: self.pid(part) != pid, f"{part} is started again")

    def workers(self) -> list[psutil.Process]:
        """The live workers of the node."""
        found = []
        for child in psutil.Process(self.pid("node")).children(recursive=True):
            try:
                if child.name() == "carrel-worker" and child.status() != psutil.STATUS_ZOMBIE:
                    found.append(child)
            except psutil.NoSuchProcess:
                continue
        return found

    def leases(self, user: str | None = None) -> list[Lease]:
        """Leases that have not ended."""
        return [lease for lease in self.broker.leases(user) if lease.state in LIVE]

    def person(self, name: str) -> Person:
        return Person(self.url, name, self.password)

    def log(self, part: str) -> str:
        return (self.directory / "logs" / f"{part}.log").read_text(errors="replace")

    def stop(self) -> int:
        """Ctrl-C, as a person at the terminal does it; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
