"""What the broker's tests share: a real ``carrel-broker`` process, and a small node agent that
speaks the real fleet protocol and checks what it is told as a real one would."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx

import gpu_broker
from gpu_broker.client import BrokerClient
from gpu_broker.fleet import fleet_pb2 as pb
from gpu_broker.fleet import fleet_pb2_grpc

NODE_TOKEN = "node-token-of-the-tests"
ADMIN = "admin-token-of-the-tests"
SERVICE = "service-token-without-scopes"
PEOPLE = {name: f"token-of-{name}-in-the-tests" for name in ("ada", "ben", "cleo")}
PATIENCE_S = 15.0
ROOT = Path(gpu_broker.__file__).resolve().parents[1]


def eventually(what: Callable[[], Any], why: str, within_s: float = PATIENCE_S) -> Any:
    """Waits until ``what()`` is true and returns it; a timeout fails with ``why``."""
    deadline = time.monotonic() + within_s
    while True:
        value = what()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {why}"
        time.sleep(0.03)


class Broker:
    """A real broker in a process of its own, on free loopback ports, with its files in ``home``."""

    def __init__(self, home: Path, *options: str, env: dict[str, str] | None = None) -> None:
        self.home = home
        self._options = options
        self._env = env or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._fleet_port = 0
        tokens = {ADMIN: {"user": "root", "scopes": ["custom:gpu:admin"]}}
        tokens |= {token: {"user": name} for name, token in PEOPLE.items()}
        tokens[SERVICE] = {"user": "nobody", "scopes": []}
        (home / "tokens.json").write_text(json.dumps(tokens))
        (home / "node-token").write_text(NODE_TOKEN)

    def start(self) -> Broker:
        """Starts, or starts again on the same ports; returns when it listens."""
        ready = self.home / "ready.json"
        ready.unlink(missing_ok=True)
        clean = {
            k: v for k, v in os.environ.items() if not k.startswith(("JUPYTERHUB_", "CARREL_"))
        }
        with (self.home / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable, "-m", "gpu_broker.app", "--debug",
                    f"--port={self._port}", f"--fleet-port={self._fleet_port}",
                    f"--database=sqlite:///{self.home}/broker.sqlite",
                    f"--token-file={self.home}/tokens.json",
                    f"--node-token-file={self.home}/node-token",
                    f"--ready-file={ready}",
                    *self._options,
                ],
                cwd=self.home,
                env=clean | {"PYTHONPATH": str(ROOT)} | self._env,
                stdout=log,
                stderr=subprocess.STDOUT,
            )  # fmt: skip
        eventually(lambda: ready.exists() or self._process.poll() is not None, "start", 60)
        assert ready.exists(), self.log()
        told = json.loads(ready.read_text())
        self.url, self.fleet = told["url"], told["fleet"]
        self._port = httpx.URL(self.url).port or 0
        self._fleet_port = int(self.fleet.rpartition(":")[2])
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """kill -9: no chance to tidy up."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> int:
        """An orderly end; returns the exit status."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.terminate()
        return self._process.wait(20)

    def log(self) -> str:
        return (self.home / "broker.log").read_text()

    def client(self, who: str = "root") -> BrokerClient:
        """A client for one of the people, or the admin ``root``."""
        return BrokerClient(self.url, PEOPLE.get(who, ADMIN))

    def ask(self, method: str, path: str, who: str | None = "root", **more: Any) -> httpx.Response:
        """A raw request, for what the client would never send."""
        headers = dict(more.pop("headers", {}))
        if who is not None:
            headers["Authorization"] = f"Bearer {PEOPLE.get(who, ADMIN)}"
        return httpx.request(method, self.url + path, headers=headers, timeout=20, **more)


@dataclass
class FakeGpu:
    """A GPU that the test's agent offers."""

    uuid: str
    vram_mib: int = 8192
    tflops: float = 10.0
    index: int = 0


@dataclass
class Agent:
    """Speaks the fleet protocol as ``carrel-agent`` does, with GPUs and sessions made up by tests.

    It refuses what a real agent must refuse: more on a GPU than the GPU has. ``problems`` collects
    what the broker did wrong; tests look at it in the end.
    """

    target: str
    node: str = "node-1"
    gpus: list[FakeGpu] = field(default_factory=lambda: [FakeGpu("GPU-1")])
    token: str = NODE_TOKEN
    refuse: str = ""  # answer Admit with this error
    mute: bool = False  # do not answer commands
    leases: dict[str, pb.Admit] = field(default_factory=dict)
    sessions: dict[str, pb.Session] = field(default_factory=dict)
    heard: list[pb.BrokerMessage] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    error: str = ""

    def __post_init__(self) -> None:
        self._out: queue.Queue[pb.AgentMessage | None] = queue.Queue()
        self._stop = threading.Event()
        self.synced = threading.Event()
        self._thread: threading.Thread | None = None
        self._channel: grpc.Channel | None = None

    def start(self) -> Agent:
        self._stop.clear()
        self.synced.clear()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def connected(self) -> Agent:
        """Starts and waits for the Sync."""
        self.start()
        assert self.synced.wait(PATIENCE_S), f"no Sync: {self.error}"
        return self

    def stop(self) -> None:
        self._stop.set()
        self._out.put(None)
        if self._channel is not None:
            self._channel.close()
        if self._thread is not None:
            self._thread.join(10)

    def report(self) -> None:
        """Tells the broker what runs now."""
        used = {g.uuid: 0 for g in self.gpus}
        for session in self.sessions.values():
            if session.lease in self.leases:
                used[self.leases[session.lease].gpu_uuid] += session.vram_bytes >> 20
        gpus = [pb.GpuUse(uuid=u, used_mib=m, utilization=12.5) for u, m in used.items()]
        sessions = list(self.sessions.values())
        self._out.put(
            pb.AgentMessage(report=pb.Report(at=time.time(), gpus=gpus, sessions=sessions))
        )

    def run_program(self, lease: str, id: str, **more: Any) -> None:
        """A program attaches to a lease."""
        facts: dict[str, Any] = {
            "pid": 4242, "host": "hub", "name": "first-steps.ipynb", "program": "ipykernel",
            "vram_bytes": 64 << 20, "launches": 7, "idle_ms": 0, "started_at": time.time(),
        }  # fmt: skip
        self.sessions[id] = pb.Session(id=id, lease=lease, **(facts | more))
        self.report()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._one_stream()
            except grpc.RpcError as error:
                self.error = str(error.details())
                if error.code() in (
                    grpc.StatusCode.UNAUTHENTICATED,
                    grpc.StatusCode.INVALID_ARGUMENT,
                ):
                    return
            except ValueError:  # the channel was closed under us
                return
            self.synced.clear()
            self._stop.wait(0.1)

    def _one_stream(self) -> None:
        self._out = queue.Queue()
        gpus = [
            pb.Gpu(
                index=g.index, uuid=g.uuid, model="Carrel Software GPU", vram_mib=g.vram_mib,
                tflops=g.tflops, software=True,
            )
            for g in self.gpus
        ]  # fmt: skip
        register = pb.Register(
            node=self.node, agent_version="test", endpoint="127.0.0.1:9", protocol="00" * 32,
            gpus=gpus, leases=list(self.leases), sessions=list(self.sessions.values()),
        )  # fmt: skip
        self._out.put(pb.AgentMessage(register=register))
        with grpc.insecure_channel(self.target) as channel:
            self._channel = channel
            stub = fleet_pb2_grpc.FleetStub(channel)
            metadata = [("authorization", f"Bearer {self.token}")]
            beat = threading.Thread(target=self._beat, daemon=True)
            beat.start()
            for message in stub.Connect(iter(self._out.get, None), metadata=metadata):
                self.heard.append(message)
                self._handle(message)

    def _beat(self) -> None:
        out = self._out
        while not self._stop.wait(0.4) and out is self._out:
            if not self.mute:
                self.report()

    def _handle(self, message: pb.BrokerMessage) -> None:
        kind = message.WhichOneof("body")
        if kind == "welcome" or self.mute:
            return
        command = getattr(message, kind)
        error = ""
        if kind == "sync":
            self.leases = {}
            for admit in command.leases:
                self._admit(admit)
            self.synced.set()
        elif kind == "admit":
            error = self.refuse or self._admit(command)
        elif kind == "revoke":
            self.leases.pop(command.lease, None)
        elif kind == "end_session":
            self.sessions.pop(command.session, None)
        self.sessions = {i: s for i, s in self.sessions.items() if s.lease in self.leases}
        self._out.put(
            pb.AgentMessage(
                result=pb.Result(command_id=command.command_id, ok=not error, error=error)
            )
        )

    def _admit(self, admit: pb.Admit) -> str:
        gpu = next((g for g in self.gpus if g.uuid == admit.gpu_uuid), None)
        if gpu is None:
            return f"there is no GPU {admit.gpu_uuid} here"
        others = [a for a in self.leases.values() if a.lease != admit.lease]
        others = [a for a in others if a.gpu_uuid == admit.gpu_uuid]
        vram = sum(a.vram_mib for a in others) + admit.vram_mib
        tflops = sum(a.tflops for a in others) + admit.tflops
        if vram > gpu.vram_mib or tflops > gpu.tflops + 1e-6:
            self.problems.append(f"{vram} MiB and {tflops} TFLOPS on {gpu}")
            return "that is more than the GPU has"
        if len(bytes.fromhex(admit.key)) != 32:
            self.problems.append("a key of the wrong length")
        self.leases[admit.lease] = admit
        return ""
