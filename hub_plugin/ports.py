"""Ports of loopback for servers that bind them a moment later.

A port that was free when it was looked at may be taken before its server binds it: by another
server that was told the same port at the same time, or by any connection going out, because the
system draws those ports from the same range. JupyterHub then takes the other server's answer for
its own server's. So these ports lie below that range, and a process gives each of them once in a
round.
"""

from __future__ import annotations

import random
import socket
from itertools import cycle, islice

# Linux draws the ports of outgoing connections, and of bind(0), from 32768 up by default.
PORTS = range(20_000, 32_000)

# Each process begins elsewhere, so that two hubs on one machine hardly ever meet.
_round = cycle(random.sample(PORTS, len(PORTS)))


def free_ports(count: int) -> list[int]:
    """``count`` ports of 127.0.0.1 that nobody listens on, none given twice in a round of
    ``PORTS``.

    Raises:
        OSError: as many are not free.
    """
    found: list[int] = []
    for port in islice(_round, len(PORTS)):
        if len(found) == count:
            break
        with socket.socket() as probe:
            # As servers bind: a port whose last connections are still closing is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
    if len(found) < count:
        raise OSError(f"no {count} free ports in {PORTS.start} to {PORTS.stop - 1} of 127.0.0.1")
    return found
