"""The tables of :mod:`bench.models`, beside the published ones."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from pathlib import Path

from .measure import Row

PUBLISHED = Path(__file__).with_name("published.csv")
SOURCE = "NexusGPU/benchmark README, 2025-07-06 (TorchBench, evaluation, GPU not stated)"

#: What the median over the models may lose at most, in per cent, by the round trip added in ms.
REACH = {"0": 3.0, "0.3": 8.0, "1": 20.0}
WORST = {"0.3": 50.0}


def published() -> dict[str, tuple[float, float, float]]:
    """Slowdown in per cent on the same host, with 0.3 and 1 ms added each way, by our names."""
    lines = [line for line in PUBLISHED.read_text().splitlines() if not line.startswith("#")]
    return {
        row["ours"]: (
            float(row["local_pct"]), float(row["added_0_3ms_pct"]), float(row["added_1ms_pct"])
        )
        for row in csv.DictReader(lines)
        if row["ours"]
    }  # fmt: skip


def print_row(
    row: Row, columns: Sequence[str], known: dict[str, tuple[float, float, float]]
) -> None:
    named = f"{row.model:14}{row.task:6}{row.mode:8}"
    if row.failed:
        print(f"{named} FAILED: {row.failed}", flush=True)
        return
    native = "         -" if row.native_ms is None else f"{row.native_ms:10.2f}"
    if row.native_ms is None:  # nothing to compare with: times
        cells = "".join(f"{row.remote_ms[c]:8.2f}ms" for c in columns)
    else:
        cells = "".join(f"{row.slowdown_pct[c]:+9.1f}%" for c in columns)
    trips = "      -" if row.round_trips is None else f"{row.round_trips:7.1f}"
    calls = "      -" if row.calls is None else f"{row.calls:7.0f}"
    theirs = ""
    if row.task == "infer" and row.mode == "eager" and row.model in known:
        theirs = "   " + " / ".join(f"{value:.0f}%" for value in known[row.model])
    print(f"{named}{native}{cells}{trips}{calls}{theirs}", flush=True)


def print_heading(columns: Sequence[str]) -> None:
    cells = "".join(f"{'+' + c + ' ms':>10}" for c in columns)
    print(f"{'model':14}{'task':6}{'mode':8}{'native ms':>10}{cells}  trips  calls   published",
          flush=True)  # fmt: skip


def print_summary(rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Median and worst slowdown, eager and over everything, beside what is to be reached."""
    for name, chosen in (
        ("eager", [row for row in rows if row.slowdown_pct and row.mode == "eager"]),
        ("all", [row for row in rows if row.slowdown_pct]),
    ):
        if not chosen or (name == "all" and all(row.mode == "eager" for row in chosen)):
            continue
        for column in columns:
            values = [row.slowdown_pct[column] for row in chosen]
            quiet = statistics.median(row.quiet_pct[column] for row in chosen)
            median, worst = statistics.median(values), max(values)
            verdict = ""
            if column in REACH:
                verdict = (
                    f"   median ≤ {REACH[column]:g} {'yes' if median <= REACH[column] else 'NO'}"
                )
            if column in WORST:
                verdict += (
                    f", worst ≤ {WORST[column]:g} {'yes' if worst <= WORST[column] else 'NO'}"
                )
            print(
                f"{name}, +{column} ms: median {median:+.1f} %, worst {worst:+.1f} % of "
                f"{len(values)}; quickest tenth of steps: median {quiet:+.1f} %{verdict}"
            )
    waits: dict[str, float] = {}
    for row in rows:
        for function, trips in row.waits.items():
            waits[function] = waits.get(function, 0.0) + trips
    measured = sum(1 for row in rows if row.round_trips is not None)
    if measured:
        worst_first = sorted(waits.items(), key=lambda item: -item[1])[:8]
        named = ", ".join(f"{name} {trips / measured:.2f}" for name, trips in worst_first)
        print(f"round trips per step, mean over the models: {named}")
    print(f"trips, calls: per step. Published: {SOURCE};\n"
          "on the same host / 0.3 ms / 1 ms added to each way, so twice that to the round trip; "
          "batch sizes and code differ")  # fmt: skip
