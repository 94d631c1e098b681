"""The tables. Times are Unix seconds (a double compares the same in SQLite and PostgreSQL).

Changes here need a migration in ``migrations/versions``; a test compares the two.
"""

from __future__ import annotations

from typing import ClassVar

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from gpu_broker.models import Desired, EndReason, LeaseState, Observed

# Named constraints, so that migrations can refer to them on every database.
NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

# SQLite counts up by itself only in a column of type INTEGER.
Counter = BigInteger().with_variant(Integer(), "sqlite")


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map: ClassVar = {
        float: Double(),
        LeaseState: String(16),
        Desired: String(16),
        Observed: String(16),
        EndReason: String(16),
    }


class Node(Base):
    """A GPU host that has registered at least once."""

    __tablename__ = "nodes"

    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    endpoint: Mapped[str] = mapped_column(String(255))
    agent_version: Mapped[str] = mapped_column(String(64))
    protocol: Mapped[str] = mapped_column(String(64))
    first_seen: Mapped[float]
    last_seen: Mapped[float]

    gpus: Mapped[list[Gpu]] = relationship(back_populates="node", order_by="Gpu.index")


class Gpu(Base):
    """A GPU of a node. ``present``: in the node's last registration."""

    __tablename__ = "gpus"
    __table_args__ = (CheckConstraint("vram_mib > 0 AND tflops > 0", name="has_size"),)

    uuid: Mapped[str] = mapped_column(String(96), primary_key=True)
    node_name: Mapped[str] = mapped_column(ForeignKey("nodes.name"), index=True)
    index: Mapped[int]
    model: Mapped[str] = mapped_column(String(255))
    vram_mib: Mapped[int] = mapped_column(BigInteger)
    tflops: Mapped[float]
    software: Mapped[bool]
    present: Mapped[bool]
    used_mib: Mapped[int] = mapped_column(BigInteger, default=0)
    utilization: Mapped[float] = mapped_column(default=0.0)

    node: Mapped[Node] = relationship(back_populates="gpus")


class Lease(Base):
    """A person's right to a slice. See :mod:`gpu_broker.lease` for its life."""

    __tablename__ = "leases"
    __table_args__ = (
        CheckConstraint("vram_mib > 0 AND tflops > 0", name="has_size"),
        # One lease per server, whatever two requests at once may think.
        Index(
            "uq_leases_live_server",
            "user",
            "server_name",
            unique=True,
            sqlite_where=text("state <> 'ended'"),
            postgresql_where=text("state <> 'ended'"),
        ),
        Index("ix_leases_created_at_id", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    user: Mapped[str] = mapped_column(String(255), index=True)
    server_name: Mapped[str] = mapped_column(String(255))
    name: Mapped[str | None] = mapped_column(String(256))
    key: Mapped[str] = mapped_column(String(64))  # wiped when the lease ends
    gpu_uuid: Mapped[str] = mapped_column(ForeignKey("gpus.uuid"), index=True)
    vram_mib: Mapped[int] = mapped_column(BigInteger)
    tflops: Mapped[float]
    state: Mapped[LeaseState] = mapped_column(index=True)
    desired: Mapped[Desired]
    observed: Mapped[Observed]
    reason: Mapped[EndReason | None]
    message: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[float]
    expires_at: Mapped[float]
    ended_at: Mapped[float | None]
    last_used_at: Mapped[float]
    node_expires_at: Mapped[float | None]
    failures: Mapped[int] = mapped_column(default=0)
    retry_at: Mapped[float] = mapped_column(default=0.0)

    gpu: Mapped[Gpu] = relationship()
    sessions: Mapped[list[Session]] = relationship(
        back_populates="lease",
        primaryjoin="and_(Lease.id == Session.lease_id, Session.ended_at.is_(None))",
        order_by="Session.started_at",
        viewonly=True,
    )


class Session(Base):
    """One client process on a lease, as last reported; kept for a while after it ended."""

    __tablename__ = "sessions"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    lease_id: Mapped[str] = mapped_column(ForeignKey("leases.id"), index=True)
    pid: Mapped[int] = mapped_column(BigInteger)
    host: Mapped[str] = mapped_column(String(255))
    name: Mapped[str] = mapped_column(String(1024))
    program: Mapped[str] = mapped_column(String(1024))
    vram_bytes: Mapped[int] = mapped_column(BigInteger)
    gpu_busy_us: Mapped[int] = mapped_column(BigInteger)
    launches: Mapped[int] = mapped_column(BigInteger)
    last_used_at: Mapped[float]
    started_at: Mapped[float]
    ended_at: Mapped[float | None] = mapped_column(index=True)

    lease: Mapped[Lease] = relationship(back_populates="sessions")


class Audit(Base):
    """Who did what, when. Rows are only ever added; triggers refuse anything else."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(Counter, primary_key=True, autoincrement=True)
    at: Mapped[float] = mapped_column(index=True)
    actor: Mapped[str] = mapped_column(String(255))
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(255))
    detail: Mapped[str] = mapped_column(Text)


class IdempotencyKey(Base):
    """A POST that was carried out: the same key of the same caller gets the same lease again."""

    __tablename__ = "idempotency_keys"

    caller: Mapped[str] = mapped_column(String(255), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request_hash: Mapped[str] = mapped_column(String(64))
    lease_id: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[float] = mapped_column(index=True)
