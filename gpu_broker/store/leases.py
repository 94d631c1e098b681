"""Leases in the database: grant, show, extend, end. Each method is one transaction.

Capacity is taken in the transaction that grants, with the GPUs locked, so two grants can never
share the same free MiB. Knows nothing of how nodes are told; :mod:`gpu_broker.reconcile` does.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import secrets
import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from sqlalchemy import func, select, tuple_, update
from sqlalchemy.orm import Session, joinedload, selectinload

from gpu_broker import errors, lease, models, placement, quota
from gpu_broker.models import EndReason, LeaseState
from gpu_broker.store import tables, views
from gpu_broker.store.audit import record
from gpu_broker.store.database import Database


@dataclass(frozen=True)
class Policy:
    """The site's rules for leases; durations in seconds."""

    limits: quota.Limits = field(default_factory=quota.Limits)
    ttl_s: float = 180.0
    max_ttl_s: float = 7 * 86400.0
    node_grace_s: float = 60.0


class Leases:
    """The lease table and the rules that guard it.

    ``online`` tells which nodes are connected at this moment; ``clock`` gives Unix seconds.
    """

    def __init__(
        self,
        database: Database,
        policy: Policy,
        online: Callable[[], AbstractSet[str]] = frozenset,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._policy = policy
        self._online = online
        self._clock = clock

    # ---- taking ------------------------------------------------------------------------------

    def create(
        self,
        actor: str,
        user: str,
        request: models.LeaseRequest,
        idempotency_key: str | None = None,
    ) -> models.Lease:
        """Grants a lease to ``user``, or raises a Refusal. Replaces the server's previous lease.

        The same ``idempotency_key`` of the same ``actor`` returns the lease of the first time.
        """
        ttl_s = self._ttl(request.ttl_s)
        digest = hashlib.sha256(f"{user}\n{request.model_dump_json()}".encode()).hexdigest()
        with self._database.write() as session:
            now = self._clock()
            gpus = self._pool(session, now, lock=True)  # from here on no other grant runs
            if idempotency_key is not None:
                known = session.get(tables.IdempotencyKey, (actor, idempotency_key))
                if known is not None:
                    return self._again(session, known, digest, now)
            gpu, previous = self._decide(session, user, request, gpus)
            if previous is not None:
                end(session, previous, now, "replaced", "The server asked for a new lease.")
                record(session, now, actor, "lease.replace", previous.id, user=user)
                session.flush()  # before the insert: one live lease per server
            row = tables.Lease(
                id=secrets.token_hex(8),
                user=user,
                server_name=request.server_name,
                name=request.name,
                key=secrets.token_hex(32),
                gpu_uuid=gpu.uuid,
                vram_mib=request.vram_mib,
                tflops=request.tflops,
                state="granted",
                desired="admitted",
                observed="pending",
                created_at=now,
                expires_at=now + ttl_s,
                last_used_at=now,
            )
            session.add(row)
            record(
                session,
                now,
                actor,
                "lease.grant",
                row.id,
                user=user,
                server=request.server_name,
                gpu=gpu.uuid,
                vram_mib=request.vram_mib,
                tflops=request.tflops,
            )
            if idempotency_key is not None:
                session.add(
                    tables.IdempotencyKey(
                        caller=actor,
                        key=idempotency_key,
                        request_hash=digest,
                        lease_id=row.id,
                        created_at=now,
                    )
                )
            session.flush()
            return views.lease_model(row, now)

    def check(self, user: str, request: models.LeaseRequest) -> models.GpuRef:
        """The GPU that :meth:`create` would choose now, or the Refusal it would raise."""
        self._ttl(request.ttl_s)
        with self._database.read() as session:
            gpus = self._pool(session, self._clock(), lock=False)
            gpu, _ = self._decide(session, user, request, gpus)
            return views.gpu_ref(session.get_one(tables.Gpu, gpu.uuid))

    def _decide(
        self,
        session: Session,
        user: str,
        request: models.LeaseRequest,
        gpus: Sequence[placement.Gpu],
    ) -> tuple[placement.Gpu, tables.Lease | None]:
        previous = session.scalar(
            select(tables.Lease)
            .where(
                tables.Lease.user == user,
                tables.Lease.server_name == request.server_name,
                tables.Lease.state != "ended",
            )
            .with_for_update(of=tables.Lease)
        )
        impossible = placement.too_large(gpus, request.vram_mib, request.tflops)
        if impossible is not None:
            raise errors.invalid(impossible.field or "vram_mib", impossible.detail)
        if previous is not None:
            gpus = [_without(gpu, previous) for gpu in gpus]
        usage = self._usage(session, user, except_id=previous.id if previous else None)
        over = quota.check(self._policy.limits, usage, request.vram_mib, request.tflops)
        if over is not None:
            raise errors.over_quota(over.detail, over.field)
        placed = placement.place(gpus, request.vram_mib, request.tflops)
        if isinstance(placed, placement.Refused):
            raise errors.no_capacity(placed.detail)
        return placed, previous

    def _pool(self, session: Session, now: float, *, lock: bool) -> list[placement.Gpu]:
        since = now - self._policy.node_grace_s
        return views.pool(session, since, self._online(), lock=lock)

    def _again(
        self, session: Session, known: tables.IdempotencyKey, digest: str, now: float
    ) -> models.Lease:
        if known.request_hash != digest:
            raise errors.invalid(
                "Idempotency-Key",
                "This idempotency key was used for a different request; take a new one.",
            )
        row = session.get(tables.Lease, known.lease_id)
        if row is None:
            raise errors.not_found("lease", known.lease_id)
        return views.lease_model(row, now)

    def _usage(self, session: Session, user: str, except_id: str | None = None) -> quota.Usage:
        query = select(
            func.count(),
            func.coalesce(func.sum(tables.Lease.vram_mib), 0),
            func.coalesce(func.sum(tables.Lease.tflops), 0.0),
        ).where(tables.Lease.user == user, tables.Lease.state != "ended")
        if except_id is not None:
            query = query.where(tables.Lease.id != except_id)
        count, vram_mib, tflops = session.execute(query).one()
        return quota.Usage(int(count), int(vram_mib), float(tflops))

    def _ttl(self, ttl_s: float | None) -> float:
        if ttl_s is None:
            return self._policy.ttl_s
        if ttl_s > self._policy.max_ttl_s:
            raise errors.invalid(
                "ttl_s",
                f"{ttl_s:g} s is more than a lease may run without a heartbeat: "
                f"{self._policy.max_ttl_s:g} s.",
            )
        return ttl_s

    # ---- showing -----------------------------------------------------------------------------

    def get(self, id: str, owner: str | None = None) -> models.Lease:
        """One lease; with ``owner``, only if it is theirs."""
        with self._database.read() as session:
            return views.lease_model(_find(session, id, owner), self._clock())

    def page(
        self,
        owner: str | None = None,
        state: LeaseState | None = None,
        cursor: str | None = None,
        limit: int = 100,
        *,
        live: bool = False,
    ) -> models.LeasePage:
        """Leases newest first; ``live`` leaves out those that ended."""
        query = (
            select(tables.Lease)
            .options(joinedload(tables.Lease.gpu), selectinload(tables.Lease.sessions))
            .order_by(tables.Lease.created_at.desc(), tables.Lease.id.desc())
            .limit(limit + 1)
        )
        if owner is not None:
            query = query.where(tables.Lease.user == owner)
        if state is not None:
            query = query.where(tables.Lease.state == state)
        if live:
            query = query.where(tables.Lease.state != "ended")
        if cursor is not None:
            query = query.where(
                tuple_(tables.Lease.created_at, tables.Lease.id) < _decode_cursor(cursor)
            )
        with self._database.read() as session:
            now = self._clock()
            rows = list(session.scalars(query))
            more = len(rows) > limit
            rows = rows[:limit]
            return models.LeasePage(
                items=[views.lease_model(row, now) for row in rows],
                next_cursor=_encode_cursor(rows[-1]) if more else None,
            )

    def sessions(self, owner: str | None = None) -> list[models.Session]:
        """Sessions that run now, oldest first."""
        query = (
            select(tables.Session)
            .join(tables.Session.lease)
            .options(joinedload(tables.Session.lease).joinedload(tables.Lease.gpu))
            .where(tables.Session.ended_at.is_(None))
            .order_by(tables.Session.started_at)
        )
        if owner is not None:
            query = query.where(tables.Lease.user == owner)
        with self._database.read() as session:
            now = self._clock()
            return [views.session_model(row, row.lease, now) for row in session.scalars(query)]

    def session(self, id: str, owner: str | None = None) -> tuple[models.Session, bool]:
        """One session and whether it still runs."""
        with self._database.read() as session:
            row = session.get(tables.Session, id)
            if row is None or (owner is not None and row.lease.user != owner):
                raise errors.not_found("session", id)
            return views.session_model(row, row.lease, self._clock()), row.ended_at is None

    def capacity(self) -> models.Capacity:
        """What the pool has and what is free."""
        with self._database.read() as session:
            return views.capacity(session, self._pool(session, self._clock(), lock=False))

    def quota(self, user: str) -> models.Quota:
        """A person's limits and use."""
        limits = self._policy.limits
        with self._database.read() as session:
            usage = self._usage(session, user)
        return models.Quota(
            user=user,
            max_leases=limits.max_leases,
            max_vram_mib=limits.max_vram_mib,
            max_tflops=limits.max_tflops,
            leases=usage.leases,
            vram_mib=usage.vram_mib,
            tflops=usage.tflops,
        )

    def credentials(self, actor: str, id: str, owner: str | None = None) -> models.Credentials:
        """What a program needs to attach; refused unless the node has the lease in."""
        with self._database.write() as session:
            row = _find(session, id, owner)
            if row.state == "ended":
                raise errors.conflict(
                    "lease_ended", f"The lease ended ({row.reason}); start a new one."
                )
            if row.state not in ("active", "idle"):
                raise errors.conflict(
                    "lease_waits",
                    f"Node {row.gpu.node_name} has not let the lease in yet; ask again in a moment."
                    + (f" Last answer: {row.message}" if row.message else ""),
                )
            record(session, self._clock(), actor, "lease.credentials", id)
            return models.Credentials(endpoint=row.gpu.node.endpoint, lease=row.id, key=row.key)

    # ---- keeping and ending ------------------------------------------------------------------

    def heartbeat(
        self, id: str, owner: str | None = None, ttl_s: float | None = None
    ) -> models.Lease:
        """Extends a lease to ``ttl_s`` (default: the site's TTL) from now; never shortens it."""
        ttl_s = self._ttl(ttl_s)
        with self._database.write() as session:
            now = self._clock()
            row = _find(session, id, owner, lock=True)
            if row.state == "ended" or now >= row.expires_at:
                reason = row.reason or "expired"
                raise errors.conflict(
                    "lease_ended", f"The lease ended ({reason}) and cannot be extended."
                )
            row.expires_at = max(row.expires_at, now + ttl_s)
            session.flush()
            return views.lease_model(row, now)

    def end(
        self,
        actor: str,
        id: str,
        owner: str | None = None,
        reason: EndReason = "released",
        message: str | None = None,
    ) -> models.Lease:
        """Ends a lease; one that ended already is returned as it is."""
        with self._database.write() as session:
            now = self._clock()
            row = _find(session, id, owner, lock=True)
            if row.state != "ended":
                end(session, row, now, reason, message or f"Released by {actor}.")
                record(session, now, actor, "lease.end", id, reason=reason)
                session.flush()
            return views.lease_model(row, now)


def end(session: Session, row: tables.Lease, now: float, reason: EndReason, message: str) -> None:
    """Marks a live lease as ended; its capacity is free from this transaction on."""
    if not lease.may(row.state, "ended"):
        raise ValueError(f"lease {row.id} is {row.state} and cannot end")
    row.state = "ended"
    row.desired = "revoked"
    row.reason = reason
    row.message = message
    row.ended_at = now
    row.key = ""
    row.failures = 0
    row.retry_at = 0.0
    session.execute(
        update(tables.Session)
        .where(tables.Session.lease_id == row.id, tables.Session.ended_at.is_(None))
        .values(ended_at=now)
    )


def _without(gpu: placement.Gpu, previous: tables.Lease) -> placement.Gpu:
    """The GPU as it will be once ``previous`` has made room."""
    if gpu.uuid != previous.gpu_uuid:
        return gpu
    return placement.Gpu(
        uuid=gpu.uuid,
        node=gpu.node,
        index=gpu.index,
        vram_mib=gpu.vram_mib,
        tflops=gpu.tflops,
        vram_free_mib=min(gpu.vram_mib, gpu.vram_free_mib + previous.vram_mib),
        tflops_free=min(gpu.tflops, gpu.tflops_free + previous.tflops),
        online=gpu.online,
    )


def _find(session: Session, id: str, owner: str | None, *, lock: bool = False) -> tables.Lease:
    row = session.get(tables.Lease, id, with_for_update=lock or None)
    if row is None or (owner is not None and row.user != owner):
        raise errors.not_found("lease", id)
    return row


def _encode_cursor(row: tables.Lease) -> str:
    return base64.urlsafe_b64encode(f"{row.created_at!r}:{row.id}".encode()).decode()


def _decode_cursor(cursor: str) -> tuple[float, str]:
    try:
        at, _, id = base64.urlsafe_b64decode(cursor.encode()).decode().partition(":")
        if math.isfinite(when := float(at)):
            return when, id
        raise ValueError(at)
    except (ValueError, binascii.Error) as error:
        raise errors.invalid("cursor", "This is not a cursor that a page gave out.") from error
