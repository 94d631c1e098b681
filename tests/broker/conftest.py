"""Fixtures: brokers that end with the test, and agents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.broker.support import Agent, Broker


@pytest.fixture
def make_broker(tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    """Starts brokers with given options; quick intervals unless the test says otherwise."""
    made: list[Broker] = []

    def make(*options: str, env: dict[str, str] | None = None) -> Broker:
        home = tmp_path / f"broker-{len(made)}"
        home.mkdir()
        quick = ("--BrokerApp.heartbeat_s=0.5", "--BrokerApp.reconcile_interval_s=0.2")
        broker = Broker(home, *quick, *options, env=env)
        made.append(broker)
        return broker.start()

    yield make
    for broker in made:
        broker.stop()


@pytest.fixture
def make_agent() -> Iterator[Callable[..., Agent]]:
    """Connects agents to a broker."""
    made: list[Agent] = []

    def make(broker: Broker, **more: Any) -> Agent:
        agent = Agent(broker.fleet, **more)
        made.append(agent)
        return agent.connected()

    yield make
    for agent in made:
        agent.stop()
        assert agent.problems == []
