"""The account of a lease's VRAM, shared by all its workers.

A memfd: u64 limit, u64 total, then :data:`SLOTS` u64 slots, all bytes in the machine's order. A
worker adds what it maps to the total (atomically, refusing what goes beyond the limit) and to its
own slot; the worker's side is ``native/worker/ledger.hpp``.

Workers alone write the total, by atomic additions that Python has not. What a killed worker left
in it is therefore not subtracted: the limit, which only the agent writes, is raised by as much, and
set back once no worker is left.
"""

from __future__ import annotations

import mmap
import os

SLOTS = 256
_LIMIT, _TOTAL, _SLOTS = 0, 1, 2  # indices of u64
_SIZE = 8 * (_SLOTS + SLOTS)


class LedgerFull(Exception):
    """All slots are taken: the lease has :data:`SLOTS` workers already."""


class Ledger:
    """A lease's account. ``fd`` is inherited by its workers."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.fd = os.memfd_create("carrel-ledger", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, _SIZE)
        self._map = mmap.mmap(self.fd, _SIZE)
        # One item is one 8-byte load or store, which no worker can see half of.
        self._words = memoryview(self._map).cast("Q")
        self._words[_LIMIT] = limit_bytes
        self._taken: set[int] = set()

    @property
    def used_bytes(self) -> int:
        """What its workers hold."""
        return sum(self.slot_bytes(slot) for slot in self._taken)

    def slot_bytes(self, slot: int) -> int:
        """What the worker with ``slot`` holds; 0 once the ledger is closed."""
        return 0 if self.closed else self._words[_SLOTS + slot]

    @property
    def taken(self) -> int:
        """How many slots are in use."""
        return len(self._taken)

    def take(self) -> int:
        """A free slot for a new worker.

        Raises:
            LedgerFull: there is none.
        """
        for slot in range(SLOTS):
            if slot not in self._taken:
                self._taken.add(slot)
                self._words[_SLOTS + slot] = 0
                return slot
        raise LedgerFull(f"the lease has {SLOTS} programs running already")

    def release(self, slot: int) -> None:
        """Gives back what a worker that is gone held."""
        if self.closed:
            return
        self._taken.discard(slot)
        if self._taken:
            self._words[_LIMIT] += self._words[_SLOTS + slot]
        else:
            self._words[_TOTAL] = 0
            self._words[_LIMIT] = self.limit_bytes
        self._words[_SLOTS + slot] = 0

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self.fd < 0

    def close(self) -> None:
        """Frees the memory; workers that still map it keep it alive."""
        if self.closed:
            return
        self._words.release()
        self._map.close()
        os.close(self.fd)
        self.fd = -1
