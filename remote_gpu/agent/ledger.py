"""The account of a lease's VRAM, shared by all its workers.

A memfd: u64 limit, u64 total, then :data:`SLOTS` u64 slots, all bytes. A worker adds what it maps
to the total (atomically, refusing what goes beyond the limit) and to its own slot; the agent
subtracts the slot of a worker that is gone. Little-endian, 8-byte aligned; the worker's side is
``native/worker/ledger.hpp``.
"""

from __future__ import annotations

import mmap
import os
import struct

SLOTS = 256
_SIZE = 16 + 8 * SLOTS
_U64 = struct.Struct("<Q")


class LedgerFull(Exception):
    """All slots are taken: the lease has :data:`SLOTS` workers already."""


class Ledger:
    """A lease's account. ``fd`` is inherited by its workers."""

    def __init__(self, limit_bytes: int) -> None:
        self.fd = os.memfd_create("carrel-ledger", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, _SIZE)
        self._map = mmap.mmap(self.fd, _SIZE)
        self._map[0:8] = _U64.pack(limit_bytes)
        self._taken: set[int] = set()

    @property
    def limit_bytes(self) -> int:
        """What the lease may hold."""
        return self._read(0)

    @property
    def used_bytes(self) -> int:
        """What its workers hold."""
        return sum(self.slot_bytes(slot) for slot in self._taken)

    def slot_bytes(self, slot: int) -> int:
        """What the worker with ``slot`` holds."""
        return self._read(16 + 8 * slot)

    def take(self) -> int:
        """A free slot for a new worker.

        Raises:
            LedgerFull: there is none.
        """
        for slot in range(SLOTS):
            if slot not in self._taken:
                self._taken.add(slot)
                self._write(16 + 8 * slot, 0)
                return slot
        raise LedgerFull(f"the lease has {SLOTS} programs running already")

    def release(self, slot: int) -> None:
        """Gives back what a worker that is gone held.

        With the last worker gone the total is set to zero, which heals whatever a worker that was
        killed between its two additions left behind.
        """
        held = self.slot_bytes(slot)
        self._write(16 + 8 * slot, 0)
        self._taken.discard(slot)
        self._write(8, max(0, self._read(8) - held) if self._taken else 0)

    def close(self) -> None:
        """Frees the memory; workers that still map it keep it alive."""
        self._map.close()
        os.close(self.fd)

    def _read(self, offset: int) -> int:
        return int(_U64.unpack_from(self._map, offset)[0])

    def _write(self, offset: int, value: int) -> None:
        _U64.pack_into(self._map, offset, value)
