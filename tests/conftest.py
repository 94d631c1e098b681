"""What tests of several folders share: one running demo for the whole session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.demo import Demo, eventually
from tests.support.hub import Person

STUDENTS = ["ada", "ben", "dan", "eva", "finn"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """How the tests are shared between processes: those on the demo stay together, for there is
    one demo in a process; so do the others of one file."""
    for item in items:
        on_demo = "demo" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("demo" if on_demo else item.path.as_posix()))


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """Hub, proxy, broker and a node with one software GPU of 8 GiB. Nobody may hold more than
    half of it."""
    directory: Path = tmp_path_factory.mktemp("demo") / "state"
    running = Demo(
        directory,
        "--gpus=1",
        "--vram=8GiB",
        f"--students={','.join(STUDENTS)}",
        "--broker-option=--BrokerApp.max_vram_mib_per_user=4096",
    )
    yield running
    running.broker.close()
    running.stop()


@pytest.fixture
def login(demo: Demo) -> Iterator[Callable[[str], Person]]:
    """Logs people in; afterwards nobody's server runs and no lease is held."""
    people: list[Person] = []

    def log_in(name: str) -> Person:
        people.append(demo.person(name))
        return people[-1]

    yield log_in
    for person in people:
        if person.server() is not None:
            person.stop()
        person.close()
    eventually(lambda: not demo.leases(), "all leases are given back", demo.ttl_s + 10)
