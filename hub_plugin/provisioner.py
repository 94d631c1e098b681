"""Kernels on a slice: each session carries its notebook's name, and ends with its kernel.

Runs in the single-user server, chosen there by ``JUPYTER_DEFAULT_PROVISIONER_NAME``. A kernel is
one client process, so it has a session of its own; a restarted kernel is a new process and
attaches again. Without a slice in the environment this is Jupyter's own local provisioner.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from remote_gpu.environment import slice_environment

# As the handshake allows; in UTF-8.
MAX_NAME_BYTES = 256


class CarrelProvisioner(LocalProvisioner):
    """Starts kernels as child processes, each with a named session on the server's slice."""

    on_slice = False

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Puts the notebook's name into the kernel's environment."""
        kwargs = await super().pre_launch(**kwargs)
        env: dict[str, str] = dict(kwargs.get("env") or os.environ)
        self.on_slice = bool(env.get("CARREL_LEASE"))
        if self.on_slice:
            kwargs["env"] = slice_environment(
                env["CARREL_ENDPOINT"],
                env["CARREL_LEASE"],
                env["CARREL_LEASE_KEY"],
                name=session_name(env.get("JPY_SESSION_NAME", ""), Path.home()),
                base=env,
                software=env.get("CARREL_SOFTWARE_GPU") == "1",
            )
        return kwargs

    async def cleanup(self, restart: bool = False) -> None:
        """Ends what the kernel leaves behind in its process group: a forked child may hold the
        kernel's connection to the GPU open, and with it the session."""
        if self.on_slice and self.pgid and self.pgid != os.getpgrp():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pgid, signal.SIGKILL)
        await super().cleanup(restart)


def session_name(path: str, home: Path) -> str:
    """A notebook's path for people: relative to the home, at most 256 bytes of UTF-8.

    JupyterLab's consoles append an id to the path of their folder; they show as they are.
    """
    if path and Path(path).is_absolute():
        with contextlib.suppress(ValueError):
            path = str(Path(path).relative_to(home))
    path = "".join(char if char.isprintable() else "?" for char in path)
    if len(path.encode()) <= MAX_NAME_BYTES:
        return path
    # The end says more than the beginning.
    return "…" + path.encode()[-(MAX_NAME_BYTES - 3) :].decode(errors="ignore")
