"""``carrel-demo``: a hub, its proxy, the broker and one node with software GPUs, on loopback.

Starts them as children, restarts one that dies, and takes all of them along when it ends. Knows
their command lines and nothing of their inside.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from gpu_broker.client import BrokerClient, BrokerError
from hub_plugin.ports import free_ports
from remote_gpu import orphans

HERE = Path(__file__).parent
PROXY = "configurable-http-proxy"
START_TIMEOUT_S = 120
# A part that dies more often than this within a minute will not get better by itself.
RESTARTS_A_MINUTE = 5
SIZES = [
    {"name": "quarter", "label": "Quarter", "share": 4},
    {"name": "half", "label": "Half", "share": 2},
    {"name": "whole", "label": "Whole", "share": 1},
]


class DemoError(Exception):
    """The demo cannot start or go on; the text says why and what to do."""


@dataclass
class Part:
    """One child, restarted when it dies."""

    name: str
    argv: list[str]
    env: dict[str, str]
    cwd: Path
    log: Path
    process: subprocess.Popen[bytes] | None = None
    starts: list[float] = field(default_factory=list)

    def start(self) -> None:
        """Starts it, tethered to this process, with its output in its log."""
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hub_plugin.tether", *self.argv],
                env=self.env, cwd=self.cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip
        self.starts = [*(at for at in self.starts if at > time.monotonic() - 60), time.monotonic()]

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process else None

    def died(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def end(self, timeout_s: float) -> None:
        """Asks it to end, waits, and kills it if it does not."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Demo:
    """All parts and what they share."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.directory = Path(options.directory).resolve()
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.url = f"http://127.0.0.1:{options.port}"
        self.students: list[str] = [name for name in options.students.split(",") if name]
        self.secrets = self._secrets()
        self.stopping = False
        self.parts = self._parts()

    def _secrets(self) -> dict[str, str]:
        """Made at the first start and kept, so that logins and running servers outlive one."""
        path = self.directory / "secrets.json"
        kept: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        for name in ("proxy", "service", "spawner", "node"):
            kept.setdefault(name, secrets.token_hex(32))
        kept.setdefault("password", secrets.token_urlsafe(6))
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            json.dump(kept, out)
        return kept

    def _parts(self) -> dict[str, Part]:
        hub, proxy_api, broker, fleet, door = free_ports(5)
        hub_url = f"http://127.0.0.1:{hub}"
        self.broker_url = f"http://127.0.0.1:{broker}"
        settings = {
            "directory": str(self.directory),
            "url": self.url,
            "hub_url": hub_url,
            "proxy_api_url": f"http://127.0.0.1:{proxy_api}",
            "broker_url": self.broker_url,
            "students": self.students,
            "sizes": self._sizes(),
            "lease_ttl_s": self.options.lease_ttl,
            "notebooks": str(HERE / "notebooks"),
        }
        python = [sys.executable, "-m"]
        commands: dict[str, tuple[list[str], dict[str, str]]] = {
            "proxy": (
                [
                    _proxy_program(), "--ip=127.0.0.1", f"--port={self.options.port}",
                    "--api-ip=127.0.0.1", f"--api-port={proxy_api}",
                    f"--default-target={hub_url}", f"--error-target={hub_url}/hub/error",
                ],
                {"CONFIGPROXY_AUTH_TOKEN": self.secrets["proxy"]},
            ),
            "hub": (
                [*python, "jupyterhub", f"--config={HERE / 'demo_config.py'}"],
                {
                    "CARREL_DEMO": json.dumps(settings),
                    "CARREL_DEMO_PASSWORD": self.secrets["password"],
                    "CARREL_DEMO_PROXY_TOKEN": self.secrets["proxy"],
                    "CARREL_DEMO_SERVICE_TOKEN": self.secrets["service"],
                    "CARREL_DEMO_SPAWNER_TOKEN": self.secrets["spawner"],
                },
            ),
            "broker": (
                [
                    *python, "gpu_broker.app", f"--fleet-port={fleet}",
                    f"--BrokerApp.lease_ttl_s={self.options.lease_ttl}",
                    *self.options.broker_option,
                ],
                {
                    "CARREL_NODE_TOKEN": self.secrets["node"],
                    **service_environment(self.secrets["service"], hub_url, self.broker_url),
                },
            ),
            "node": (
                [
                    *python, "remote_gpu.agent.app", f"--broker=127.0.0.1:{fleet}",
                    f"--port={door}", "--node-name=demo-node",
                    f"--CarrelAgent.state_dir={self.directory / 'gpus'}",
                    f"--software-gpus={self.options.gpus}",
                    f"--software-vram={self.options.vram}",
                    f"--tflops={self.options.tflops:g}",
                ],
                {"CARREL_NODE_TOKEN": self.secrets["node"]},
            ),
        }  # fmt: skip
        logs = self.directory / "logs"
        logs.mkdir(exist_ok=True)
        if not self.options.gpus:
            del commands["node"]
        return {
            name: Part(name, argv, _environment(extra), self.directory, logs / f"{name}.log")
            for name, (argv, extra) in commands.items()
        }

    def _sizes(self) -> list[dict[str, Any]]:
        mib = _mib(self.options.vram)
        return [
            {
                "name": size["name"],
                "label": size["label"],
                "vram_mib": mib // int(str(size["share"])),
                "tflops": self.options.tflops / int(str(size["share"])),
            }
            for size in SIZES
        ]

    # ---- running -----------------------------------------------------------------------------

    def run(self) -> None:
        """Runs until SIGINT or SIGTERM. Raises :class:`DemoError`."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._stop)
        orphans.adopt()
        try:
            for part in self.parts.values():
                part.start()
            self._record(ready=False)
            self._wait_ready()
            self._record(ready=True)
            if not self.stopping:
                print(self._banner(), flush=True)
            while not self.stopping:
                self._watch()
                time.sleep(0.2)
        finally:
            self._end()

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def _watch(self) -> None:
        for part in self.parts.values():
            if not part.died():
                continue
            assert part.process is not None
            if len(part.starts) > RESTARTS_A_MINUTE:
                raise DemoError(
                    f"{part.name} ended {len(part.starts)} times within a minute.\n"
                    + _tail(part.log)
                )
            print(f"carrel-demo: {part.name} ended ({part.process.returncode}); starting it again")
            part.start()
            self._record(ready=True)
        orphans.reap(self._pids())

    def _pids(self) -> set[int]:
        return {part.pid for part in self.parts.values() if part.pid is not None}

    def _wait_ready(self) -> None:
        for what in self._conditions():
            deadline = time.monotonic() + START_TIMEOUT_S
            while not self.stopping and not what():
                for part in self.parts.values():
                    if part.died():
                        raise DemoError(f"{part.name} did not start.\n{_tail(part.log)}")
                if time.monotonic() > deadline:
                    raise DemoError(
                        f"The demo was not ready within {START_TIMEOUT_S} s; see "
                        f"{self.directory / 'logs'}"
                    )
                time.sleep(0.1)

    def _conditions(self) -> Iterator[Any]:
        def hub_answers() -> bool:
            try:
                answer = httpx.get(f"{self.url}/hub/health", timeout=5)
                return answer.status_code == 200
            except httpx.HTTPError:
                return False

        def gpus_are_there() -> bool:
            try:
                with BrokerClient(self.broker_url + "/services/gpu", self.secrets["spawner"]) as b:
                    return bool(len(b.capacity().gpus) == self.options.gpus)
            except BrokerError:
                return False

        yield hub_answers
        yield gpus_are_there

    def _record(self, ready: bool) -> None:
        """Where all of it is, for scripts; holds no secret."""
        path = self.directory / "demo.json"
        unfinished = path.with_suffix(".new")
        unfinished.write_text(
            json.dumps(
                {
                    "ready": ready,
                    "url": self.url,
                    "broker_url": self.broker_url + "/services/gpu",
                    "pid": os.getpid(),
                    "parts": {name: part.pid for name, part in self.parts.items()},
                }
            )
            + "\n"
        )
        unfinished.replace(path)

    def _end(self) -> None:
        """The hub first, because it stops people's servers; then the rest, then what is left."""
        print("carrel-demo: stopping", flush=True)
        for name in ("hub", "node", "broker", "proxy"):
            if name in self.parts:
                self.parts[name].end(20 if name == "hub" else 8)
        orphans.end_all()
        with contextlib.suppress(FileNotFoundError):
            (self.directory / "demo.json").unlink()

    def _banner(self) -> str:
        names = ", ".join(self.students)
        return f"""
  Carrel is at  {self.url}

  Log in as     {names} (students), cleo (instructor) or admin
  Password      {self.secrets["password"]}

  1. Log in and choose a slice of a GPU, then Start.
  2. Open a notebook on the left and run it: real CUDA code, on a remote GPU.
  3. As cleo or admin, see who holds what: {self.url}/services/gpu/

  The {self.options.gpus} GPUs of {self.options.vram} are software: they run real PTX on this
  machine's processor, correctly and slowly. Logs and homes: {self.directory}
  Ctrl-C ends all of it.
"""


def service_environment(token: str, hub_url: str, broker_url: str) -> dict[str, str]:
    """What JupyterHub gives to a service that it starts, for the broker that it does not."""
    access = "access:services!service=gpu"
    return {
        "JUPYTERHUB_SERVICE_NAME": "gpu",
        "JUPYTERHUB_SERVICE_PREFIX": "/services/gpu/",
        "JUPYTERHUB_SERVICE_URL": broker_url,
        "JUPYTERHUB_API_TOKEN": token,
        "JUPYTERHUB_API_URL": f"{hub_url}/hub/api",
        "JUPYTERHUB_BASE_URL": "/",
        "JUPYTERHUB_CLIENT_ID": "service-gpu",
        "JUPYTERHUB_OAUTH_SCOPES": json.dumps(["access:services", access]),
        "JUPYTERHUB_OAUTH_ACCESS_SCOPES": json.dumps(["access:services", access]),
    }


def _environment(extra: dict[str, str]) -> dict[str, str]:
    """This process's environment without what belongs to another hub or slice."""
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JUPYTERHUB_", "CARREL_", "CONFIGPROXY_")) and name != "LD_AUDIT"
    }
    scripts = str(Path(sys.executable).parent)
    env["PATH"] = os.pathsep.join([scripts, env.get("PATH", os.defpath)])
    return {**env, **extra}


def _proxy_program() -> str:
    local = Path.cwd() / ".cache/node/node_modules/.bin" / PROXY
    found = str(local) if local.exists() else shutil.which(PROXY)
    if not found:
        raise DemoError(f"{PROXY} is missing. `make demo` installs it; or: npm install -g {PROXY}")
    return found


def _mib(text: str) -> int:
    for unit, mib in (("GiB", 1024), ("MiB", 1)):
        number = text.removesuffix(unit)
        if number != text and number.isdigit() and int(number) > 0:
            return int(number) * mib
    raise DemoError(f"--vram: {text!r} is no size such as 8GiB or 512MiB")


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-15:]
    return f"The end of {log}:\n  " + "\n  ".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="carrel-demo",
        description="Runs JupyterHub, the GPU broker and a node with software GPUs on 127.0.0.1, "
        "to try Carrel without a GPU.",
    )
    parser.add_argument("--port", type=int, default=8000, help="port of the hub (default: 8000)")
    parser.add_argument(
        "--directory", default=".demo", help="where its state is kept (default: .demo)"
    )
    parser.add_argument(
        "--gpus", type=int, default=2, help="software GPUs; 0: no node at all (default: 2)"
    )
    parser.add_argument("--vram", default="8GiB", help="memory of each (default: 8GiB)")
    parser.add_argument(
        "--tflops", type=float, default=20.0,
        help="compute of each for the accounts; what they really do is far less (default: 20)",
    )  # fmt: skip
    parser.add_argument(
        "--students", default="ada,ben", help="users besides cleo and admin (default: ada,ben)"
    )
    parser.add_argument(
        "--lease-ttl", type=float, default=180.0, metavar="SECONDS",
        help="how long a lease outlives a hub that is gone (default: 180)",
    )  # fmt: skip
    parser.add_argument(
        "--broker-option", action="append", default=[], metavar="OPTION",
        help="passed on to carrel-broker, e.g. --broker-option=--BrokerApp.max_leases_per_user=1",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """The console script."""
    options = _parser().parse_args(argv)
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", options.port))
        except OSError as error:
            sys.exit(
                f"carrel-demo: port {options.port} is taken ({error.strerror}); choose another "
                "with --port (make demo ARGS=--port=8010)"
            )
    try:
        Demo(options).run()
    except DemoError as error:
        sys.exit(f"carrel-demo: {error}")


if __name__ == "__main__":
    main()
