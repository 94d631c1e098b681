"""Processes left by a child that died: this process adopts them, so that it can end them.

A hub that is killed leaves people's servers behind, and those their kernels; a shell script that is
ended leaves its programs. Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Collection
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


def adopt() -> None:
    """From now on, orphans among this process's descendants become its children."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def children() -> list[int]:
    """The pids of this process's children."""
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found += map(int, (task / "children").read_text().split())
    return found


def reap(own: Collection[int]) -> None:
    """Takes leave of adopted children that have ended; ``own`` are someone else's to wait for."""
    for pid in children():
        if pid not in own:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def end_all(timeout_s: float = 5.0) -> None:
    """Ends all children: SIGTERM, then SIGKILL after ``timeout_s``. Their orphans come next."""
    started = time.monotonic()
    told: set[int] = set()
    while (pids := children()) and time.monotonic() < started + 2 * timeout_s:
        late = time.monotonic() > started + timeout_s
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                if late:
                    os.kill(pid, signal.SIGKILL)
                elif pid not in told:
                    os.kill(pid, signal.SIGTERM)
                    told.add(pid)
        reap(())
        time.sleep(0.05)
