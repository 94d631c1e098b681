"""What nodes say, written down; and what nodes are to be told, read out. Each method is one
transaction. Knows nothing of gRPC: :mod:`gpu_broker.fleet.server` translates."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from sqlalchemy import delete, func, or_, select
from sqlalchemy.orm import Session, joinedload, selectinload

from gpu_broker import lease as life
from gpu_broker import models
from gpu_broker.placement import TFLOPS_TOLERANCE
from gpu_broker.store import leases, tables, views
from gpu_broker.store.audit import record
from gpu_broker.store.database import Database


@dataclass(frozen=True)
class GpuFacts:
    """A GPU as its node registers it."""

    index: int
    uuid: str
    model: str
    vram_mib: int
    tflops: float
    software: bool


@dataclass(frozen=True)
class SessionFacts:
    """A session as its node reports it; ``idle_s``: since the last CUDA call or running kernel."""

    id: str
    lease: str
    pid: int
    host: str
    name: str
    program: str
    vram_bytes: int
    gpu_busy_us: int
    launches: int
    idle_s: float
    started_at: float


@dataclass(frozen=True)
class GpuUse:
    """Measured use of a GPU: MiB and percent."""

    uuid: str
    used_mib: int
    utilization: float


@dataclass(frozen=True)
class Admission:
    """What a node needs to let a lease in."""

    lease: str
    key: str
    gpu_uuid: str
    vram_mib: int
    tflops: float
    expires_at: float


@dataclass(frozen=True)
class Truth:
    """What a node shall hold after a Sync, and which leases are gone from it then."""

    admissions: Sequence[Admission]
    gone: Sequence[str]


@dataclass(frozen=True)
class Work:
    """A lease that wants a step, and the node it is on."""

    lease: str
    node: str
    step: life.End | life.Command | life.Forget


class FleetStore:
    """Nodes, GPUs and sessions, and the reconcile loop's reads and writes."""

    def __init__(
        self,
        database: Database,
        node_grace_s: float,
        idle_after_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._grace_s = node_grace_s
        self._idle_after_s = idle_after_s
        self._clock = clock

    # ---- what nodes say ----------------------------------------------------------------------

    def register(
        self,
        node: str,
        agent_version: str,
        endpoint: str,
        protocol: str,
        gpus: Sequence[GpuFacts],
        sessions: Sequence[SessionFacts],
    ) -> Truth:
        """Writes down who the node is, and returns what it shall hold."""
        with self._database.write() as session:
            now = self._clock()
            row = session.get(tables.Node, node)
            if row is None:
                row = tables.Node(name=node, first_seen=now)
                session.add(row)
                record(session, now, f"node:{node}", "node.register", node, endpoint=endpoint)
            row.agent_version, row.endpoint, row.protocol = agent_version, endpoint, protocol
            row.last_seen = now
            session.flush()
            self._put_gpus(session, node, gpus)
            self._put_sessions(session, node, sessions, now)
            return self._truth(session, node, now)

    def _put_gpus(self, session: Session, node: str, gpus: Sequence[GpuFacts]) -> None:
        known = {g.uuid: g for g in _gpus_of(session, node)}
        for gone in known.keys() - {gpu.uuid for gpu in gpus}:
            known[gone].present = False
        for gpu in gpus:
            row = known.get(gpu.uuid) or session.get(tables.Gpu, gpu.uuid)
            if row is None:
                row = tables.Gpu(uuid=gpu.uuid)
                session.add(row)
            row.node_name = node
            row.index = gpu.index
            row.model = gpu.model
            row.vram_mib = gpu.vram_mib
            row.tflops = gpu.tflops
            row.software = gpu.software
            row.present = True
        session.flush()

    def report(self, node: str, gpus: Sequence[GpuUse], sessions: Sequence[SessionFacts]) -> None:
        """Writes down measured use, and which sessions run."""
        with self._database.write() as session:
            now = self._clock()
            session.get_one(tables.Node, node).last_seen = now
            known = {g.uuid: g for g in _gpus_of(session, node)}
            for use in gpus:
                if use.uuid in known:
                    known[use.uuid].used_mib = use.used_mib
                    known[use.uuid].utilization = use.utilization
            self._put_sessions(session, node, sessions, now)

    def _put_sessions(
        self, session: Session, node: str, sessions: Sequence[SessionFacts], now: float
    ) -> None:
        known = {
            row.id: row
            for row in session.scalars(
                select(tables.Session)
                .join(tables.Session.lease)
                .join(tables.Lease.gpu)
                .where(tables.Gpu.node_name == node, tables.Session.ended_at.is_(None))
            )
        }
        owned = {
            row.id: row
            for row in session.scalars(
                select(tables.Lease)
                .join(tables.Lease.gpu)
                .where(tables.Gpu.node_name == node, tables.Lease.state != "ended")
                .order_by(tables.Lease.created_at)
                .with_for_update(of=tables.Lease)
            )
        }
        for gone in known.keys() - {facts.id for facts in sessions}:
            known[gone].ended_at = now
        for facts in sessions:
            lease = owned.get(facts.lease)
            if lease is None:  # ended, or another node's: not this node's to report on
                continue
            used_at = now - facts.idle_s
            lease.last_used_at = max(lease.last_used_at, used_at)
            row = known.get(facts.id) or session.get(tables.Session, facts.id)
            if row is None:
                row = tables.Session(id=facts.id, lease_id=facts.lease, started_at=facts.started_at)
                session.add(row)
            elif row.lease_id != facts.lease:
                continue
            row.pid, row.host, row.name = facts.pid, facts.host, facts.name
            row.program = facts.program
            row.vram_bytes = facts.vram_bytes
            row.gpu_busy_us = facts.gpu_busy_us
            row.launches = facts.launches
            row.last_used_at = used_at
            row.ended_at = None

    # ---- what nodes are to be told -----------------------------------------------------------

    def _truth(self, session: Session, node: str, now: float) -> Truth:
        admissions, gone = [], []
        for row in _unsettled(session, node, lock=True):
            if row.desired == "revoked":
                gone.append(row.id)
            elif life.on_node(views.lease_view(row)) and now < row.expires_at:
                admissions.append(_admission(row))
        return Truth(admissions, gone)

    def synced(self, truth: Truth) -> None:
        """The node confirmed a Sync."""
        with self._database.write() as session:
            now = self._clock()
            for admission in truth.admissions:
                _admitted(_locked(session, admission.lease), admission.expires_at, now)
            for id in truth.gone:
                _locked(session, id).observed = "revoked"

    def work(self, ready: AbstractSet[str]) -> list[Work]:
        """The steps to take now. ``ready``: nodes that are connected and synced."""
        with self._database.read() as session:
            now = self._clock()
            rows = _unsettled(session)
            found = []
            for row in rows:
                step = life.next_step(views.lease_view(row), _around(row, rows, ready), now)
                if step is not None:
                    found.append(Work(row.id, row.gpu.node_name, step))
            return found

    def settle(self, work: Sequence[Work], ready: AbstractSet[str]) -> None:
        """Takes those steps that need no node: ends, and forgets. Decides again before each."""
        with self._database.write() as session:
            now = self._clock()
            rows = {row.id: row for row in _unsettled(session, lock=True)}
            for item in work:
                row = rows.get(item.lease)
                if row is None:
                    continue
                around = _around(row, list(rows.values()), ready)
                step = life.next_step(views.lease_view(row), around, now)
                if isinstance(step, life.End):
                    message = row.message if step.reason == "failed" else None
                    leases.end(
                        session,
                        row,
                        now,
                        step.reason,
                        " ".join(filter(None, (step.message, message))),
                    )
                    record(session, now, "broker", "lease.end", row.id, reason=step.reason)
                elif isinstance(step, life.Forget):
                    row.observed = "revoked"

    def begin(self, work: Work, ready: AbstractSet[str]) -> Admission | str | None:
        """Before a command is sent: what to admit, or why to revoke, or None if it is moot.

        Notes what the node may believe from now on, so that a broker that dies between
        sending and hearing knows that the lease may be in.
        """
        with self._database.write() as session:
            rows = _unsettled(session, work.node, lock=True)
            row = next((row for row in rows if row.id == work.lease), None)
            if row is None:
                return None
            around = _around(row, rows, ready)
            step = life.next_step(views.lease_view(row), around, self._clock())
            if step != work.step:
                return None
            if step == life.Command("revoke"):
                return (row.message or row.reason or "ended").rstrip(".")
            row.node_expires_at = row.expires_at
            return _admission(row)

    def answered(self, work: Work, sent: Admission | str, error: str | None) -> None:
        """After the node answered; ``error`` is what it says went wrong."""
        with self._database.write() as session:
            now = self._clock()
            row = _locked(session, work.lease)
            if error is not None:
                row.failures += 1
                row.retry_at = now + life.RETRY_S
                if row.state != "ended":
                    row.message = f"Node {work.node}: {error}"
                    row.observed = "pending"
            elif isinstance(sent, Admission):
                _admitted(row, sent.expires_at, now)
            else:
                row.observed = "revoked"

    def unanswered(self, work: Work) -> None:
        """The stream broke or the node took too long: what it holds is not known."""
        with self._database.write() as session:
            row = _locked(session, work.lease)
            row.retry_at = self._clock() + life.RETRY_S
            if row.state != "ended":
                row.observed = "pending"

    def note_ended(self, actor: str, session_id: str) -> None:
        """The node has ended a session because ``actor`` asked."""
        with self._database.write() as session:
            now = self._clock()
            row = session.get_one(tables.Session, session_id)
            row.ended_at = row.ended_at or now
            record(session, now, actor, "session.end", session_id, lease=row.lease_id)

    def mark_activity(self) -> None:
        """Moves leases between active and idle by when they were last used."""
        with self._database.read() as session:
            changed = [row.id for row in _used(session) if self._activity(row) != row.state]
        if not changed:
            return
        with self._database.write() as session:
            for row in _used(session, lock=True):
                row.state = self._activity(row)

    def _activity(self, row: tables.Lease) -> models.LeaseState:
        return life.with_activity(row.state, row.last_used_at, self._clock(), self._idle_after_s)

    def prune(self, keep_s: float) -> None:
        """Drops ended leases, their sessions, and idempotency keys older than ``keep_s``."""
        with self._database.write() as session:
            before = self._clock() - keep_s
            old = select(tables.Lease.id).where(
                tables.Lease.ended_at < before, tables.Lease.observed == "revoked"
            )
            session.execute(
                delete(tables.Session).where(
                    or_(tables.Session.ended_at < before, tables.Session.lease_id.in_(old)),
                    tables.Session.ended_at.is_not(None),
                )
            )
            kept = select(tables.Session.lease_id)
            session.execute(
                delete(tables.Lease).where(
                    tables.Lease.ended_at < before,
                    tables.Lease.observed == "revoked",
                    tables.Lease.id.not_in(kept),
                )
            )
            session.execute(
                delete(tables.IdempotencyKey).where(tables.IdempotencyKey.created_at < before)
            )

    # ---- showing -----------------------------------------------------------------------------

    def nodes(self, online: AbstractSet[str]) -> list[models.Node]:
        """All nodes with their present GPUs."""
        with self._database.read() as session:
            taken = views.held(session)
            rows = session.scalars(
                select(tables.Node)
                .options(selectinload(tables.Node.gpus))
                .order_by(tables.Node.name)
            )
            return [self._node(row, taken, online) for row in rows]

    def _node(
        self,
        row: tables.Node,
        taken: dict[str, tuple[int, float]],
        online: AbstractSet[str],
    ) -> models.Node:
        gpus = []
        for gpu in row.gpus:
            if not gpu.present:
                continue
            free = views.placeable(gpu, taken.get(gpu.uuid, (0, 0.0)), online)
            gpus.append(
                models.GpuStatus(
                    **views.gpu_ref(gpu).model_dump(),
                    vram_mib=gpu.vram_mib,
                    vram_free_mib=free.vram_free_mib,
                    tflops=gpu.tflops,
                    tflops_free=free.tflops_free,
                    used_mib=gpu.used_mib,
                    utilization=gpu.utilization,
                )
            )
        return models.Node(
            name=row.name,
            state=node_state(row.name in online, row.last_seen, self._clock(), self._grace_s),
            endpoint=row.endpoint,
            agent_version=row.agent_version,
            protocol=row.protocol,
            last_seen=views.when(row.last_seen),
            gpus=gpus,
        )

    def counts(self) -> dict[str, int]:
        """Leases by state, for metrics."""
        with self._database.read() as session:
            rows = session.execute(
                select(tables.Lease.state, func.count()).group_by(tables.Lease.state)
            )
            return {state: int(count) for state, count in rows}


def node_state(online: bool, last_seen: float, now: float, grace_s: float) -> models.NodeState:
    """Connected; away for no longer than the grace; or lost, and then it takes no new leases."""
    if online:
        return "online"
    return "offline" if now - last_seen <= grace_s else "lost"


def _gpus_of(session: Session, node: str) -> Sequence[tables.Gpu]:
    return session.scalars(select(tables.Gpu).where(tables.Gpu.node_name == node)).all()


def _locked(session: Session, lease: str) -> tables.Lease:
    """A lease that nobody else changes until the transaction ends."""
    return session.get_one(tables.Lease, lease, with_for_update=True)


def _unsettled(
    session: Session, node: str | None = None, *, lock: bool = False
) -> Sequence[tables.Lease]:
    """Leases that are live, or ended but not yet known to be gone from their node."""
    query = (
        select(tables.Lease)
        .join(tables.Lease.gpu)
        .options(joinedload(tables.Lease.gpu))
        .where(or_(tables.Lease.state != "ended", tables.Lease.observed != "revoked"))
        .order_by(tables.Lease.created_at)
    )
    if node is not None:
        query = query.where(tables.Gpu.node_name == node)
    if lock:
        query = query.with_for_update(of=tables.Lease)
    return session.scalars(query).all()


def _used(session: Session, *, lock: bool = False) -> Sequence[tables.Lease]:
    query = (
        select(tables.Lease)
        .where(tables.Lease.state.in_(("active", "idle")))
        .order_by(tables.Lease.created_at)
    )
    if lock:
        query = query.with_for_update()
    return session.scalars(query).all()


def _around(
    row: tables.Lease, rows: Sequence[tables.Lease], ready: AbstractSet[str]
) -> life.Surroundings:
    others = [
        other
        for other in rows
        if other.gpu_uuid == row.gpu_uuid
        and other.id != row.id
        and life.on_node(views.lease_view(other))
    ]
    vram_mib = sum(other.vram_mib for other in others) + row.vram_mib
    tflops = sum(other.tflops for other in others) + row.tflops
    return life.Surroundings(
        node_ready=row.gpu.node_name in ready,
        gpu_present=row.gpu.present,
        room=vram_mib <= row.gpu.vram_mib and tflops <= row.gpu.tflops + TFLOPS_TOLERANCE,
    )


def _admission(row: tables.Lease) -> Admission:
    return Admission(
        lease=row.id,
        key=row.key,
        gpu_uuid=row.gpu_uuid,
        vram_mib=row.vram_mib,
        tflops=row.tflops,
        expires_at=row.expires_at,
    )


def _admitted(row: tables.Lease, expires_at: float, now: float) -> None:
    """The node has the lease in until ``expires_at``. An ended lease stays ended."""
    if row.desired == "revoked":
        return
    row.observed = "admitted"
    row.node_expires_at = expires_at
    row.failures = 0
    row.message = None
    if row.state == "granted":
        row.state = "active"
        row.last_used_at = now
