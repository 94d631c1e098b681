"""Rows of the tables as the API's models, and the fleet as the decisions see it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from gpu_broker import lease as life
from gpu_broker import models, placement
from gpu_broker.store import tables


def when(seconds: float) -> datetime:
    """Unix seconds as an aware UTC time."""
    return datetime.fromtimestamp(seconds, UTC)


def gpu_ref(gpu: tables.Gpu) -> models.GpuRef:
    return models.GpuRef(
        node=gpu.node_name,
        index=gpu.index,
        uuid=gpu.uuid,
        model=gpu.model,
        software=gpu.software,
    )


def session_model(row: tables.Session, lease: tables.Lease, now: float) -> models.Session:
    return models.Session(
        id=row.id,
        lease=row.lease_id,
        user=lease.user,
        node=lease.gpu.node_name,
        gpu_uuid=lease.gpu_uuid,
        pid=row.pid,
        host=row.host,
        name=row.name,
        program=row.program,
        vram_bytes=row.vram_bytes,
        gpu_busy_us=row.gpu_busy_us,
        launches=row.launches,
        idle_s=max(0.0, round((row.ended_at or now) - row.last_used_at, 3)),
        started_at=when(row.started_at),
    )


def lease_model(row: tables.Lease, now: float) -> models.Lease:
    return models.Lease(
        id=row.id,
        user=row.user,
        server_name=row.server_name,
        name=row.name,
        state=row.state,
        desired=row.desired,
        observed=row.observed,
        reason=row.reason,
        message=row.message,
        vram_mib=row.vram_mib,
        tflops=row.tflops,
        gpu=gpu_ref(row.gpu),
        created_at=when(row.created_at),
        expires_at=when(row.expires_at),
        ended_at=None if row.ended_at is None else when(row.ended_at),
        sessions=[session_model(s, row, now) for s in row.sessions],
    )


def lease_view(row: tables.Lease) -> life.View:
    """A lease as :mod:`gpu_broker.lease` decides on it."""
    return life.View(
        state=row.state,
        desired=row.desired,
        observed=row.observed,
        expires_at=row.expires_at,
        node_expires_at=row.node_expires_at,
        failures=row.failures,
        retry_at=row.retry_at,
    )


def held(session: Session) -> dict[str, tuple[int, float]]:
    """What live leases hold on each GPU, by uuid: MiB and TFLOPS."""
    rows = session.execute(
        select(
            tables.Lease.gpu_uuid,
            func.sum(tables.Lease.vram_mib),
            func.sum(tables.Lease.tflops),
        )
        .where(tables.Lease.state != "ended")
        .group_by(tables.Lease.gpu_uuid)
    )
    return {uuid: (int(vram), float(tflops)) for uuid, vram, tflops in rows}


def pool(
    session: Session, since: float, online: AbstractSet[str], *, lock: bool
) -> list[placement.Gpu]:
    """The GPUs that take leases: present, and their node heard of at or after ``since``.

    ``lock`` keeps other grants out until the transaction ends (rows on PostgreSQL; on SQLite
    a writing transaction is alone anyway).
    """
    query = (
        select(tables.Gpu)
        .join(tables.Gpu.node)
        .where(tables.Gpu.present, tables.Node.last_seen >= since)
        .order_by(tables.Gpu.uuid)
    )
    if lock:
        query = query.with_for_update(of=tables.Gpu)
    gpus = session.scalars(query).all()
    taken = held(session)
    return [placeable(gpu, taken.get(gpu.uuid, (0, 0.0)), online) for gpu in gpus]


def placeable(gpu: tables.Gpu, taken: tuple[int, float], online: AbstractSet[str]) -> placement.Gpu:
    return placement.Gpu(
        uuid=gpu.uuid,
        node=gpu.node_name,
        index=gpu.index,
        vram_mib=gpu.vram_mib,
        tflops=gpu.tflops,
        vram_free_mib=max(0, gpu.vram_mib - taken[0]),
        tflops_free=max(0.0, round(gpu.tflops - taken[1], 6)),
        online=gpu.node_name in online,
    )


def amount(vram_mib: Iterable[int], tflops: Iterable[float]) -> models.Amount:
    return models.Amount(vram_mib=sum(vram_mib), tflops=round(sum(tflops), 6))


def capacity(session: Session, gpus: Sequence[placement.Gpu]) -> models.Capacity:
    """The pool as people ask about it."""
    about = {gpu.uuid: gpu for gpu in session.scalars(select(tables.Gpu))}
    largest = max(gpus, key=lambda g: (g.vram_free_mib, g.tflops_free), default=None)
    return models.Capacity(
        gpus=[
            models.GpuCapacity(
                **gpu_ref(about[gpu.uuid]).model_dump(),
                vram_mib=gpu.vram_mib,
                vram_free_mib=gpu.vram_free_mib,
                tflops=gpu.tflops,
                tflops_free=gpu.tflops_free,
            )
            for gpu in sorted(gpus, key=lambda g: (g.node, g.index))
        ],
        largest_free=models.Amount(
            vram_mib=largest.vram_free_mib if largest else 0,
            tflops=largest.tflops_free if largest else 0.0,
        ),
        total=amount((g.vram_mib for g in gpus), (g.tflops for g in gpus)),
        free=amount((g.vram_free_mib for g in gpus), (g.tflops_free for g in gpus)),
    )
