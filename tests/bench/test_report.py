"""The tables: slowdowns, verdicts, and the published figures beside them."""

from __future__ import annotations

import pytest

from bench.models import report
from bench.models.__main__ import MODELS
from bench.models.measure import Row, _slowdown


def test_slowdown_is_of_the_native_time() -> None:
    assert _slowdown({"native": 2.0, "0": 2.0, "1": 3.0}) == {"0": 0.0, "1": 50.0}
    assert _slowdown({"0": 2.0}) == {}


def test_published_figures_are_of_models_that_we_have() -> None:
    known = report.published()
    assert set(known) <= set(MODELS)
    assert known["bert"] == (22.36, 73.91, 214.12)
    assert len(known) == 8


def test_a_row_shows_slowdown_round_trips_and_what_was_published(
    capsys: pytest.CaptureFixture[str],
) -> None:
    row = Row("bert", "infer", "eager", 10.0, {"0": 10.1}, {"0": 1.0}, {"0": 0.5}, 2.0, 300.0)
    report.print_row(row, ["0"], report.published())
    (line,) = capsys.readouterr().out.splitlines()
    assert line.split()[:6] == ["bert", "infer", "eager", "10.00", "+1.0%", "2.0"]
    assert "22% / 74% / 214%" in line


def test_the_summary_says_what_was_reached(capsys: pytest.CaptureFixture[str]) -> None:
    def row(model: str, loss: float) -> Row:
        slow = {"0.3": loss}
        return Row(
            model, "infer", "eager", 10.0, {"0.3": 10.0}, slow, slow, 2.0, 300.0, {"cuWaits": 2.0}
        )

    report.print_summary([row("a", 1.0), row("b", 7.0), row("c", 60.0)], ["0.3"])
    said = capsys.readouterr().out
    assert "median +7.0 %, worst +60.0 % of 3" in said
    assert "median ≤ 8 yes, worst ≤ 50 NO" in said
    assert "cuWaits 2.00" in said


def test_a_failed_model_is_named_and_not_counted(capsys: pytest.CaptureFixture[str]) -> None:
    failed = Row("a", "infer", "eager", failed="out of memory")
    report.print_row(failed, ["0"], {})
    report.print_summary([failed], ["0"])
    said = capsys.readouterr().out
    assert "a             infer eager    FAILED: out of memory" in said
    assert "median" not in said
