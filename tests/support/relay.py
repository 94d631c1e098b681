"""Runs a command in a slice whose connection to the node breaks now and then.

``python -m tests.support.relay CUT[,CUT…] -- COMMAND``: each CUT is ``BYTES:SECONDS[:how]``. Once
so many bytes have gone through the relay since the last cut, all connections break in the middle of
whatever they carry, and for so many seconds nobody is let in. ``how`` is ``fin`` (an orderly end,
the default), ``rst`` (a reset) or ``mute`` (bytes vanish for as long, then a reset). ``signal``
instead of a number: the command, whose parent is the relay, says when by sending SIGUSR1.

Prints, last of all, a line with the number of cuts made; exits with the command's status.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

_PART = 64 * 1024


class Relay:
    """Forwards connections to ``target`` until the next cut is due."""

    def __init__(self, target: tuple[str, int], cuts: list[tuple[float, float, str]]) -> None:
        self.target, self.cuts = target, cuts
        self.made = self.connections = 0
        self._passed = 0
        self._closed_until = 0.0
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            if time.monotonic() < self._closed_until:
                client.close()
                continue
            try:
                node = socket.create_connection(self.target, timeout=10)
            except OSError:
                client.close()
                continue
            node.settimeout(None)
            for one in (client, node):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self.connections += 1
                self._open |= {client, node}
            for pair in ((client, node), (node, client)):
                threading.Thread(target=self._forward, args=pair, daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(_PART):
                sink.sendall(data[: self._allow(len(data))])
        except OSError:
            pass
        for one in (source, sink):
            self._break(one, "fin")

    def cut_now(self, *_: object) -> None:
        """Makes the cut that waits for a signal, with the next bytes. A handler of signals."""
        with self._lock:
            if self.made < len(self.cuts) and self.cuts[self.made][0] == math.inf:
                self._passed = 0
                self.cuts[self.made] = (0, *self.cuts[self.made][1:])

    def _allow(self, size: int) -> int:
        """How many of ``size`` bytes still pass; makes the cut that is due."""
        with self._lock:
            if self.made == len(self.cuts):
                return size
            limit, seconds, how = self.cuts[self.made]
            self._passed += size
            if self._passed < limit:
                return size
            self.made += 1
            before, self._passed = max(0, size - int(self._passed - limit)), 0
            self._closed_until = time.monotonic() + seconds
            broken, self._open = self._open, set()
        if how == "mute":
            time.sleep(seconds)
            how = "rst"
        for one in broken:
            self._break(one, how)
        return before

    @staticmethod
    def _break(one: socket.socket, how: str) -> None:
        try:
            if how == "rst":
                linger = struct.pack("ii", 1, 0)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        one.close()


def main() -> None:
    split = sys.argv.index("--")
    cuts: list[tuple[float, float, str]] = []
    for text in sys.argv[1].split(","):
        size, seconds, *how = text.split(":")
        cuts.append(
            (math.inf if size == "signal" else int(size), float(seconds), how[0] if how else "fin")
        )
    host, _, port = os.environ["CARREL_ENDPOINT"].rpartition(":")
    relay = Relay((host, int(port)), cuts)
    signal.signal(signal.SIGUSR1, relay.cut_now)
    env = {**os.environ, "CARREL_ENDPOINT": f"127.0.0.1:{relay.port}"}
    status = subprocess.run(sys.argv[split + 1 :], env=env).returncode
    print(f"relay: {relay.made} cuts, {relay.connections} connections", flush=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
