"""Fixtures: a node with two GPUs, one lease and echoing workers, in the test's own event loop; and
a real broker."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from remote_gpu.agent.node import Node
from tests.agent.support import ECHO_WORKER, KEY, eventually, make_gpu, workers_of
from tests.broker.support import Broker


@pytest.fixture(scope="session")
def one_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    quick = ("--BrokerApp.heartbeat_s=0.5", "--BrokerApp.reconcile_interval_s=0.2")
    broker = Broker(tmp_path_factory.mktemp("broker"), *quick).start()
    yield broker
    broker.stop()


@pytest.fixture
def broker(one_broker: Broker) -> Iterator[Broker]:
    """A broker that runs and has no leases; a test may kill it and start it again."""
    yield one_broker
    if not one_broker.running:
        one_broker.start()
    with one_broker.client() as admin:
        for lease in admin.leases():
            if lease.state != "ended":
                admin.end_lease(lease.id)


def descriptors() -> int:
    """How many this process has open, those of collected garbage not counted."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest_asyncio.fixture
async def node(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    """A node that must leave no process and no descriptor behind."""
    monkeypatch.setenv("CARREL_TOKEN", "a-secret-of-the-tests")
    before = descriptors()
    node = Node([make_gpu(0), make_gpu(1)], "node-1", worker_command=ECHO_WORKER)
    node.admit("lease-1", KEY, make_gpu(0).uuid, 1024, 5.0, time.time() + 3600)
    yield node
    started = time.monotonic()
    await node.close()
    assert time.monotonic() - started < 5
    assert workers_of(os.getpid()) == []
    assert node.workers == {}
    await eventually(lambda: descriptors() <= before, "no descriptor is left open", 5)
