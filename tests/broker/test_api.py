"""The REST API of a real broker: rights, bad input, idempotency, documents."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import httpx
import pytest

from gpu_broker.client import AsyncBrokerClient, BrokerClient, Denied, NotFound, Unavailable
from gpu_broker.rest.openapi import operations
from gpu_broker.web import REST
from tests.broker.support import ADMIN, PEOPLE, SERVICE, Agent, Broker, FakeGpu


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(
        tmp_path_factory.mktemp("api"),
        "--BrokerApp.heartbeat_s=0.5",
        "--BrokerApp.reconcile_interval_s=0.2",
        "--BrokerApp.max_vram_mib_per_user=6000",
        "--BrokerApp.max_leases_per_user=3",
        "--BrokerApp.contact=Cleo",
    ).start()
    gpus = [FakeGpu("GPU-0"), FakeGpu("GPU-1", index=1)]
    agent = Agent(broker.fleet, gpus=gpus).connected()
    yield broker
    agent.stop()
    assert agent.problems == []
    broker.stop()
    log = broker.log()
    assert [secret for secret in (ADMIN, SERVICE, *PEOPLE.values()) if secret in log] == []


@pytest.fixture(autouse=True)
def tidy(broker: Broker) -> Iterator[None]:
    yield
    with broker.client() as root:
        for lease in root.leases():
            root.end_lease(lease.id)


def rows(broker: Broker) -> tuple[int, int, int]:
    with sqlite3.connect(f"file:{broker.home}/broker.sqlite?mode=ro", uri=True) as connection:
        return tuple(
            connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("leases", "idempotency_keys", "audit")
        )


GOOD = {"vram_mib": 1024, "tflops": 1.0}


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"vram_mib": -1}, "vram_mib", "greater than or equal to 1"),
        ({"vram_mib": 0}, "vram_mib", "greater than or equal to 1"),
        ({"vram_mib": 10**9}, "vram_mib", "1,000,000,000 MiB is more than any GPU"),
        ({"vram_mib": 10**30}, "vram_mib", "less than or equal"),
        ({"vram_mib": 8193}, "vram_mib", "the largest has 8,192 MiB"),
        ({"vram_mib": 1.5}, "vram_mib", "valid integer"),
        ({"vram_mib": "1024"}, "vram_mib", 'valid integer (got "1024")'),
        ({"vram_mib": True}, "vram_mib", "valid integer"),
        ({"vram_mib": None}, "vram_mib", "valid integer"),
        ({"vram_mib": [1024]}, "vram_mib", "valid integer"),
        ({"vram_mib": float("nan")}, "vram_mib", "valid integer"),
        ({"tflops": float("nan")}, "tflops", "finite number"),
        ({"tflops": float("inf")}, "tflops", "finite number"),
        ({"tflops": -1}, "tflops", "0.001"),
        ({"tflops": 0}, "tflops", "0.001"),
        ({"tflops": 10.5}, "tflops", "the fastest has 10 TFLOPS"),
        ({"tflops": "fast"}, "tflops", "valid number"),
        ({"ttl_s": -5}, "ttl_s", "greater than 0"),
        ({"ttl_s": 1e9}, "ttl_s", "more than a lease may run"),
        ({"user": ""}, "user", "at least 1 character"),
        ({"user": 7}, "user", "valid string"),
        ({"server_name": "x" * 256}, "server_name", "at most 255"),
        ({"server_name": "\0"}, "server_name", "control characters"),
        ({"name": "two\nlines"}, "name", "control characters"),
        ({"user": "\x1b[2J"}, "user", "control characters"),
        ({"name": "x" * 257}, "name", "at most 256"),
        ({"colour": "red"}, "colour", "not permitted"),
    ],
    ids=lambda value: str(value)[:40],
)
@pytest.mark.parametrize("path", ["api/v1/leases", "api/v1/leases/check"])
def test_nonsense_is_refused_by_field_and_nothing_is_stored(
    broker: Broker, path: str, change: dict[str, Any], field: str, words: str
) -> None:
    before = rows(broker)
    body = json.dumps(GOOD | change)  # json writes NaN and Infinity as Python's writer does
    answer = broker.ask("POST", path, "root", content=body, headers={"Idempotency-Key": "bad"})
    problem = answer.json()
    assert answer.status_code == 422, problem
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert problem["field"] == field
    assert words in problem["detail"]
    assert rows(broker) == before


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "vram_mib"),
        (b"{}", "vram_mib"),
        (b"[]", "body"),
        (b"null", "body"),
        (b"{", "body"),
        (b"\xff\xfe", "body"),
        (b'{"vram_mib": 1024}', "tflops"),
        (b"[" * 5000, "body"),
    ],
)
def test_a_body_that_is_no_request(broker: Broker, body: bytes, field: str) -> None:
    answer = broker.ask("POST", "api/v1/leases", "ada", content=body)
    assert answer.status_code == 422
    assert answer.json()["field"] == field


def test_a_body_that_is_too_long_is_not_read(broker: Broker) -> None:
    try:
        answer = broker.ask("POST", "api/v1/leases", "ada", content=b" " * 10**6)
    except httpx.HTTPError:
        return  # the server closed the connection while the client was still sending
    assert answer.status_code in (400, 413)


@pytest.mark.parametrize(
    ("query", "field"),
    [("limit=0", "limit"), ("limit=x", "limit"), ("state=asleep", "state"), ("a=b", "a"),
     ("cursor=zzz", "cursor"), ("cursor=bmFuOg==", "cursor")],
)  # fmt: skip
def test_a_query_that_is_no_query(broker: Broker, query: str, field: str) -> None:
    answer = broker.ask("GET", f"api/v1/leases?{query}", "ada")
    assert (answer.status_code, answer.json()["field"]) == (422, field)


def test_who_may_do_what(broker: Broker) -> None:
    with broker.client("ada") as ada, broker.client("ben") as ben, broker.client() as root:
        lease = ada.create_lease(1024, 1)
        for forbidden in (ben.lease, ben.end_lease, ben.heartbeat, ben.credentials):
            with pytest.raises(NotFound):  # as if it were not there
                forbidden(lease.id)
        assert ben.leases() == []
        with pytest.raises(Denied) as other:
            ben.leases(user="ada")
        assert (other.value.status, other.value.field) == (403, "user")
        with pytest.raises(Denied) as other:
            ben.create_lease(1024, 1, user="ada")
        assert (other.value.status, other.value.field) == (403, "user")
        with pytest.raises(Denied, match="your own quota"):
            ben.quota("ada")
        with pytest.raises(Denied, match="custom:gpu:admin"):
            ben.nodes()
        assert root.lease(lease.id).user == "ada"
        assert root.leases(user="ada", state=root.lease(lease.id).state)[0].id == lease.id
        mine = root.create_lease(512, 1, user="ben", server_name="s")
        assert (mine.user, mine.server_name) == ("ben", "s")
        assert [x.id for x in ben.leases()] == [mine.id]
        assert root.quota("ben").vram_mib == 512
        root.end_lease(lease.id)
        with sqlite3.connect(f"{broker.home}/broker.sqlite") as connection:
            last = connection.execute("SELECT actor, action FROM audit ORDER BY id DESC").fetchone()
        assert last == ("root", "lease.end")


@pytest.mark.parametrize("path", [path for path, _ in REST if path != "health"])
def test_every_resource_wants_a_token_with_a_scope(broker: Broker, path: str) -> None:
    path = path.replace("{id}", "abc")
    method = "POST" if path.endswith(("heartbeat", "check")) else "GET"
    if path == "api/v1/sessions/abc":
        method = "DELETE"
    for header in (None, "Bearer", "Basic abc", "Bearer wrong", f"Bearer {PEOPLE['ada']}x"):
        headers = {} if header is None else {"Authorization": header}
        answer = broker.ask(method, path, None, headers=headers)
        assert answer.status_code == 401, header
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    answer = broker.ask(method, path, None, headers={"Authorization": f"Bearer {SERVICE}"})
    assert answer.status_code == 403
    assert "does not hold the scope custom:gpu:" in answer.json()["detail"]
    assert broker.ask(method, f"{path}?token={PEOPLE['ada']}", None).status_code == 401


def test_quota_and_capacity_are_told_apart(broker: Broker) -> None:
    with broker.client("ada") as ada, broker.client() as root:
        with pytest.raises(Denied) as over:
            ada.check_lease(6001, 1)
        assert (over.value.status, over.value.code) == (403, "gpu_quota")
        assert over.value.field == "vram_mib"
        assert "your limit is 6,000 MiB" in over.value.detail
        assert "ask Cleo" in over.value.detail
        for person in ("p", "q"):
            root.create_lease(5000, 1, user=person)
        with pytest.raises(Denied) as full:
            ada.create_lease(5000, 1)
        assert (full.value.status, full.value.code) == (409, "gpu_capacity")
        assert "no GPU has 5,000 MiB free; the largest free is 3,192 MiB" in full.value.detail
        assert ada.capacity().largest_free.vram_mib == 3192
        assert ada.check_lease(3192, 1).node == "node-1"
        assert ada.quota().leases == 0  # checking takes nothing
        for server in "abc":
            ada.create_lease(64, 0.1, server_name=server)
        with pytest.raises(Denied, match="at most 3 slices") as many:
            ada.create_lease(64, 0.1, server_name="d")
        assert many.value.code == "gpu_quota"
        quota = ada.quota()
        assert (quota.leases, quota.max_leases, quota.max_vram_mib) == (3, 3, 6000)


def test_the_same_key_gives_the_same_lease(broker: Broker) -> None:
    with broker.client("ada") as ada, broker.client("ben") as ben:
        with ThreadPoolExecutor(8) as pool:
            ids = set(
                pool.map(lambda _: ada.create_lease(1024, 1, idempotency_key="k-1").id, range(16))
            )
        assert len(ids) == 1
        (id,) = ids
        assert ben.create_lease(64, 1, idempotency_key="k-1").id != id  # keys are a caller's own
        with pytest.raises(Denied) as other:
            ada.create_lease(2048, 1, idempotency_key="k-1")
        assert (other.value.status, other.value.field) == (422, "Idempotency-Key")
        ada.end_lease(id)
        assert ada.create_lease(1024, 1, idempotency_key="k-1").state == "ended"  # it was done
        assert ada.create_lease(1024, 1).id != id
    answer = broker.ask(
        "POST", "api/v1/leases", "ada", json=GOOD, headers={"Idempotency-Key": "x" * 256}
    )
    assert (answer.status_code, answer.json()["field"]) == (422, "Idempotency-Key")


def test_pages_of_leases(broker: Broker) -> None:
    with broker.client() as root:
        made = [root.create_lease(64, 0.1, user=f"person-{n}").id for n in range(5)]
        answer = broker.ask("GET", "api/v1/leases?limit=2").json()
        assert [lease["id"] for lease in answer["items"]] == made[:2:-1]
        assert answer["next_cursor"]
        assert [lease.id for lease in root.leases()][:5] == made[::-1]


def test_a_created_lease_says_where_it_is(broker: Broker) -> None:
    answer = broker.ask("POST", "api/v1/leases", "ada", json=GOOD)
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/services/gpu/api/v1/leases/{answer.json()['id']}"
    assert "key" not in answer.json()
    assert answer.headers["Cache-Control"] == "no-store"


def test_addresses_that_are_not_there(broker: Broker) -> None:
    for path in ("api/v1/nothing", "api/v1/leases/a%2Fb", "api/v1/leases/" + "x" * 65, "api/v2"):
        answer = broker.ask("GET", path)
        assert answer.status_code == 404
        assert answer.headers["Content-Type"] == "application/problem+json"
    assert broker.ask("PUT", "api/v1/leases", json=GOOD).status_code == 405
    for path in ("api/v1/leases/none", "api/v1/sessions/none"):
        assert broker.ask("DELETE", path).json()["code"] == "not_found"


def test_openapi_says_what_the_handlers_do(broker: Broker) -> None:
    document = broker.ask("GET", "api/v1/openapi.json", None).json()
    assert document["openapi"] == "3.1.0"
    assert document["servers"] == [{"url": "/services/gpu"}]
    served = {(f"/{path}", method) for path, handler in REST for method in operations(handler)}
    listed = {(path, method) for path, item in document["paths"].items() for method in item}
    assert listed == served
    ids = [op["operationId"] for item in document["paths"].values() for op in item.values()]
    assert len(ids) == len(set(ids))
    references = set()

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if "$ref" in node:
                references.add(node["$ref"].removeprefix("#/components/schemas/"))
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(document)
    assert references <= set(document["components"]["schemas"])
    request = document["components"]["schemas"]["LeaseRequest"]
    assert set(request["required"]) == {"vram_mib", "tflops"}
    assert request["additionalProperties"] is False
    # The answers have exactly the documented properties.
    lease = broker.ask("POST", "api/v1/leases", "ada", json=GOOD).json()
    assert set(lease) == set(document["components"]["schemas"]["Lease"]["properties"])


def test_health_and_metrics_name_nobody(broker: Broker) -> None:
    with broker.client("ada") as ada:
        ada.create_lease(1024, 2.5)
        health = ada.health()
    assert (health.status, health.nodes_online) == ("ok", 1)
    metrics = broker.ask("GET", "metrics", None).text
    assert 'carrel_nodes{state="online"} 1.0' in metrics
    assert 'carrel_gpu_vram_bytes{gpu="0",node="node-1"} 8.589934592e+09' in metrics
    leased = [x for x in metrics.splitlines() if x.startswith("carrel_gpu_vram_leased_bytes{")]
    assert sum(float(line.split()[-1]) for line in leased) == 1024 * 2**20
    assert "ada" not in metrics


async def test_the_async_client_does_the_same(broker: Broker) -> None:
    async with AsyncBrokerClient(broker.url, PEOPLE["cleo"]) as cleo:
        lease = await cleo.create_lease(1024, 1, server_name="s", name="lab")
        assert (await cleo.wait_active(lease.id, 10)).state == "active"
        assert (await cleo.check_lease(64, 1)).node == "node-1"
        assert (await cleo.quota()).leases == 1
        assert (await cleo.capacity()).total.vram_mib == 16384
        assert len((await cleo.credentials(lease.id)).key) == 64
        assert [x.id for x in await cleo.leases(state="active")] == [lease.id]
        assert (await cleo.heartbeat(lease.id, 600)).expires_at > lease.expires_at
        assert await cleo.sessions() == []
        with pytest.raises(NotFound):
            await cleo.end_session("none")
        with pytest.raises(Denied):
            await cleo.nodes()
        assert (await cleo.health()).status == "ok"
        assert (await cleo.end_lease(lease.id)).reason == "released"
        with pytest.raises(Denied, match="ended"):
            await cleo.wait_active(lease.id)
    many = await asyncio.gather(*(_grab(broker, n) for n in range(20)))
    assert len({lease for lease in many if lease}) == 16  # 16,384 MiB in slices of 1,024


async def _grab(broker: Broker, number: int) -> str | None:
    async with AsyncBrokerClient(broker.url, ADMIN) as root:
        try:
            return (await root.create_lease(1024, 0.1, user=f"grab-{number}")).id
        except Denied as full:
            if full.code != "gpu_capacity":
                raise
            return None


def test_clients_say_plainly_that_nobody_answers() -> None:
    with BrokerClient("http://127.0.0.1:9/services/gpu") as client:
        with pytest.raises(Unavailable, match="does not answer") as error:
            client.health()
        assert (error.value.status, error.value.code) == (0, "unreachable")


def test_an_address_that_is_no_broker() -> None:
    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if "quota" in self.path else 502)
            self.send_header("Content-Length", "13")
            self.end_headers()
            self.wfile.write(b"<html></html>")

    with HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with BrokerClient(f"http://127.0.0.1:{server.server_port}") as client:
            with pytest.raises(Unavailable, match="not as a Carrel broker does"):
                client.quota()
            with pytest.raises(Unavailable, match="answered HTTP 502") as error:
                client.health()
            assert error.value.status == 502
        server.shutdown()


def test_a_lease_runs_out_at_the_time_asked_for(broker: Broker) -> None:
    with broker.client("ada") as ada:
        lease = ada.create_lease(64, 1, ttl_s=1)
        assert (lease.expires_at - lease.created_at).total_seconds() == pytest.approx(1, abs=0.01)
        ada.heartbeat(lease.id, 0.001)  # never shortens
        assert ada.lease(lease.id).expires_at == lease.expires_at
        time.sleep(1.2)
        with pytest.raises(Denied):  # also before the loop has noticed
            ada.heartbeat(lease.id)
