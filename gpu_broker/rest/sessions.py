"""``/sessions``: the programs that use leases now."""

from __future__ import annotations

from gpu_broker import errors, models
from gpu_broker.fleet.server import CommandFailed, NodeUnreachable
from gpu_broker.rest.api import Handler, Operation, Parts, operation
from gpu_broker.rest.auth import USE, Principal


class SessionsHandler(Handler):
    """The collection."""

    @operation(Operation("Sessions that run now, oldest first", models.SessionList, USE))
    async def get(self) -> models.SessionList:
        items = await self.parts.threads.run(self.parts.leases.sessions, self.caller.owner)
        return models.SessionList(items=items)


class SessionHandler(Handler):
    """One session."""

    @operation(
        Operation(
            "End one program's session; its lease stays. May be repeated",
            models.Session,
            USE,
            refusals=(404, 503),
        )
    )
    async def delete(self, id: str) -> models.Session:
        return await end_session(self.parts, self.caller, id)


async def end_session(parts: Parts, caller: Principal, id: str) -> models.Session:
    """Has the node end a session; raises a Refusal if it cannot be told or says no."""
    session, running = await parts.threads.run(parts.leases.session, id, caller.owner)
    if running:
        try:
            await parts.fleet.end_session(session.node, id, f"Ended by {caller.name}")
        except (NodeUnreachable, CommandFailed) as error:
            raise errors.unavailable(f"The session could not be ended: {error}.") from error
        await parts.threads.run(parts.store.note_ended, caller.name, id)
    return session
