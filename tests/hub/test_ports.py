"""Ports that two servers starting at once must not share."""

from __future__ import annotations

import asyncio
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from hub_plugin import ports
from hub_plugin.spawner import CarrelLocalSpawner


def test_no_port_is_given_twice() -> None:
    with ThreadPoolExecutor(8) as pool:
        given = [port for found in pool.map(ports.free_ports, [25] * 8) for port in found]
    assert len(set(given)) == 200
    assert set(given) <= set(ports.PORTS)


def test_a_port_in_use_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = ports.free_ports(2)
    monkeypatch.setattr(ports, "_round", iter([first, second] * 10))
    with socket.socket() as server:
        server.bind(("127.0.0.1", first))
        server.listen()
        assert ports.free_ports(1) == [second]


def test_none_free_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    (taken,) = ports.free_ports(1)
    monkeypatch.setattr(ports, "_round", iter([taken]))
    with socket.socket() as server:
        server.bind(("127.0.0.1", taken))
        server.listen()
        with pytest.raises(OSError, match="no 1 free ports"):
            ports.free_ports(1)


def test_servers_starting_at_once_have_ports_of_their_own(tmp_path: object) -> None:
    """The spawner's own start, of a process that binds nothing: as if all were slow to bind."""

    async def start(count: int) -> list[int]:
        spawners = [
            CarrelLocalSpawner(
                cmd=[sys.executable, "-c", "pass"],
                home_dir=str(tmp_path),
                user=SimpleNamespace(name=f"user{number}"),
            )
            for number in range(count)
        ]
        for spawner in spawners:
            spawner.get_args = lambda: []
            spawner.get_env = lambda: {}
        found = await asyncio.gather(*(spawner.start() for spawner in spawners))
        for spawner in spawners:
            spawner.proc.wait(60)
        return [port for _, port in found]

    given = asyncio.run(start(20))
    assert len(set(given)) == 20
    assert set(given) <= set(ports.PORTS)
