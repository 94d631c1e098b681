"""Every program of this directory, through carrel-run on a software GPU, checked against numpy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PROGRAMS = sorted(
    p.stem for p in HERE.glob("*.py") if not p.name.startswith(("_", "test_", "conftest"))
)
SECONDS = 540

pytestmark = pytest.mark.timeout(SECONDS + 60)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What became of each program: "" or the traceback. All run in one process."""
    record = tmp_path_factory.mktemp("programs") / "results.jsonl"
    record.touch()
    command = [
        str(Path(sys.executable).with_name("carrel-run")),
        "--software-gpu",
        "vram=4GiB",
        "--",
        sys.executable,
        str(HERE / "_runner.py"),
        str(record),
        *PROGRAMS,
    ]
    done = subprocess.run(
        command, cwd=record.parent, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    lines = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    errors = {line["program"]: line["error"] for line in lines}
    ended = f"the process ended (status {done.returncode}) before it:\n{done.stderr[-3000:]}"
    return {name: errors.get(name, ended) for name in PROGRAMS}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name: str, results: dict[str, str]) -> None:
    assert results[name] == "", results[name]


def test_there_are_programs() -> None:
    assert len(PROGRAMS) >= 16
