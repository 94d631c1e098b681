"""``carrel-smi --broker``: an administrator's pool, from a real broker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker.support import ADMIN, PEOPLE, Agent, Broker, eventually


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    running = Broker(tmp_path).start()
    yield running
    running.stop()


def smi(url: str, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("CARREL_", "JUPYTERHUB_"))}
    return subprocess.run(
        [Path(sys.executable).parent / "carrel-smi", "--broker", url, *options],
        env=clean | env, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_the_pool(broker: Broker) -> None:
    agent = Agent(broker.fleet).connected()
    try:
        with broker.client("ada") as ada:
            lease = ada.create_lease(vram_mib=1024, tflops=2)
            ada.wait_active(lease.id)
            agent.run_program(lease.id, "session-1")
            eventually(ada.sessions, "the session is known")
        table = smi(broker.url, CARREL_TOKEN=ADMIN)
        assert table.returncode == 0, table.stderr
        assert "node-1" in table.stdout
        assert "1024/8192" in table.stdout
        [row] = [line for line in table.stdout.splitlines() if line.startswith("ada")]
        assert row.split()[1:3] == ["node-1", "64"]
        assert row.endswith("first-steps.ipynb")

        shown = json.loads(smi(broker.url, "--json", JUPYTERHUB_API_TOKEN=ADMIN).stdout)
        assert [node["name"] for node in shown["nodes"]] == ["node-1"]
        assert [session["user"] for session in shown["sessions"]] == ["ada"]
    finally:
        agent.stop()


def test_refusals_are_one_line(broker: Broker) -> None:
    none = smi(broker.url)
    assert (none.returncode, none.stdout) == (1, "")
    assert "needs a token in CARREL_TOKEN or JUPYTERHUB_API_TOKEN" in none.stderr
    for token in ("no-such-token", PEOPLE["ada"]):
        refused = smi(broker.url, CARREL_TOKEN=token)
        assert refused.returncode == 1
        assert refused.stderr.startswith("carrel-smi: ")
        assert len(refused.stderr.splitlines()) == 1
        assert token not in refused.stderr
    away = smi("http://127.0.0.1:1", CARREL_TOKEN=ADMIN)
    assert away.returncode == 1
    assert away.stderr.startswith("carrel-smi: ")
    assert len(away.stderr.splitlines()) == 1
