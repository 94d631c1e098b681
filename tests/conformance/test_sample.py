"""A fixed sample of numba-cuda's own tests, over all areas, through carrel-run; all must pass."""

from __future__ import annotations

import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).parent

pytestmark = pytest.mark.timeout(600)


def runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("conformance_run", HERE / "run.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_sample_passes(tmp_path: Path) -> None:
    conformance = runner()
    tests = (HERE / "sample.txt").read_text(encoding="utf-8").split()
    assert len(tests) >= 100
    target = conformance.through_carrel_run()
    middle = len(tests) // 2

    def run(label: str, part: list[str]) -> list[Any]:
        arguments = [conformance.argument_of(test) for test in part]
        return conformance.run_file(target, arguments, tmp_path, label)

    with ThreadPoolExecutor(2) as pool:
        halves = pool.map(run, ("first", "second"), (tests[:middle], tests[middle:]))
        outcomes = [outcome for half in halves for outcome in half]
    bad = [f"{o.test}: {o.outcome}: {o.message}" for o in outcomes if o.outcome != "passed"]
    assert not bad, "\n".join(bad)
    assert {o.test for o in outcomes} == set(tests)
