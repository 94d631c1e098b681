"""The pure decisions: placement, quota, and a lease's next step."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_broker import lease as life
from gpu_broker import placement, quota, units
from gpu_broker.lease import Command, End, Forget, Surroundings, View, next_step
from gpu_broker.placement import Gpu, Refused, place
from gpu_broker.store.fleet import node_state


def gpu(name: str, vram: int, tflops: float, free: int, tflops_free: float, **more: bool) -> Gpu:
    return Gpu(name, f"node-{name}", 0, vram, tflops, free, tflops_free, **more)


A = gpu("a", 8192, 10, 8192, 10)
B = gpu("b", 8192, 10, 2048, 5)
C = gpu("c", 16384, 20, 16384, 20)


@pytest.mark.parametrize(
    ("gpus", "vram", "tflops", "chosen"),
    [
        ([A, B, C], 2048, 2, "b"),  # the fullest that fits
        ([A, B, C], 2049, 2, "a"),
        ([A, B, C], 2048, 6, "a"),  # b lacks compute
        ([A, B, C], 8193, 1, "c"),
        ([C, A], 8192, 10, "a"),  # exactly full
        ([A, replace(A, uuid="a2", node="node-a2")], 1, 1, "a"),  # a tie goes by name
        ([replace(B, online=False), A], 2048, 2, "a"),  # a connected node is preferred
        ([replace(B, online=False)], 2048, 2, "b"),  # but one briefly away will do
    ],
)
def test_best_fit(gpus: list[Gpu], vram: int, tflops: float, chosen: str) -> None:
    placed = place(gpus, vram, tflops)
    assert isinstance(placed, Gpu)
    assert placed.uuid == chosen


@pytest.mark.parametrize(
    ("gpus", "vram", "tflops", "field", "text"),
    [
        (
            [gpu("2", 8192, 10, 4096, 10)], 6000, 5, None,
            "no GPU has 6,000 MiB free; the largest free is 4,096 MiB and 10 TFLOPS "
            "on node-2 (GPU 0)",
        ),
        (
            [gpu("2", 8192, 10, 8000, 2.5)], 6000, 5, None,
            "no GPU has 5 TFLOPS free; the largest free is 2.5 TFLOPS and 8,000 MiB "
            "on node-2 (GPU 0)",
        ),
        (
            [gpu("1", 8192, 10, 8192, 1), gpu("2", 8192, 10, 1024, 10)], 6000, 5, None,
            "no single GPU has 6,000 MiB and 5 TFLOPS free; the largest free is 8,192 MiB and "
            "1 TFLOPS on node-1 (GPU 0)",
        ),
        ([A], 10**9, 5, "vram_mib", "1,000,000,000 MiB is more than any GPU of the pool has; "
                                    "the largest has 8,192 MiB"),
        ([A], 1, 11, "tflops", "11 TFLOPS is more than any GPU of the pool has; "
                               "the fastest has 10 TFLOPS"),
        ([], 1, 1, None, "no GPU is connected to the pool at this moment; "
                         "start without a GPU, or try again in a minute"),
    ],
)  # fmt: skip
def test_a_refusal_says_why(
    gpus: list[Gpu], vram: int, tflops: float, field: str | None, text: str
) -> None:
    assert place(gpus, vram, tflops) == Refused(text, field)


sizes = st.integers(1, 4096)
speeds = st.integers(1, 200).map(lambda tenths: tenths / 10)


@settings(max_examples=200)
@given(st.lists(st.tuples(sizes, speeds), max_size=40))
def test_placement_never_fills_a_gpu_beyond_its_size(slices: list[tuple[int, float]]) -> None:
    gpus = [gpu("a", 8192, 10.0, 8192, 10.0), gpu("b", 4096, 20.0, 4096, 20.0)]
    for vram, tflops in slices:
        placed = place(gpus, vram, tflops)
        fitting = [g for g in gpus if placement.fits(g, vram, tflops)]
        assert isinstance(placed, Refused) == (not fitting)
        if isinstance(placed, Refused):
            continue
        assert placement.leftover(placed, vram, tflops) == min(
            placement.leftover(g, vram, tflops) for g in fitting
        )
        after = replace(
            placed,
            vram_free_mib=placed.vram_free_mib - vram,
            tflops_free=placed.tflops_free - tflops,
        )
        assert after.vram_free_mib >= 0
        assert after.tflops_free >= -placement.TFLOPS_TOLERANCE
        gpus = [after if g.uuid == placed.uuid else g for g in gpus]


LIMITS = quota.Limits(2, 4096, 5.0, contact="Cleo (cleo@example.org)")


@pytest.mark.parametrize(
    ("usage", "vram", "tflops", "field"),
    [
        (quota.Usage(), 4096, 5.0, None),
        (quota.Usage(1, 2048, 2.5), 2048, 2.5, None),
        (quota.Usage(1, 2048, 2.5), 2049, 1, "vram_mib"),
        (quota.Usage(1, 2048, 2.5), 1, 2.6, "tflops"),
        (quota.Usage(2, 2, 0.2), 1, 0.1, "user"),
        (quota.Usage(1, 8192, 9), 1, 0.1, "vram_mib"),  # the limit was lowered meanwhile
    ],
)
def test_quota(usage: quota.Usage, vram: int, tflops: float, field: str | None) -> None:
    over = quota.check(LIMITS, usage, vram, tflops)
    assert (over and over.field) == field
    if over is not None:
        assert "Cleo" in over.detail  # whom to ask
    assert quota.check(quota.Limits(), usage, 10**6, 1e6) is None


def test_a_denial_says_limit_use_and_what_to_do() -> None:
    over = quota.check(LIMITS, quota.Usage(1, 3000, 1), 2000, 1)
    assert over is not None
    assert over.detail == (
        "You asked for 2,000 MiB of GPU memory; your limit is 4,096 MiB at once and you hold "
        "3,000 MiB, so 1,096 MiB is left. Ask for less, stop another of your servers, or ask "
        "Cleo (cleo@example.org)."
    )


NEW = View("granted", "admitted", "pending", 100.0, None, 0, 0.0)
IN = View("active", "admitted", "admitted", 100.0, 100.0, 0, 0.0)
OUT = View("ended", "revoked", "admitted", 100.0, 100.0, 0, 0.0)
HERE = Surroundings(node_ready=True, gpu_present=True, room=True)
AWAY = replace(HERE, node_ready=False)


@pytest.mark.parametrize(
    ("lease", "around", "now", "step"),
    [
        (NEW, HERE, 0, Command("admit")),
        (NEW, AWAY, 0, None),
        (NEW, replace(HERE, room=False), 0, None),  # waits until an ended lease is confirmed gone
        (replace(NEW, retry_at=5), HERE, 4.9, None),
        (replace(NEW, retry_at=5), HERE, 5, Command("admit")),
        (IN, HERE, 0, None),
        (replace(IN, expires_at=130.0), HERE, 0, Command("admit")),  # extended
        (replace(IN, expires_at=130.0), replace(HERE, room=False), 0, Command("admit")),
        (OUT, HERE, 0, Command("revoke")),
        (OUT, AWAY, 0, None),
        (OUT, AWAY, 104.9, None),  # its clock may be behind
        (OUT, AWAY, 105, Forget()),
        (replace(OUT, node_expires_at=None, observed="pending"), AWAY, 0, Forget()),
        (replace(OUT, observed="revoked"), HERE, 0, None),
    ],
)
def test_next_step(
    lease: View, around: Surroundings, now: float, step: Command | Forget | None
) -> None:
    assert next_step(lease, around, now) == step
    assert next_step(lease, around, now) == step  # asking changes nothing


@pytest.mark.parametrize(
    ("lease", "around", "now", "reason"),
    [
        (NEW, HERE, 100, "expired"),
        (IN, AWAY, 100, "expired"),
        (replace(NEW, failures=life.MAX_FAILURES), HERE, 0, "failed"),
        (IN, replace(HERE, gpu_present=False), 0, "failed"),
    ],
)
def test_leases_that_must_end(lease: View, around: Surroundings, now: float, reason: str) -> None:
    step = next_step(lease, around, now)
    assert isinstance(step, End)
    assert step.reason == reason


def test_no_state_follows_ended() -> None:
    assert life.TRANSITIONS["ended"] == frozenset()
    assert all(life.may(state, "ended") for state in life.TRANSITIONS if state != "ended")


def test_activity() -> None:
    assert life.with_activity("active", 0, 59, 60) == "active"
    assert life.with_activity("active", 0, 60, 60) == "idle"
    assert life.with_activity("idle", 55, 60, 60) == "active"
    assert life.with_activity("granted", 0, 99, 60) == "granted"
    assert life.with_activity("ended", 0, 99, 60) == "ended"


def test_node_state() -> None:
    assert node_state(True, 0, 1000, 60) == "online"
    assert node_state(False, 940, 1000, 60) == "offline"
    assert node_state(False, 939, 1000, 60) == "lost"


def test_amounts_are_written_for_people() -> None:
    assert units.mib(6000) == "6,000 MiB"
    assert [units.tflops(x) for x in (5, 2.5, 0.125, 1000)] == [
        "5 TFLOPS", "2.5 TFLOPS", "0.125 TFLOPS", "1,000 TFLOPS",
    ]  # fmt: skip
    assert units.memory(1) == "1 MiB"
    assert [units.duration(s) for s in (45, 720, 11100)] == ["45 s", "12 min", "3 h 5 min"]
