"""``python -m hub_plugin.tether CMD …``: runs CMD so that it ends when its parent does.

For services and demos: a hub that is killed takes no leave of its children, and a broker left
over would hold the port that the next hub's broker needs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Asks the kernel for SIGTERM at the parent's death, then becomes CMD."""
    if len(sys.argv) < 2:
        sys.exit("usage: python -m hub_plugin.tether CMD [ARG …]")
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent or parent == 1:
        sys.exit("the parent is gone already")
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - no shell is the point


if __name__ == "__main__":
    main()
