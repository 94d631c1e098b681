"""The relay keeps bytes and their order, delays, limits and breaks; over real sockets.

Delays are asserted from below only: a busy machine adds to them.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from bench import network, programs

MIB = 1 << 20


class Node:
    """Listens; every connection is answered by ``serve`` in a thread of its own."""

    def __init__(self, serve: str) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.serve = getattr(self, serve)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                one, _ = self.listener.accept()
            except OSError:
                return
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.serve, args=(one,), daemon=True).start()

    def echo(self, one: socket.socket) -> None:
        with closing(one):
            try:
                while data := one.recv(70_000):
                    one.sendall(data)
            except OSError:
                pass

    def count(self, one: socket.socket) -> None:
        """Reads to the end, and only then answers how much it was."""
        with closing(one):
            total = 0
            while data := one.recv(70_000):
                total += len(data)
            one.sendall(str(total).encode())


@pytest.fixture
def echo() -> Iterator[Node]:
    node = Node("echo")
    yield node
    node.listener.close()


def connect(relay: network.Relay) -> socket.socket:
    one = socket.create_connection(("127.0.0.1", relay.port), timeout=20)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one


def read(one: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = one.recv(size - len(data))
        assert part, f"the connection ended after {len(data)} of {size} bytes"
        data += part
    return bytes(data)


@pytest.mark.parametrize(("rtt_ms", "gbit_s"), [(0.0, 0.0), (2.0, 0.0), (1.0, 2.0)])
def test_bytes_arrive_whole_and_in_order(echo: Node, rtt_ms: float, gbit_s: float) -> None:
    """Parts of all sizes, more than the window holds, while they come back; two connections."""
    with network.Relay(echo.endpoint, rtt_ms=rtt_ms, gbit_s=gbit_s) as relay:

        def exchange(seed: int) -> None:
            order = random.Random(seed)
            data = order.randbytes(12 * MIB)
            with closing(connect(relay)) as one:

                def send() -> None:
                    at = 0
                    while at < len(data):
                        size = int(2 ** order.uniform(0, 20))
                        one.sendall(data[at : at + size])
                        at += size

                sender = threading.Thread(target=send, daemon=True)
                sender.start()
                results.append(read(one, len(data)) == data)
                sender.join()

        results: list[bool] = []
        threads = [threading.Thread(target=exchange, args=(seed,)) for seed in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [True, True]
        stats = relay.stats()
        assert stats["connections"] == 2
        assert stats["bytes_up"] == stats["bytes_down"] == 24 * MIB


def test_the_round_trip_is_as_long_as_set(echo: Node) -> None:
    with network.Relay(echo.endpoint, rtt_ms=40) as relay, closing(connect(relay)) as one:

        def ping() -> float:
            start = time.perf_counter()
            one.sendall(b"ping")
            assert read(one, 4) == b"ping"
            return time.perf_counter() - start

        assert min(ping() for _ in range(5)) >= 0.040
        relay.set_rtt(5)
        assert min(ping() for _ in range(5)) >= 0.005
        assert min(ping() for _ in range(5)) < 0.040


def test_a_delay_that_shrinks_overtakes_nothing(echo: Node) -> None:
    with network.Relay(echo.endpoint, rtt_ms=300) as relay, closing(connect(relay)) as one:
        one.sendall(b"first ")
        while not relay.stats()["connections"]:
            time.sleep(0.001)
        time.sleep(0.02)  # it is in the relay
        relay.set_rtt(0)
        one.sendall(b"second")
        assert read(one, 12) == b"first second"


def test_the_bandwidth_is_no_more_than_set(echo: Node) -> None:
    """4 MiB at 0.2 Gbit/s take 0.168 s, also when two connections share the link."""
    with network.Relay(echo.endpoint, gbit_s=0.2) as relay:
        ends = [connect(relay), connect(relay)]
        start = time.perf_counter()
        readers = [threading.Thread(target=read, args=(one, 2 * MIB)) for one in ends]
        for thread in readers:
            thread.start()
        for one in ends:
            one.sendall(bytes(2 * MIB))
        for thread in readers:
            thread.join()
        assert time.perf_counter() - start >= 0.167
        for one in ends:
            one.close()


def test_one_end_may_finish_first() -> None:
    node = Node("count")
    with network.Relay(node.endpoint, rtt_ms=10) as relay, closing(connect(relay)) as one:
        one.sendall(bytes(3 * MIB))
        one.shutdown(socket.SHUT_WR)
        assert read(one, 7) == b"3145728"
        assert one.recv(1) == b""
    node.listener.close()


@pytest.mark.parametrize("how", ["fin", "rst", "mute"])
def test_all_connections_break_and_come_back(echo: Node, how: str) -> None:
    with network.Relay(echo.endpoint) as relay:
        ends = [connect(relay), connect(relay)]
        for one in ends:
            one.sendall(b"x")
            read(one, 1)
        start = time.monotonic()
        relay.cut(0.5, how)
        if how == "mute":
            for one in ends:
                one.sendall(b"vanishes")
        for one in ends:
            if how == "fin":
                assert one.recv(1) == b""
            else:
                with pytest.raises(ConnectionResetError):
                    one.recv(1)
            one.close()
        while True:
            with closing(connect(relay)) as again:
                try:
                    again.sendall(b"y")
                    if again.recv(1) == b"y":
                        break
                except OSError:
                    pass
            time.sleep(0.01)
        assert time.monotonic() - start >= 0.45
        assert relay.stats()["cuts"] == 1


def test_a_cut_after_so_many_bytes(echo: Node) -> None:
    """In the middle of what is carried, at that very byte; the next one counts from there."""
    with network.Relay(echo.endpoint, cuts="1000:0,3000:0:rst") as relay:
        for passed in (1000, 4000):
            with closing(connect(relay)) as one:
                one.sendall(bytes(5000))
                with pytest.raises((AssertionError, OSError)):
                    read(one, 5000)
                stats = relay.stats()
                assert stats["bytes_up"] + stats["bytes_down"] == passed
        with closing(connect(relay)) as one:
            one.sendall(bytes(5000))
            read(one, 5000)


def test_a_command_behind_a_relay_that_it_cuts(echo: Node) -> None:
    """As tests of reconnection use it: the command says when, by a signal to its parent."""
    program = """
import os, signal, socket
host, _, port = os.environ["CARREL_ENDPOINT"].rpartition(":")
one = socket.create_connection((host, int(port)))
one.sendall(b"x")
assert one.recv(1) == b"x"
os.kill(os.getppid(), signal.SIGUSR1)
assert one.recv(1) == b""
print("cut")
raise SystemExit(3)
"""
    command = [sys.executable, "-m", "bench.network", "--cut", "signal:0.1", "--to", echo.endpoint]
    done = subprocess.run(
        [*command, "--", sys.executable, "-c", program],
        capture_output=True, text=True, timeout=60, cwd=programs.ROOT,
        env={**os.environ, "PYTHONPATH": str(programs.ROOT)},
    )  # fmt: skip
    assert done.stdout == "cut\nrelay: 1 cuts, 1 connections\n", done.stdout + done.stderr
    assert done.returncode == 3


def test_calibration_measures_both_ways() -> None:
    (row,) = network.calibrate((5.0,))
    assert row.added_ms > 4
    assert row.relayed_us > 4000
    assert row.direct_us < row.relayed_us
    assert row.direct_gib_s > 0
    assert row.relayed_gib_s > 0


def test_help_and_mistakes() -> None:
    relay = str(programs.build("relay"))
    help_text = subprocess.run([relay, "--help"], capture_output=True, text=True, check=True)
    assert "--rtt-ms" in help_text.stdout
    for mistake in (["--to", "nowhere"], ["--rtt-ms", "soon"], ["--cut", "1:2:gently"], []):
        done = subprocess.run([relay, *mistake], capture_output=True, text=True, timeout=10)
        assert done.returncode == 1
        assert done.stderr.startswith("relay: ")
    with network.Relay("127.0.0.1:9") as nowhere, closing(connect(nowhere)) as one:
        with pytest.raises(ValueError, match="not a command"):
            nowhere._command("dance")
        assert one.recv(1) == b""  # nobody listens behind it
