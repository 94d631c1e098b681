"""The REST API's data: what crosses it in either direction, as pydantic models.

Shared by the server's handlers (validation and OpenAPI) and by :mod:`gpu_broker.client`.
Knows nothing of the database, the fleet or the web framework.

Units: VRAM in MiB or bytes as named, compute in TFLOPS (dense FP16), durations in seconds,
times as aware UTC datetimes (ISO 8601 in JSON).
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

LeaseState = Literal["queued", "granted", "active", "idle", "ended"]
Desired = Literal["admitted", "revoked"]
Observed = Literal["pending", "admitted", "revoked"]
EndReason = Literal["released", "replaced", "expired", "reclaimed", "failed"]
NodeState = Literal["online", "offline", "lost"]

# The API's own bounds. The fleet and the limits of a site are narrower, and checked later.
MAX_MIB = 2**40
MAX_TFLOPS = 1e9

MIN_TFLOPS = 0.001

_PRINTABLE = (
    r"^[^\x00-\x1f\x7f]*$"  # no control characters: PostgreSQL has no NUL, logs no line breaks
)
UserName = Annotated[str, Field(min_length=1, max_length=255, pattern=_PRINTABLE)]
ServerName = Annotated[str, Field(max_length=255, pattern=_PRINTABLE)]
Label = Annotated[str, Field(max_length=256, pattern=_PRINTABLE)]


class Input(BaseModel):
    """A request's body: exact types (no "3" for 3), no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Output(BaseModel):
    """A response's body. Readers ignore fields they do not know, so that servers may add some."""

    model_config = ConfigDict(extra="ignore")


# ---- requests --------------------------------------------------------------------------------


class LeaseRequest(Input):
    """Asks for a slice of a GPU."""

    vram_mib: Annotated[int, Field(ge=1, le=MAX_MIB, description="VRAM in MiB")]
    tflops: Annotated[
        float,
        Field(
            ge=MIN_TFLOPS,
            le=MAX_TFLOPS,
            allow_inf_nan=False,
            description="compute, dense FP16 TFLOPS",
        ),
    ]
    user: UserName | None = Field(
        None, description="for whom; others than oneself need custom:gpu:admin"
    )
    server_name: ServerName = Field("", description="the hub's name of the server that holds it")
    ttl_s: (
        Annotated[float, Field(gt=0, allow_inf_nan=False, description="seconds until it expires")]
        | None
    ) = None
    name: Label | None = Field(None, description="label for people")


class Heartbeat(Input):
    """Extends a lease to ``ttl_s`` seconds from now (default: the site's TTL)."""

    ttl_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


# ---- answers ---------------------------------------------------------------------------------


class Amount(Output):
    """An amount of GPU: VRAM in MiB and compute in TFLOPS."""

    vram_mib: int
    tflops: float


class GpuRef(Output):
    """Which GPU a lease is on."""

    node: str
    index: int
    uuid: str
    model: str
    software: bool = False


class GpuCapacity(GpuRef):
    """One GPU that can take leases: its size and what is free to lease."""

    vram_mib: int
    vram_free_mib: int
    tflops: float
    tflops_free: float


class Capacity(Output):
    """What the pool has and what is free, over the GPUs that take new leases.

    ``largest_free`` is the free amount of the single GPU with most VRAM free: what one
    slice can have at this moment.
    """

    gpus: list[GpuCapacity]
    largest_free: Amount
    total: Amount
    free: Amount


class Session(Output):
    """One client process that uses a lease, as the node last reported it."""

    id: str
    lease: str
    user: str
    node: str
    gpu_uuid: str
    pid: int
    host: str
    name: str
    program: str
    vram_bytes: int
    gpu_busy_us: int
    launches: int
    idle_s: float
    started_at: datetime


class Lease(Output):
    """A person's right to a slice of one GPU, for one server."""

    id: str
    user: str
    server_name: str
    name: str | None = None
    state: LeaseState
    desired: Desired
    observed: Observed
    reason: EndReason | None = None
    message: str | None = Field(None, description="why, in a sentence, when it ended or waits")
    vram_mib: int
    tflops: float
    gpu: GpuRef
    created_at: datetime
    expires_at: datetime
    ended_at: datetime | None = None
    sessions: list[Session] = []


class LeasePage(Output):
    """Leases, newest first; ``next_cursor`` leads to the older ones."""

    items: list[Lease]
    next_cursor: str | None = None


class SessionList(Output):
    """All sessions one may see."""

    items: list[Session]


class Credentials(Output):
    """What a program needs to attach to a lease. ``key`` is a secret of 64 hex digits."""

    endpoint: str
    lease: str
    key: str = Field(repr=False)


class Quota(Output):
    """A person's limits (``None``: none) and what they hold now."""

    user: str
    max_leases: int | None
    max_vram_mib: int | None
    max_tflops: float | None
    leases: int
    vram_mib: int
    tflops: float


class GpuStatus(GpuCapacity):
    """A GPU as an administrator sees it: leased and measured use."""

    used_mib: int = Field(description="VRAM in use, as the node measures it")
    utilization: float = Field(description="percent, 0 to 100")


class Node(Output):
    """A GPU host."""

    name: str
    state: NodeState
    endpoint: str
    agent_version: str
    protocol: str
    last_seen: datetime
    gpus: list[GpuStatus]


class NodeList(Output):
    """All nodes the broker has heard of."""

    items: list[Node]


class Health(Output):
    """The broker can do its work; if it cannot, the answer is a problem with status 503."""

    status: Literal["ok"] = "ok"
    version: str
    nodes_online: int


class Problem(Output):
    """An error (RFC 9457, ``application/problem+json``).

    ``code`` is for programs, ``detail`` for people; ``field`` names the input at fault.
    """

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    field: str | None = None
