"""What people ask for: form fields and API options, read and checked."""

from __future__ import annotations

import math
from typing import Any

import pytest

from hub_plugin.slices import InvalidChoice, Slice, from_form, from_options, read_sizes

SIZES = read_sizes(
    [
        {"name": "small", "label": "Small", "vram_mib": 2048, "tflops": 5},
        {"name": "large", "vram_mib": 8192, "tflops": 20.5},
    ]
)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"gpu": ["none"]}, None),
        ({"gpu": ["none"], "vram_mib": ["nonsense"], "tflops": [""]}, None),
        ({"gpu": ["small"], "vram_mib": [""], "tflops": [""]}, Slice(2048, 5)),
        ({"gpu": ["small"], "start_without_gpu": ["1"]}, None),
        ({"gpu": ["custom"], "vram_mib": [" 100 "], "tflops": ["0.25"]}, Slice(100, 0.25)),
        ({"vram_mib": ["100"], "tflops": ["1e1"]}, Slice(100, 10)),
    ],
)
def test_a_form(fields: dict[str, list[str]], expected: Slice | None) -> None:
    assert from_options(from_form(fields), SIZES, allow_custom=True) == expected


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"gpu": "huge"}, "gpu"),
        ({"gpu": 3}, "gpu"),
        ({"gpu": ["small"]}, "gpu"),
        ({"gpu": {"small": 1}}, "gpu"),
        ({"gpu": "x" * 10_000}, "gpu"),
        ({"gpu": "custom"}, "vram_mib"),
        ({"vram_mib": 0, "tflops": 1}, "vram_mib"),
        ({"vram_mib": -1, "tflops": 1}, "vram_mib"),
        ({"vram_mib": 1.0, "tflops": 1}, "vram_mib"),
        ({"vram_mib": "1", "tflops": 1}, "vram_mib"),
        ({"vram_mib": True, "tflops": 1}, "vram_mib"),
        ({"vram_mib": 1}, "tflops"),
        ({"vram_mib": 1, "tflops": math.nan}, "tflops"),
        ({"vram_mib": 1, "tflops": math.inf}, "tflops"),
        ({"vram_mib": 1, "tflops": 10**400}, "tflops"),
        ({"vram_mib": 1, "tflops": 0}, "tflops"),
        ({"vram_mib": 1, "tflops": True}, "tflops"),
    ],
)
def test_nonsense_names_its_field(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidChoice) as raised:
        from_options(options, SIZES, allow_custom=True)
    assert raised.value.field == field
    assert str(raised.value).startswith(f"{field}: ")
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"gpu": ["small", "large"]}, "gpu"),
        ({"gpu_file": [b""], "gpu": [b"x"]}, "gpu"),
        ({"gpu": ["custom"], "vram_mib": ["٣"], "tflops": ["1"]}, "vram_mib"),
        ({"gpu": ["custom"], "vram_mib": ["1_000"], "tflops": ["1"]}, "vram_mib"),
        ({"gpu": ["custom"], "vram_mib": ["9" * 5000], "tflops": ["1"]}, "vram_mib"),
        ({"gpu": ["custom"], "vram_mib": ["1"], "tflops": ["one"]}, "tflops"),
        ({"gpu": ["custom"], "vram_mib": ["1"]}, "tflops"),
    ],
)
def test_text_that_is_no_number(fields: dict[str, list[Any]], field: str) -> None:
    with pytest.raises(InvalidChoice) as raised:
        from_options(from_form(fields), SIZES, allow_custom=True)
    assert raised.value.field == field


def test_options_of_others_and_no_custom() -> None:
    assert from_options({"image": "x", "gpu": "large"}, SIZES, False) == Slice(8192, 20.5)
    assert from_options({"image": "x"}, SIZES, False) is None
    with pytest.raises(InvalidChoice, match=r"choose none, small, large$"):
        from_options({"gpu": "custom", "vram_mib": 1, "tflops": 1}, SIZES, False)


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ([{"name": "none", "vram_mib": 1, "tflops": 1}], "not 'none' or 'custom'"),
        ([{"name": "Big One", "vram_mib": 1, "tflops": 1}], "a size's name"),
        ([{"name": "a", "vram_mib": "1", "tflops": 1}], "vram_mib"),
        ([{"name": "a", "vram_mib": 1}], "tflops"),
        ([{"name": "a", "vram": 1, "tflops": 1}], "no option vram"),
        ([{"name": "a", "vram_mib": 1, "tflops": 1}] * 2, "two sizes"),
    ],
)
def test_sizes_that_a_site_gets_wrong(entries: list[dict[str, Any]], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_sizes(entries)
