"""Takes the figures of one model: the lanes in turns, round after round, and medians of steps."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .lanes import LOAD_TIMEOUT_S, STEPS_TIMEOUT_S, Failed, Lane


@dataclass(frozen=True)
class Row:
    """A model's figures: ms per step, keyed like ``slowdown_pct`` by the added round trip.

    ``quiet_pct`` is the slowdown by each lane's quickest tenth of steps instead of the median: what
    it is without what else goes on on the machine.
    """

    model: str
    task: str
    mode: str
    native_ms: float | None = None
    remote_ms: dict[str, float] = field(default_factory=dict)
    slowdown_pct: dict[str, float] = field(default_factory=dict)
    quiet_pct: dict[str, float] = field(default_factory=dict)
    round_trips: float | None = None  # per step
    calls: float | None = None  # per step
    waits: dict[str, float] = field(default_factory=dict)  # round trips per step, by function
    steps: int = 0
    failed: str = ""


@dataclass(frozen=True)
class Setting:
    """A column of the table: where a step runs, and what the relay is told before it does."""

    column: str
    lane: Lane
    told_ms: float | None = None


def measure(
    model: str, task: str, mode: str, *,
    native: Lane | None, settings: Sequence[Setting], traced: Lane,
    tiny: bool, compiled_only: bool, rounds: int, round_s: float,
) -> Row:  # fmt: skip
    """The figures of one model, or why there are none.

    Args:
        native: the lane without Carrel; None where there is none: nothing to compare with then.
        settings: the remote ones.
        traced: the lane that counts its calls.
        rounds: how often every lane has its turn.
        round_s: about how long a turn takes, in seconds.
    """
    lanes = list(dict.fromkeys([*([native] if native else []), *(s.lane for s in settings)]))
    what = {
        "model": model,
        "task": task,
        "mode": mode,
        "tiny": tiny,
        "compiled_only": compiled_only,
    }
    try:
        for lane in lanes:
            lane.ask("load", LOAD_TIMEOUT_S, **what)
        first = native or settings[0].lane
        count = _steps_in(first, round_s)
        turns: dict[str, list[float]] = {}
        for number in range(rounds):
            order = ([Setting("native", native)] if native else []) + list(settings)
            # Every other round backwards: what drifts touches all alike.
            for setting in order if number % 2 == 0 else reversed(order):
                if setting.told_ms is not None:
                    setting.lane.ask("added", told_ms=setting.told_ms)
                taken = setting.lane.ask("steps", STEPS_TIMEOUT_S, count=count)["seconds"]
                turns.setdefault(setting.column, []).extend(taken)
        counted = _counted(traced)
    except Failed as error:
        for lane in lanes:
            lane.close()  # CUDA's worst errors stay with a process: the next model gets new ones
        return Row(model, task, mode, failed=str(error).partition("\n")[0])
    medians = {column: statistics.median(taken) * 1000 for column, taken in turns.items()}
    quick = {column: sorted(taken)[len(taken) // 10] for column, taken in turns.items()}
    return Row(
        model, task, mode, medians.get("native"),
        {column: ms for column, ms in medians.items() if column != "native"},
        _slowdown(medians), _slowdown(quick), steps=count * rounds, **counted,
    )  # fmt: skip


def _slowdown(times: dict[str, float]) -> dict[str, float]:
    """In per cent of the native time, by column; nothing without one."""
    native = times.get("native")
    return {
        column: 100 * (time / native - 1)
        for column, time in times.items()
        if native and column != "native"
    }


def _steps_in(lane: Lane, seconds: float) -> int:
    """How many steps take about so long; 3 to 100."""
    taken = lane.ask("steps", STEPS_TIMEOUT_S, count=3)["seconds"]
    return max(3, min(100, round(seconds / max(1e-6, min(taken)))))


def _counted(lane: Lane, steps: int = 5) -> dict[str, Any]:
    """Calls and round trips per step, and which functions wait."""
    before = lane.ask("counts")["counts"]
    lane.ask("steps", STEPS_TIMEOUT_S, count=steps)
    after = lane.ask("counts")["counts"]
    if not after:
        return {}
    grown = {
        name: [now - then for now, then in zip(counts, before.get(name, [0, 0]), strict=True)]
        for name, counts in after.items()
    }
    waits = {name: trips / steps for name, (_, trips) in grown.items() if trips}
    return {
        "calls": sum(calls for calls, _ in grown.values()) / steps,
        "round_trips": sum(waits.values()),
        "waits": dict(sorted(waits.items(), key=lambda item: -item[1])),
    }
