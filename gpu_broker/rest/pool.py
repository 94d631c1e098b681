"""``/capacity``, ``/quota``, ``/nodes``: what there is, what one may have, and where it is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from gpu_broker import errors, models
from gpu_broker.rest.api import Handler, Operation, operation
from gpu_broker.rest.auth import ADMIN, USE


class QuotaQuery(BaseModel):
    """Whose quota; others than one's own need custom:gpu:admin."""

    model_config = ConfigDict(extra="forbid")

    user: models.UserName | None = None


class CapacityHandler(Handler):
    """The pool."""

    @operation(Operation("What the pool has and what is free", models.Capacity, USE))
    async def get(self) -> models.Capacity:
        return await self.parts.threads.run(self.parts.leases.capacity)


class QuotaHandler(Handler):
    """Limits of a person."""

    @operation(
        Operation(
            "A person's limits and what they hold", models.Quota, USE, query=QuotaQuery,
            refusals=(403,),
        )
    )  # fmt: skip
    async def get(self) -> models.Quota:
        asked = self.query.user or self.caller.name
        if self.caller.owner not in (None, asked):
            raise errors.forbidden("user: you may see only your own quota.", "user")
        return await self.parts.threads.run(self.parts.leases.quota, asked)


class NodesHandler(Handler):
    """GPU hosts."""

    @operation(Operation("All nodes with their GPUs and measured use", models.NodeList, ADMIN))
    async def get(self) -> models.NodeList:
        online = self.parts.fleet.online()
        return models.NodeList(items=await self.parts.threads.run(self.parts.store.nodes, online))
