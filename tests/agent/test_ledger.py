"""The account of a lease's VRAM."""

from __future__ import annotations

import mmap
import os

import pytest

from remote_gpu.agent.ledger import SLOTS, Ledger, LedgerFull


def as_worker(ledger: Ledger) -> memoryview:
    """The account as a worker maps it: limit, total, slots."""
    return memoryview(mmap.mmap(ledger.fd, 8 * (2 + SLOTS))).cast("Q")


def charge(words: memoryview, slot: int, size: int) -> None:
    words[1] += size
    words[2 + slot] += size


def test_layout_and_sums() -> None:
    ledger = Ledger(1000)
    words = as_worker(ledger)
    assert (words[0], words[1], len(words)) == (1000, 0, 258)
    first, second = ledger.take(), ledger.take()
    charge(words, first, 300)
    charge(words, second, 200)
    assert (ledger.slot_bytes(first), ledger.slot_bytes(second), ledger.used_bytes) == (
        300, 200, 500,
    )  # fmt: skip


def test_what_a_dead_worker_held_is_free_again_while_others_live() -> None:
    ledger = Ledger(1000)
    words = as_worker(ledger)
    dead, alive = ledger.take(), ledger.take()
    charge(words, dead, 600)
    charge(words, alive, 300)
    assert words[0] - words[1] == 100
    ledger.release(dead)
    assert words[0] - words[1] == 700
    assert ledger.used_bytes == 300
    assert ledger.limit_bytes == 1000
    again = ledger.take()
    assert again == dead
    assert ledger.slot_bytes(again) == 0
    ledger.release(again)
    ledger.release(alive)
    assert (words[0], words[1]) == (1000, 0)


def test_a_worker_killed_between_its_two_additions_is_healed_with_the_last() -> None:
    ledger = Ledger(1000)
    words = as_worker(ledger)
    slot = ledger.take()
    words[1] += 400  # and then it was killed
    ledger.release(slot)
    assert (words[0], words[1]) == (1000, 0)


def test_slots_are_bounded() -> None:
    ledger = Ledger(1000)
    for _ in range(SLOTS):
        ledger.take()
    with pytest.raises(LedgerFull, match="256 programs"):
        ledger.take()


def test_close_frees_it_and_may_be_repeated() -> None:
    before = len(os.listdir("/proc/self/fd"))
    ledger = Ledger(1000)
    slot = ledger.take()
    ledger.close()
    ledger.close()
    assert len(os.listdir("/proc/self/fd")) == before
    ledger.release(slot)  # a worker that ends after its lease
    assert ledger.slot_bytes(slot) == 0
