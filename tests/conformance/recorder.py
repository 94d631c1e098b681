"""A pytest plugin that notes every test as it starts and ends, one JSON object a line.

Loaded with ``-p recorder`` in the process under test; the file is named by
``CARREL_CONFORMANCE_RECORD``. What a crash cuts off is therefore known to the last test.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

_path = os.environ["CARREL_CONFORMANCE_RECORD"]


@pytest.fixture(scope="class")
def initialize_from_pytest_config(request: pytest.FixtureRequest) -> None:
    """A fixture of numba-cuda's repository that its wheel's test classes ask for."""
    request.cls._dump_failed_filechecks = False


def _note(**entry: Any) -> None:
    with open(_path, "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def pytest_runtest_logstart(nodeid: str) -> None:
    _note(test=nodeid, event="start")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when != "call" and report.outcome == "passed":
        if report.when == "teardown":
            _note(test=report.nodeid, event="end")
        return
    if hasattr(report, "context") and report.passed:
        return  # a subtest: its test reports itself
    message = ""
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        message = report.longrepr[2]
    elif report.longrepr is not None:
        crash = getattr(report.longrepr, "reprcrash", None)
        message = crash.message if crash else str(report.longrepr)[-2000:]
    outcome = "xfailed" if hasattr(report, "wasxfail") and report.skipped else report.outcome
    _note(
        test=report.nodeid,
        event="outcome",
        when=report.when,
        outcome=outcome,
        message=message[:4000],
        seconds=report.duration,
    )


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _note(test=report.nodeid, event="uncollected", message=str(report.longrepr)[-2000:])
