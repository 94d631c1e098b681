"""The coverage page is what the descriptions say."""

from __future__ import annotations

import re

from remote_gpu.codegen import coverage, nvml


def test_the_committed_page_is_current() -> None:
    assert coverage.PAGE.read_text() == coverage.page(), (
        "run python -m remote_gpu.codegen.coverage and commit docs/coverage.md"
    )


def test_every_function_has_one_row_and_the_sums_are_right() -> None:
    text = coverage.page()
    assert coverage.page() == text
    section = text.split("## libnvidia-ml.so.1 (NVML)")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|$", section, re.MULTILINE))
    assert rows == nvml.load()
    [summary] = re.findall(r"^\| libnvidia-ml\.so\.1 \(NVML\) \| (.*) \|$", text, re.MULTILINE)
    listed, *kinds, _ = summary.split(" | ")
    assert int(listed) == len(rows) == sum(map(int, kinds))
