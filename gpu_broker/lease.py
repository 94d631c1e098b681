"""The life of a lease: states, and the next step that brings a node in line with what is wanted.

    queued → granted → active ⇄ idle → ended (released, replaced, expired, reclaimed, failed)

``desired`` is what the broker wants of the node, ``observed`` what the node last confirmed.
Pure functions on snapshots; knows nothing of the database or of how a node is reached.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gpu_broker.models import Desired, EndReason, LeaseState, Observed

# How often a node may fail to let a lease in before the lease ends, and how long to wait between.
MAX_FAILURES = 5
RETRY_S = 2.0
# A node ends a lease by its own clock; its clock may be behind ours by this much.
CLOCK_SKEW_S = 5.0

TRANSITIONS: dict[LeaseState, frozenset[LeaseState]] = {
    "queued": frozenset({"granted", "ended"}),
    "granted": frozenset({"active", "ended"}),
    "active": frozenset({"idle", "ended"}),
    "idle": frozenset({"active", "ended"}),
    "ended": frozenset(),
}


@dataclass(frozen=True)
class View:
    """A lease as the decisions here see it. Times are Unix seconds.

    ``node_expires_at``: the expiry last sent to the node; ``None``: the node never heard of it.
    """

    state: LeaseState
    desired: Desired
    observed: Observed
    expires_at: float
    node_expires_at: float | None
    failures: int
    retry_at: float


@dataclass(frozen=True)
class Surroundings:
    """What else decides: the node and the GPU. ``room``: what is still in on the GPU (also leases
    that have ended but are not yet confirmed gone) leaves space for this lease."""

    node_ready: bool
    gpu_present: bool
    room: bool


@dataclass(frozen=True)
class End:
    """End the lease, for this reason."""

    reason: EndReason
    message: str


@dataclass(frozen=True)
class Command:
    """Tell the node. ``admit`` also extends a lease that is in already."""

    what: Literal["admit", "revoke"]


@dataclass(frozen=True)
class Forget:
    """The node cannot hold the lease any more: note it as revoked."""


def may(before: LeaseState, after: LeaseState) -> bool:
    """Whether a lease may go from one state to the other."""
    return after in TRANSITIONS[before]


def on_node(lease: View) -> bool:
    """Whether the node may have the lease in: told about it, not confirmed gone."""
    return lease.node_expires_at is not None and lease.observed != "revoked"


def next_step(lease: View, around: Surroundings, now: float) -> End | Command | Forget | None:
    """The one step to take now, or ``None``. Taking a step twice does no harm."""
    if lease.desired == "revoked":
        return _towards_revoked(lease, around, now)
    if now >= lease.expires_at:
        return End(
            "expired",
            "Nobody asked to keep it before its time ran out; a running server does so by itself.",
        )
    if lease.failures >= MAX_FAILURES:
        return End("failed", f"The node failed {lease.failures} times to let the lease in.")
    if around.node_ready and not around.gpu_present:
        return End("failed", "The GPU is no longer in its node.")
    if not around.node_ready or now < lease.retry_at:
        return None
    if lease.observed != "admitted":
        return Command("admit") if around.room else None
    return Command("admit") if lease.node_expires_at != lease.expires_at else None


def _towards_revoked(lease: View, around: Surroundings, now: float) -> Command | Forget | None:
    if lease.observed == "revoked":
        return None
    if lease.node_expires_at is None:
        return Forget()
    if around.node_ready:
        return Command("revoke") if now >= lease.retry_at else None
    return Forget() if now >= lease.node_expires_at + CLOCK_SKEW_S else None


def with_activity(
    state: LeaseState, last_used_at: float, now: float, idle_after_s: float
) -> LeaseState:
    """``active`` or ``idle`` by how long ago the lease was last used; other states stay."""
    if state not in ("active", "idle"):
        return state
    return "idle" if now - last_used_at >= idle_after_s else "active"
