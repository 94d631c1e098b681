"""``/leases``: take, see, keep and end slices of GPUs."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from gpu_broker import errors, models
from gpu_broker.rest.api import Handler, Operation, operation
from gpu_broker.rest.auth import USE


class LeaseQuery(BaseModel):
    """Which leases: of ``user`` (others than oneself need custom:gpu:admin), in ``state``."""

    model_config = ConfigDict(extra="forbid")

    user: models.UserName | None = None
    state: models.LeaseState | None = None
    cursor: Annotated[str, Field(max_length=128)] | None = None
    limit: Annotated[int, Field(ge=1, le=500)] = 100


class _ForSomebody(Handler):
    def person(self, asked: str | None) -> str:
        """Whom a request is for; only admins may act for others."""
        if asked is None or asked == self.caller.name:
            return self.caller.name
        if not self.caller.admin:
            raise errors.forbidden(
                f"user: {self.caller.name} may not lease GPUs for {asked!r}; "
                "that needs the scope custom:gpu:admin.",
                "user",
            )
        return asked


class LeasesHandler(_ForSomebody):
    """The collection."""

    @operation(
        Operation("Leases, newest first", models.LeasePage, USE, query=LeaseQuery, refusals=(403,))
    )
    async def get(self) -> models.LeasePage:
        asked = self.query.user
        if asked is not None and self.caller.owner not in (None, asked):
            raise errors.forbidden("user: you may see only your own leases.", "user")
        return await self.parts.threads.run(
            self.parts.leases.page,
            asked or self.caller.owner,
            self.query.state,
            self.query.cursor,
            self.query.limit,
        )

    @operation(
        Operation(
            "Take a slice of a GPU; replaces the server's previous lease",
            models.Lease,
            USE,
            body=models.LeaseRequest,
            status=201,
            headers={"Idempotency-Key": "the same key again returns the lease of the first time"},
            refusals=(403, 409),
        )
    )
    async def post(self) -> models.Lease:
        lease = await self.parts.threads.run(
            self.parts.leases.create,
            self.caller.name,
            self.person(self.body.user),
            self.body,
            self.header("Idempotency-Key"),
        )
        self.set_header("Location", f"{self.parts.prefix}api/v1/leases/{lease.id}")
        self.parts.wake()
        return lease


class LeaseCheckHandler(_ForSomebody):
    """Would it be granted? Takes nothing."""

    @operation(
        Operation(
            "The GPU that such a lease would get now, or the refusal it would get",
            models.GpuRef,
            USE,
            body=models.LeaseRequest,
            refusals=(403, 409),
        )
    )
    async def post(self) -> models.GpuRef:
        return await self.parts.threads.run(
            self.parts.leases.check, self.person(self.body.user), self.body
        )


class LeaseHandler(Handler):
    """One lease."""

    @operation(Operation("One lease with its sessions", models.Lease, USE, refusals=(404,)))
    async def get(self, id: str) -> models.Lease:
        return await self.parts.threads.run(self.parts.leases.get, id, self.caller.owner)

    @operation(
        Operation(
            "End a lease and its sessions; may be repeated", models.Lease, USE, refusals=(404,)
        )
    )
    async def delete(self, id: str) -> models.Lease:
        lease = await self.parts.threads.run(
            self.parts.leases.end, self.caller.name, id, self.caller.owner
        )
        self.parts.wake()
        return lease


class HeartbeatHandler(Handler):
    """Keeping a lease."""

    @operation(
        Operation(
            "Keep a lease for another ttl_s seconds from now",
            models.Lease,
            USE,
            body=models.Heartbeat,
            refusals=(404, 409),
        )
    )
    async def post(self, id: str) -> models.Lease:
        lease = await self.parts.threads.run(
            self.parts.leases.heartbeat, id, self.caller.owner, self.body.ttl_s
        )
        self.parts.wake()
        return lease


class CredentialsHandler(Handler):
    """What a program attaches with."""

    @operation(
        Operation(
            "Endpoint and key of an active lease", models.Credentials, USE, refusals=(404, 409)
        )
    )
    async def get(self, id: str) -> models.Credentials:
        return await self.parts.threads.run(
            self.parts.leases.credentials, self.caller.name, id, self.caller.owner
        )
