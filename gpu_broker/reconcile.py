"""The loop that brings nodes in line with the database.

Each turn asks the store which leases want a step (:func:`gpu_broker.lease.next_step` decides),
takes the steps that need no node, and sends commands for the others: at most one at a time per
lease, so that a lease's commands keep their order. Every step may be taken twice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from gpu_broker import lease as life
from gpu_broker.fleet.server import CommandFailed, FleetServer, NodeUnreachable
from gpu_broker.store.fleet import Admission, FleetStore, Work
from gpu_broker.threads import Threads

PRUNE_EVERY_S = 3600.0
ACTIVITY_EVERY_S = 1.0


class Reconciler:
    """Runs the loop every ``interval_s`` seconds, and at once after :meth:`wake`."""

    def __init__(
        self,
        store: FleetStore,
        fleet: FleetServer,
        threads: Threads,
        interval_s: float,
        keep_s: float,
        log: logging.Logger | logging.LoggerAdapter[Any],
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._threads = threads
        self._interval_s = interval_s
        self._keep_s = keep_s
        self._log = log
        self._awake = asyncio.Event()
        self._in_flight: dict[str, asyncio.Task[None]] = {}
        self._pruned_at = float("-inf")
        self._activity_at = float("-inf")
        self.turns = 0
        self.failures = 0

    def wake(self) -> None:
        """Something changed: do not wait for the interval. Call from the event loop."""
        self._awake.set()

    async def run(self) -> None:
        """Turns until cancelled; a turn that fails is logged and the next one tries again."""
        try:
            while True:
                self._awake.clear()
                try:
                    await self.turn()
                except Exception:
                    self.failures += 1
                    self._log.exception("A turn of the reconcile loop failed; it goes on")
                    await asyncio.sleep(min(self._interval_s, 1.0))
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._interval_s):
                        await self._awake.wait()
        finally:
            for task in list(self._in_flight.values()):
                task.cancel()
            await asyncio.gather(*self._in_flight.values(), return_exceptions=True)

    async def turn(self) -> None:
        """One pass over all leases that want a step."""
        ready = self._fleet.ready()
        work = await self._threads.run(self._store.work, ready)
        alone = [w for w in work if not isinstance(w.step, life.Command)]
        if alone:
            for item in alone:
                self._log.info("Lease %s: %s", item.lease, item.step)
            await self._threads.run(self._store.settle, alone, ready)
            self.wake()
        for item in work:
            if isinstance(item.step, life.Command) and item.lease not in self._in_flight:
                self._start(item.lease, self._carry_out(item))
        await self._housekeeping()
        self.turns += 1

    def _start(self, lease: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._in_flight[lease] = task

        def done(_: asyncio.Task[None]) -> None:
            self._in_flight.pop(lease, None)
            self.wake()

        task.add_done_callback(done)

    async def _carry_out(self, work: Work) -> None:
        sent = await self._threads.run(self._store.begin, work, self._fleet.ready())
        if sent is None:
            return
        error = None
        try:
            if isinstance(sent, Admission):
                await self._fleet.admit(work.node, sent)
            else:
                await self._fleet.revoke(work.node, work.lease, sent)
        except CommandFailed as failure:
            error = str(failure)
            self._log.warning("Lease %s: node %s: %s", work.lease, work.node, error)
        except NodeUnreachable as failure:
            self._log.warning("Lease %s: %s", work.lease, failure)
            await self._threads.run(self._store.unanswered, work)
            return
        await self._threads.run(self._store.answered, work, sent, error)

    async def _housekeeping(self) -> None:
        now = time.monotonic()
        if now - self._activity_at >= ACTIVITY_EVERY_S:
            self._activity_at = now
            await self._threads.run(self._store.mark_activity)
        if now - self._pruned_at >= PRUNE_EVERY_S:
            self._pruned_at = now
            await self._threads.run(self._store.prune, self._keep_s)
