"""The processes that run the models: natively, remotely, and remotely with a relay in between.

All stay for the whole run and take turns, so that what the machine does besides touches them alike.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CARREL_RUN = (sys.executable, "-m", "remote_gpu.run")
LOAD_TIMEOUT_S = 900.0  # compiling a large model on a slow machine
STEPS_TIMEOUT_S = 600.0


class Failed(Exception):
    """A lane could not do what it was told; the message says why."""


@dataclass(frozen=True)
class Device:
    """What the models run on, and how a program gets it: natively, and through Carrel.

    Args:
        name: ``gpu``, ``null`` or ``software``.
        native: the command before a program that uses the device itself; None if there is no way.
        remote: the command before a program that uses it through Carrel.
        compiled_only: it runs none of PyTorch's own kernels.
        says: what every table from it must say.
    """

    name: str
    native: tuple[str, ...] | None
    remote: tuple[str, ...]
    compiled_only: bool = False
    says: str = ""


_LIBRARIES = """
import glob, importlib.util
spec = importlib.util.find_spec("nvidia")
places = (spec.submodule_search_locations or []) if spec else []
print(":".join(sorted(one for place in places for one in glob.glob(place + "/*/lib"))))
"""


def cuda_libraries(python: Path) -> str:
    """The folders of NVIDIA's libraries that ``python`` has from PyPI, with colons; for the worker,
    which serves a program with the real ones.
    """
    done = subprocess.run(
        [str(python), "-c", _LIBRARIES], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def device(name: str, vram: str, model: str, python: Path) -> Device:
    """The device of that name; ``vram`` and ``model`` are for those that are not real, ``python``
    is the one that has PyTorch.
    """
    if name == "gpu":
        known = os.environ.get("CARREL_LIBRARY_PATH")
        folders = known or cuda_libraries(python)
        find = ("env", f"CARREL_LIBRARY_PATH={folders}") if folders else ()
        return Device("gpu", (), (*find, *CARREL_RUN, "--"))
    if name == "null":
        null = ("--null-gpu", f"vram={vram},model={model}", "--")
        return Device(
            "null", (*CARREL_RUN, "--local", *null), (*CARREL_RUN, *null),
            says="the null device computes nothing: a launch takes a modelled time. "
            "These are figures of the road, never of a GPU",
        )  # fmt: skip
    if name == "software":
        return Device(
            "software", None, (*CARREL_RUN, "--software-gpu", f"vram={vram}", "--"),
            compiled_only=True,
            says="a software GPU, on the CPU: figures of the road, never of a GPU",
        )  # fmt: skip
    raise ValueError(f"no device is called {name}")


class Lane:
    """One process of ``bench.models.program``."""

    def __init__(
        self, prefix: Sequence[str], python: Path, *, relayed: bool = False, trace: bool = False,
        log: Path | None = None, caches: Path | None = None,
    ) -> None:  # fmt: skip
        self._command = [*prefix, str(python), "-m", "bench.models.program"]
        if relayed:
            self._command.append("--relayed")
        self._env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "CARREL_TRANSPORT": "tcp",  # as between two machines
            "PYTHONUNBUFFERED": "1",
        }
        if trace:
            self._env["CARREL_TRACE"] = "summary"
        if caches:
            self._env |= {
                "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
                "TRITON_CACHE_DIR": str(caches / "triton"),
            }
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        errors = self._log.open("ab") if self._log else None
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, env=self._env, stderr=errors,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        if errors:
            errors.close()

    def ask(self, do: str, timeout_s: float = 120.0, **what: Any) -> dict[str, Any]:
        """What the process answers.

        Raises:
            Failed: it could not, or it ended, or took longer than ``timeout_s``; it is then started
                anew at the next question.
        """
        if self._process is None:
            self.start()
        assert self._process
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps({"do": do, **what}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise Failed(self._ended()) from None
        line = self._line(timeout_s)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def _line(self, timeout_s: float) -> bytes:
        assert self._process
        assert self._process.stdout
        until, data = time.monotonic() + timeout_s, b""
        descriptor = self._process.stdout.fileno()
        while not data.endswith(b"\n"):
            ready, _, _ = select.select([descriptor], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                self.close(kill=True)
                raise Failed(f"no answer after {timeout_s:g} s")
            part = os.read(descriptor, 1 << 20)
            if not part:
                raise Failed(self._ended())
            data += part
        return data

    def _ended(self) -> str:
        assert self._process
        try:
            status: int | None = self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            status = None
        self.close(kill=True)
        return f"the program ended with status {status}" + (
            f"; see {self._log}" if self._log else ""
        )

    def close(self, kill: bool = False) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin
        assert process.stdout
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            if kill:
                process.terminate()
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
