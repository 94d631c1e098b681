"""The database: migrations, and that no haste of many askers can share the same free MiB."""

from __future__ import annotations

import random
import sqlite3
import stat
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from gpu_broker.errors import Refusal
from gpu_broker.models import LeaseRequest
from gpu_broker.quota import Limits
from gpu_broker.store import tables
from gpu_broker.store.database import Database
from gpu_broker.store.fleet import FleetStore, GpuFacts, SessionFacts
from gpu_broker.store.leases import Leases, Policy
from tests.broker.support import ROOT
from tests.support import postgres


class Clock:
    """A clock that a test sets."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    with postgres.server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database of the broker, of either kind."""
    url = f"sqlite:///{tmp_path}/broker.sqlite"
    if request.param == "postgresql":
        server = request.getfixturevalue("postgresql")
        name = f"t{uuid.uuid4().hex}"
        engine = create_engine(server, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        url = server.replace("/postgres?", f"/{name}?")
    database = Database(url)
    database.upgrade()
    yield database
    database.close()


def fleet(database: Database, *gpus: GpuFacts, clock: Clock | None = None) -> FleetStore:
    store = FleetStore(database, 60, 60, *([clock] if clock else []))
    store.register("node-1", "test", "127.0.0.1:9", "00", gpus or [facts("GPU-1")], [])
    return store


def facts(uuid: str, vram_mib: int = 8192, tflops: float = 10.0) -> GpuFacts:
    return GpuFacts(0, uuid, "Carrel Software GPU", vram_mib, tflops, True)


def ask(vram_mib: int = 1024, tflops: float = 1.0, server: str = "") -> LeaseRequest:
    return LeaseRequest(vram_mib=vram_mib, tflops=tflops, server_name=server)


def test_migrations_make_the_tables_that_the_code_maps(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.Base.metadata) == []
    database.upgrade()  # again: nothing to do


def test_the_file_is_private(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/sub/broker.sqlite")
    database.upgrade()
    files = list(tmp_path.glob("sub/broker.sqlite*"))
    assert files
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_sqlite_in_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="name a file"):
        Database("sqlite://")


def test_the_audit_can_only_grow(database: Database) -> None:
    fleet(database)
    Leases(database, Policy()).create("ada", "ada", ask())
    with database.read() as session:
        rows = list(session.scalars(select(tables.Audit).order_by(tables.Audit.id)))
        assert [row.action for row in rows] == ["node.register", "lease.grant"]
        assert rows[1].actor == "ada"
        leases = session.scalars(select(tables.Lease)).all()
        assert all(leases[0].key not in row.detail for row in rows)
    for change in ("DELETE FROM audit", "UPDATE audit SET actor = 'eve'"):
        with pytest.raises(DBAPIError, match="append-only"), database.write() as session:
            session.execute(text(change))


def test_one_live_lease_per_server_even_past_the_code(database: Database) -> None:
    fleet(database)
    lease = Leases(database, Policy()).create("ada", "ada", ask())
    with database.read() as session:
        row = session.get_one(tables.Lease, lease.id)
        copy = {c.key: getattr(row, c.key) for c in tables.Lease.__table__.columns}
    with pytest.raises(IntegrityError), database.write() as session:
        session.add(tables.Lease(**(copy | {"id": "another"})))


def held(database: Database) -> dict[str, tuple[int, float]]:
    with database.read() as session:
        rows = session.scalars(select(tables.Lease).where(tables.Lease.state != "ended"))
        total: dict[str, tuple[int, float]] = {}
        for row in rows:
            vram, tflops = total.get(row.gpu_uuid, (0, 0.0))
            total[row.gpu_uuid] = (vram + row.vram_mib, tflops + row.tflops)
    return total


def test_threads_that_take_and_give_never_over_allocate(database: Database) -> None:
    fleet(database, facts("GPU-1", 4096, 8.0), facts("GPU-2", 6000, 5.0))
    leases = Leases(database, Policy())
    stop = threading.Event()
    faults: list[str] = []
    granted: list[str] = []
    refused: list[str] = []

    def person(number: int) -> None:
        dice = random.Random(number)
        mine: list[str] = []
        try:
            for _ in range(25):
                try:
                    request = ask(dice.randint(1, 3000), dice.randint(1, 40) / 10, str(len(mine)))
                    lease = leases.create("t", f"user-{number}", request)
                    granted.append(lease.id)
                    mine.append(lease.id)
                except Refusal as refusal:
                    refused.append(refusal.code)
                if mine and dice.random() < 0.5:
                    leases.end("t", mine.pop(dice.randrange(len(mine))))
        except Exception as error:
            faults.append(repr(error))

    def watch() -> None:
        while not stop.is_set():
            for gpu, (vram, tflops) in held(database).items():
                size = {"GPU-1": (4096, 8.0), "GPU-2": (6000, 5.0)}[gpu]
                if vram > size[0] or tflops > size[1] + 1e-6:
                    faults.append(f"{gpu} holds {vram} MiB, {tflops} TFLOPS")

    people = [threading.Thread(target=person, args=(n,)) for n in range(8)]
    watcher = threading.Thread(target=watch)
    watcher.start()
    for thread in people:
        thread.start()
    for thread in people:
        thread.join()
    stop.set()
    watcher.join()
    assert faults == []
    assert granted
    assert "gpu_capacity" in refused  # they really competed


RACER = """
import sys
from gpu_broker.errors import Refusal
from gpu_broker.models import LeaseRequest
from gpu_broker.store.database import Database
from gpu_broker.store.leases import Leases, Policy
leases = Leases(Database(sys.argv[1]), Policy())
sys.stdin.readline()
granted = 0
for n in range(20):
    try:
        leases.create("t", f"{sys.argv[2]}-{n}", LeaseRequest(vram_mib=512, tflops=0.1))
        granted += 1
    except Refusal as refusal:
        assert refusal.code == "gpu_capacity", refusal
print(granted)
"""


def test_processes_that_take_at_once_never_over_allocate(database: Database) -> None:
    fleet(database)  # 8,192 MiB: sixteen slices of 512
    url = str(database.url)
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, url, str(n)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": str(ROOT)},
            text=True,
        )
        for n in range(4)
    ]
    granted = 0
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        out, _ = racer.communicate(timeout=120)
        assert racer.returncode == 0
        granted += int(out)
    assert granted == 16
    assert held(database) == {"GPU-1": (8192, pytest.approx(1.6))}


def test_a_limit_holds_when_one_person_asks_from_many_threads(database: Database) -> None:
    fleet(database)
    leases = Leases(database, Policy(Limits(max_leases=3)))
    codes: list[str] = []

    def one(number: int) -> None:
        try:
            leases.create("ada", "ada", ask(64, 0.1, f"server-{number}"))
            codes.append("granted")
        except Refusal as refusal:
            codes.append(refusal.code)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == ["gpu_quota"] * 9 + ["granted"] * 3


def test_one_key_used_at_once_from_many_threads_makes_one_lease(database: Database) -> None:
    fleet(database)
    leases = Leases(database, Policy())
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: leases.create("ada", "ada", ask(), "key"), range(24)))
    assert len({lease.id for lease in made}) == 1
    assert held(database) == {"GPU-1": (1024, 1.0)}


def test_an_end_is_not_lost_to_an_answer_at_the_same_time(database: Database) -> None:
    store = fleet(database)
    leases = Leases(database, Policy())
    ready = frozenset({"node-1"})
    for n in range(20):
        lease = leases.create("ada", "ada", ask(64, 0.1, f"s{n}"))
        (work,) = [w for w in store.work(ready) if w.lease == lease.id]
        sent = store.begin(work, ready)
        assert sent is not None
        with ThreadPoolExecutor(2) as pool:
            answered = pool.submit(store.answered, work, sent, None)
            ended = pool.submit(leases.end, "ada", lease.id)
            answered.result()
            ended.result()
        assert leases.get(lease.id).state == "ended"
        assert [w.lease for w in store.work(ready)].count(lease.id) == 1  # still to be revoked


def test_a_replacement_counts_neither_against_quota_nor_capacity(database: Database) -> None:
    fleet(database)
    leases = Leases(database, Policy(Limits(max_leases=1, max_vram_mib=7000)))
    first = leases.create("ada", "ada", ask(7000, 10))
    second = leases.create("ada", "ada", ask(7000, 10))
    assert leases.get(first.id).reason == "replaced"
    assert held(database) == {"GPU-1": (7000, 10.0)}
    with pytest.raises(Refusal) as over:  # refused: the old lease stays
        leases.create("ada", "ada", ask(7001, 10))
    assert over.value.code == "gpu_quota"
    assert leases.get(second.id).state == "granted"


def test_pages_go_through_all_leases_once(database: Database, clock: Clock) -> None:
    fleet(database, clock=clock)
    leases = Leases(database, Policy(), clock=clock)
    made = []
    for n in range(7):
        clock.now += n % 2  # some share a time
        made.append(leases.create("t", f"u{n}", ask(64, 0.1)).id)
    seen: list[str] = []
    cursor = None
    while True:
        page = leases.page(limit=3, cursor=cursor)
        seen += [lease.id for lease in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert len(seen) == 7
    assert set(seen) == set(made)
    with pytest.raises(Refusal, match="cursor"):
        leases.page(cursor="nonsense")


def test_old_history_is_dropped_and_the_audit_kept(database: Database, clock: Clock) -> None:
    store = fleet(database, clock=clock)
    leases = Leases(database, Policy(), clock=clock)
    old = leases.create("ada", "ada", ask(), "key-1")
    live = leases.create("ben", "ben", ask())
    session = SessionFacts("s1", old.id, 1, "h", "n", "p", 0, 0, 0, 0.0, clock.now)
    store.report("node-1", [], [session])
    leases.end("ada", old.id)
    store.prune(3600)
    assert leases.get(old.id).state == "ended"
    clock.now += 4000
    store.prune(3600)
    assert leases.get(old.id).state == "ended"  # the node has not confirmed it gone
    with database.write() as rows:
        rows.get_one(tables.Lease, old.id).observed = "revoked"
    store.prune(3600)
    with pytest.raises(Refusal):
        leases.get(old.id)
    assert leases.get(live.id).state == "granted"
    with database.read() as rows:
        assert rows.scalars(select(tables.IdempotencyKey)).all() == []
        assert len(rows.scalars(select(tables.Audit)).all()) == 4


def test_a_node_cannot_report_on_another_nodes_lease(database: Database) -> None:
    store = fleet(database)
    store.register("node-2", "test", "127.0.0.1:9", "00", [facts("GPU-2")], [])
    lease = Leases(database, Policy()).create("ada", "ada", ask())
    other = {"GPU-1": "node-2", "GPU-2": "node-1"}[lease.gpu.uuid]
    session = SessionFacts("s1", lease.id, 1, "h", "n", "p", 0, 0, 0, 0.0, 1.0)
    store.report(other, [], [session])
    assert Leases(database, Policy()).sessions() == []
    store.report(lease.gpu.node, [], [session])
    assert [s.id for s in Leases(database, Policy()).sessions()] == ["s1"]


def test_a_commit_outlives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "b.sqlite"
    code = (
        "import os, sys\n"
        "from gpu_broker.store.database import Database\n"
        "from gpu_broker.store.fleet import FleetStore, GpuFacts\n"
        "from gpu_broker.store.leases import Leases, Policy\n"
        "from gpu_broker.models import LeaseRequest\n"
        "d = Database('sqlite:///' + sys.argv[1]); d.upgrade()\n"
        "gpu = GpuFacts(0, 'GPU-1', 'm', 8192, 10.0, True)\n"
        "FleetStore(d, 60, 60).register('n', 'v', 'h:1', '', [gpu], [])\n"
        "print(Leases(d, Policy()).create('a', 'a', LeaseRequest(vram_mib=1, tflops=1.0)).id,"
        " flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert out.returncode == -9, out.stderr
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT id FROM leases").fetchall() == [(out.stdout.strip(),)]
