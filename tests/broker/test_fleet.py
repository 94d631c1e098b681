"""Broker and agent: admit, extend, revoke, expire; and what happens when either of them dies."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Callable
from os import kill

import httpx
import pytest

from gpu_broker.client import BrokerError, Denied, NotFound, Unavailable
from tests.broker.support import Agent, Broker, FakeGpu, eventually

Make = Callable[..., Broker]
MakeAgent = Callable[..., Agent]


def test_a_lease_is_let_in_by_its_node_and_leaves_again(
    make_broker: Make, make_agent: MakeAgent
) -> None:
    broker = make_broker()
    agent = make_agent(broker)
    with broker.client("ada") as ada:
        lease = ada.create_lease(2048, 2.5, server_name="lab")
        assert (lease.state, lease.desired, lease.observed) == ("granted", "admitted", "pending")
        assert (lease.gpu.node, lease.gpu.uuid) == ("node-1", "GPU-1")
        assert ada.capacity().free.vram_mib == 8192 - 2048
        active = ada.wait_active(lease.id, 10)
        assert (active.state, active.observed) == ("active", "admitted")
        credentials = ada.credentials(lease.id)
        assert credentials.endpoint == "127.0.0.1:9"
        assert agent.leases[lease.id].key == credentials.key
        assert agent.leases[lease.id].vram_mib == 2048
        assert credentials.key not in repr(credentials)
        ended = ada.end_lease(lease.id)
        assert ended.message == "Released by ada."
        assert (ended.state, ended.reason, ended.desired) == ("ended", "released", "revoked")
        assert ada.capacity().free.vram_mib == 8192
        eventually(lambda: lease.id not in agent.leases, "revoked on the node")
        eventually(lambda: ada.lease(lease.id).observed == "revoked", "confirmed")
        assert ada.end_lease(lease.id).reason == "released"  # again: the same answer
        with pytest.raises(Denied) as gone:
            ada.credentials(lease.id)
        assert gone.value.code == "lease_ended"
    assert credentials.key not in broker.log()


def test_sessions_are_shown_and_can_be_ended(make_broker: Make, make_agent: MakeAgent) -> None:
    broker = make_broker("--BrokerApp.idle_after_s=2")
    agent = make_agent(broker)
    with broker.client("ada") as ada, broker.client("ben") as ben, broker.client() as root:
        lease = ada.create_lease(1024, 1)
        ada.wait_active(lease.id, 10)
        agent.run_program(lease.id, "s1")
        session = eventually(ada.sessions, "the session is reported")[0]
        assert (session.user, session.name, session.pid) == ("ada", "first-steps.ipynb", 4242)
        assert session.vram_bytes == 64 << 20
        assert ada.lease(lease.id).sessions[0].id == "s1"
        assert [s.id for s in root.sessions()] == ["s1"]
        assert ben.sessions() == []
        node = eventually(
            lambda: next((n for n in root.nodes() if n.gpus[0].used_mib == 64), None), "use"
        )
        assert node.state == "online"
        agent.sessions["s1"].idle_ms = 60_000
        eventually(lambda: ada.lease(lease.id).state == "idle", "idle after 2 s")
        agent.sessions["s1"].idle_ms = 0
        eventually(lambda: ada.lease(lease.id).state == "active", "active again")
        with pytest.raises(NotFound):
            ben.end_session("s1")
        ada.end_session("s1")
        assert "s1" not in agent.sessions
        eventually(lambda: ada.sessions() == [], "gone from the list")
        assert ada.lease(lease.id).state in ("active", "idle")
        agent.run_program(lease.id, "s2")
        eventually(ada.sessions, "another one")
        agent.sessions.pop("s2")  # its process ends
        agent.report()
        eventually(lambda: ada.sessions() == [], "ended with its process")


def test_a_heartbeat_extends_on_the_node_and_silence_expires(
    make_broker: Make, make_agent: MakeAgent
) -> None:
    broker = make_broker("--BrokerApp.lease_ttl_s=1.5")
    agent = make_agent(broker)
    with broker.client("ada") as ada:
        lease = ada.create_lease(1024, 1)
        ada.wait_active(lease.id, 10)
        first = agent.leases[lease.id].expires_at
        until = time.monotonic() + 3
        while time.monotonic() < until:  # twice the TTL, kept alive
            ada.heartbeat(lease.id)
            time.sleep(0.3)
        assert ada.lease(lease.id).state in ("active", "idle")
        eventually(lambda: agent.leases[lease.id].expires_at > first + 1.5, "the node knows")
        ended = eventually(
            lambda: (now := ada.lease(lease.id)).state == "ended" and now, "expired", 10
        )
        assert ended.reason == "expired"
        eventually(lambda: agent.leases == {}, "revoked on the node")
        assert ada.capacity().free.vram_mib == 8192
        with pytest.raises(Denied) as late:
            ada.heartbeat(lease.id)
        assert (late.value.status, late.value.code) == (409, "lease_ended")


def test_a_server_that_asks_again_replaces_its_lease_without_overlap(
    make_broker: Make, make_agent: MakeAgent
) -> None:
    broker = make_broker()
    agent = make_agent(broker)  # its own check notices two leases on one full GPU
    with broker.client("ada") as ada:
        previous = ada.create_lease(8192, 10, server_name="lab")
        ada.wait_active(previous.id, 10)
        for _ in range(3):
            lease = ada.create_lease(8192, 10, server_name="lab")
            assert ada.lease(previous.id).reason == "replaced"
            ada.wait_active(lease.id, 10)
            assert list(agent.leases) == [lease.id]
            previous = lease


def test_leases_survive_kill_9_of_the_broker(make_broker: Make, make_agent: MakeAgent) -> None:
    broker = make_broker()
    agent = make_agent(broker)
    with broker.client() as root:
        ids = [root.create_lease(1024, 1, user=f"u{i}").id for i in range(4)]
        for id in ids:
            root.wait_active(id, 10)
        agent.run_program(ids[0], "s1")
        eventually(root.sessions, "reported")
        before = [lease.model_dump(exclude={"sessions"}) for lease in root.leases()]
        keys = {id: root.credentials(id).key for id in ids}
        last = root.create_lease(512, 0.5, user="late", idempotency_key="k1")
        broker.kill()
        held = dict(agent.leases)
        with pytest.raises(Unavailable) as away:
            root.leases()
        assert away.value.code == "unreachable"
        assert all(id in held for id in ids)  # the node keeps what it has
        broker.start()
        after = [lease.model_dump(exclude={"sessions"}) for lease in root.leases()]
        assert after[-4:] == before
        assert root.create_lease(512, 0.5, user="late", idempotency_key="k1").id == last.id
        eventually(agent.synced.is_set, "the agent dials again", 10)
        root.wait_active(last.id, 10)
        assert set(agent.leases) == {*ids, last.id}
        assert {id: agent.leases[id].key for id in ids} == keys
        assert "s1" in agent.sessions  # nothing was ended
        assert [s.id for s in root.sessions()] == ["s1"]


def test_ended_while_the_node_was_away(make_broker: Make, make_agent: MakeAgent) -> None:
    broker = make_broker()
    agent = make_agent(broker)
    with broker.client() as root:
        keep, drop = (root.create_lease(1024, 1, user=u).id for u in ("ada", "ben"))
        root.wait_active(keep, 10)
        root.wait_active(drop, 10)
        held = dict(agent.leases)
        agent.stop()
        eventually(lambda: root.nodes()[0].state == "offline", "noticed")
        assert root.end_lease(drop).observed == "admitted"  # not confirmed: the node is away
        back = make_agent(broker, leases=held)
        assert list(back.leases) == [keep]
        eventually(lambda: root.lease(drop).observed == "revoked", "the Sync confirmed it")
        assert root.lease(keep).state == "active"


def test_an_agent_that_restarts_knows_nothing_until_the_sync(
    make_broker: Make, make_agent: MakeAgent
) -> None:
    broker = make_broker()
    agent = make_agent(broker)
    with broker.client() as root:
        lease = root.create_lease(1024, 1, user="ada")
        root.wait_active(lease.id, 10)
        agent.run_program(lease.id, "s1")
        eventually(root.sessions, "reported")
        began = time.monotonic()
        agent.stop()
        fresh = make_agent(broker)
        assert list(fresh.leases) == [lease.id]
        eventually(lambda: root.sessions() == [], "its sessions are gone")
        assert time.monotonic() - began < 10
        assert root.lease(lease.id).state == "active"


def test_a_lost_node_takes_no_leases_and_its_leases_expire(
    make_broker: Make, make_agent: MakeAgent
) -> None:
    broker = make_broker("--BrokerApp.node_grace_s=1", "--BrokerApp.lease_ttl_s=4")
    agent = make_agent(broker)
    with broker.client() as root:
        lease = root.create_lease(1024, 1, user="ada")
        root.wait_active(lease.id, 10)
        agent.stop()
        eventually(lambda: root.nodes()[0].state == "lost", "lost after the grace")
        with pytest.raises(Denied) as none:
            root.create_lease(1024, 1, user="ben")
        assert none.value.code == "gpu_capacity"
        assert root.capacity().gpus == []
        ended = eventually(lambda: (now := root.lease(lease.id)).state == "ended" and now, "TTL")
        assert ended.reason == "expired"
        # Its clock has run out on the node, too: nothing waits for it for ever.
        eventually(lambda: root.lease(lease.id).observed == "revoked", "forgotten", 20)


def test_a_node_that_falls_silent_is_noticed(make_broker: Make, make_agent: MakeAgent) -> None:
    broker = make_broker()
    agent = make_agent(broker)
    with broker.client() as root:
        agent.mute = True  # the stream stays open, nothing comes
        eventually(lambda: root.nodes()[0].state == "offline", "silence noticed", 10)
        assert "fell silent" in broker.log()
        agent.mute = False
        eventually(lambda: root.nodes()[0].state == "online", "back", 10)


def test_a_node_that_cannot_admit_fails_the_lease_with_its_reason(
    make_broker: Make, make_agent: MakeAgent
) -> None:
    broker = make_broker()
    agent = make_agent(broker, refuse="the worker binary is missing")
    with broker.client("ada") as ada:
        lease = ada.create_lease(1024, 1)
        with pytest.raises(BrokerError, match="the worker binary is missing"):
            ada.wait_active(lease.id, 1)
        agent.refuse = ""
        ada.wait_active(lease.id, 10)  # it was tried again
        agent.refuse = "no"
        lost = ada.create_lease(1024, 1, server_name="b")
        ended = eventually(lambda: (n := ada.lease(lost.id)).state == "ended" and n, "5 tries", 20)
        assert ended.reason == "failed"
        assert "5 times" in (ended.message or "")


def test_a_gpu_that_is_taken_out_ends_its_leases(make_broker: Make, make_agent: MakeAgent) -> None:
    broker = make_broker()
    agent = make_agent(broker)
    with broker.client() as root:
        lease = root.create_lease(1024, 1, user="ada")
        root.wait_active(lease.id, 10)
        agent.stop()
        make_agent(broker, gpus=[FakeGpu("GPU-other")])
        ended = eventually(lambda: (n := root.lease(lease.id)).state == "ended" and n, "ended")
        assert ended.reason == "failed"
        assert [g.uuid for g in root.capacity().gpus] == ["GPU-other"]


def test_ending_a_session_of_a_node_that_is_away_says_so(
    make_broker: Make, make_agent: MakeAgent
) -> None:
    broker = make_broker()
    agent = make_agent(broker)
    with broker.client("ada") as ada:
        lease = ada.create_lease(1024, 1)
        ada.wait_active(lease.id, 10)
        agent.run_program(lease.id, "s1")
        eventually(ada.sessions, "reported")
        agent.stop()
        with pytest.raises(Unavailable, match="node-1 is not connected"):
            eventually(lambda: ada.end_session("s1") and None, "refused", 5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"token": "not the token"}, "node token"),
        ({"node": "no spaces allowed"}, "not a node name"),
        ({"gpus": [FakeGpu("g", vram_mib=0)]}, "more than zero"),
        ({"gpus": [FakeGpu("g", tflops=float("nan"))]}, "more than zero"),
        ({"gpus": [FakeGpu("g"), FakeGpu("g")]}, "same uuid"),
    ],
)
def test_an_agent_that_is_wrong_is_refused_with_the_reason(
    shared: Broker, change: dict[str, object], words: str
) -> None:
    agent = Agent(shared.fleet, **change).start()  # type: ignore[arg-type]
    eventually(lambda: agent.error, "refused")
    assert words in agent.error
    assert "Refused an agent" in shared.log()
    agent.stop()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> object:
    broker = Broker(tmp_path_factory.mktemp("shared")).start()
    yield broker
    broker.stop()


def test_placement_fills_the_fuller_gpu_first(make_broker: Make, make_agent: MakeAgent) -> None:
    broker = make_broker()
    make_agent(broker, node="big", gpus=[FakeGpu("GPU-big", 16384, 20)])
    make_agent(broker, node="small", gpus=[FakeGpu("GPU-small", 4096, 10)])
    with broker.client() as root:
        assert root.create_lease(4096, 5, user="a").gpu.uuid == "GPU-small"
        assert root.check_lease(4096, 5, user="b").uuid == "GPU-big"
        assert root.create_lease(16384, 5, user="b").gpu.uuid == "GPU-big"
        with pytest.raises(Denied) as full:
            root.create_lease(6000, 5, user="c")
        assert full.value.status == 409
        assert full.value.detail.startswith("no GPU has 6,000 MiB free; the largest free is 0 MiB")


def test_sigterm_ends_in_order(make_broker: Make, make_agent: MakeAgent) -> None:
    broker = make_broker()
    make_agent(broker)
    kill(broker.pid, signal.SIGTERM)
    assert broker.stop() == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(broker.url + "health")


def test_a_broken_database_is_a_503_and_a_plain_500(make_broker: Make) -> None:
    broker = make_broker()
    with sqlite3.connect(broker.home / "broker.sqlite") as connection:
        connection.execute("PRAGMA foreign_keys=OFF")
        connection.execute("ALTER TABLE nodes RENAME TO gone")
    health = broker.ask("GET", "health", None)
    assert (health.status_code, health.json()["code"]) == (503, "unavailable")
    fault = broker.ask("GET", "api/v1/capacity", "ada")
    assert fault.status_code == 500
    assert fault.headers["Content-Type"] == "application/problem+json"
    assert "nodes" not in fault.text  # what broke is in the log, not in the answer
    assert "no such table" in broker.log()
