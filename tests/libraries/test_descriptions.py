"""How calls travel agrees with what the headers say of their parameters."""

from __future__ import annotations

import re

import pytest

from remote_gpu.codegen import library

# What crosses as a number of its own, and what is read or written through a pointer.
NUMBERS = {"value"}
THROUGH_POINTERS = {
    "in", "out", "inout", "scalar", "result", "inresult", "scratch", "string", "mint",
    "stream_out", "box",
}  # fmt: skip


@pytest.mark.parametrize("name", library.LIBRARIES)
def test_kinds_fit_the_types(name: str) -> None:
    lib = library.load(name)
    for function in lib.functions:
        if function.call not in ("async", "sync"):
            continue
        for p in function.parameters:
            where = f"{function.name}: {p.name} ({p.type}, {p.code}) travels as {p.kind}"
            points = "*" in p.type or "[]" in p.type or p.code[0] in "pc"
            if p.kind in THROUGH_POINTERS:
                assert points or p.code == "h", where
            if p.kind in NUMBERS and p.code[0] in "pc":
                pytest.fail(where)
            if p.kind == "device" and "stream" in p.type.lower():
                pytest.fail(where)
            if p.kind in ("out", "inout", "result", "inresult"):
                assert p.type != "const void *", where


@pytest.mark.parametrize("name", library.LIBRARIES)
def test_rules_name_parameters_that_exist(name: str) -> None:
    lib = library.load(name)
    calls = library._yaml((library.API / f"{name}_calls.yaml").read_text())
    served: set[str] = set()
    for rule in calls.get("calls", []):
        pattern = re.compile(rule["functions"])
        matched = [f for f in lib.functions if pattern.fullmatch(f.name) and f.name not in served]
        served |= {f.name for f in matched}
        known = {p.name for f in matched for p in f.parameters}
        assert set(rule.get("parameters", {})) <= known, rule["functions"]
    everywhere = {p.name for f in lib.functions for p in f.parameters}
    assert set(calls.get("parameters", {})) <= everywhere


@pytest.mark.parametrize("name", library.LIBRARIES)
def test_a_small_number_is_not_taken_for_device_memory(name: str) -> None:
    """A pointer to one size, count or version is on the host, unless its name says otherwise."""
    lib = library.load(name)
    sizes = re.compile(r"(?i)(size(InBytes)?|lwork(_bytes)?|version|workspaceInBytes\w*)$")
    for function in lib.functions:
        if function.call in ("async", "sync"):
            for p in function.parameters:
                if "*" in p.type and "const" not in p.type and sizes.search(p.name):
                    assert p.kind != "device", f"{function.name}: {p.name}"
