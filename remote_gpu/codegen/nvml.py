"""Generates NVML's calls without a hand-written one, and its export list, from the descriptions.

python -m remote_gpu.codegen.nvml OUTPUT_DIR
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import yaml

API = Path(__file__).resolve().parent.parent / "api"
HEADER = "// Generated from remote_gpu/api/nvml*.yaml by remote_gpu/codegen/nvml.py. Do not edit.\n"

_INTEGERS = {
    "unsigned int": "unsigned",
    "int": "int",
    "unsigned long": "unsigned long",
    "unsigned long long": "unsigned long long",
}
_DEVICE = "nvmlDevice_t"


def read() -> tuple[dict[str, list[list[str]]], dict[str, Any]]:
    """NVML's functions with their parameters (type, name), and how they are answered."""
    functions = yaml.safe_load((API / "nvml.yaml").read_text())["functions"]
    return functions, yaml.safe_load((API / "nvml_calls.yaml").read_text())


def load() -> dict[str, str]:
    """How each function is answered, by name: a kind of the coverage page."""
    functions, calls = read()
    listed = [*calls["local"], *calls["readings"], *calls["constants"]]
    if unknown := set(listed) - set(functions):
        sys.exit(f"nvml_calls.yaml: not in nvml.yaml: {sorted(unknown)}")
    if twice := {name for name in listed if listed.count(name) > 1}:
        sys.exit(f"nvml_calls.yaml: answered twice: {sorted(twice)}")
    kinds = dict.fromkeys(functions, "unsupported")
    for name in functions:
        if name in calls["local"] or name in calls["constants"]:
            kinds[name] = "local"
        elif name in calls["readings"]:
            kinds[name] = "manual"
        elif re.fullmatch(calls["refused"], name):
            kinds[name] = "refused"
    return kinds


def _cpp(type_: str) -> str:
    """The type of a parameter in C++: as NVML's, an enumeration being an unsigned number."""
    if "*" in type_:
        bare = type_.replace("const", "").replace("*", "").strip()
        return f"{_INTEGERS.get(bare, 'unsigned')}*" if type_.count("*") == 1 else "void*"
    return "const void*" if type_ == _DEVICE else _INTEGERS.get(type_, "unsigned")


def _signature(name: str, parameters: list[list[str]]) -> str:
    typed = ", ".join(f"{_cpp(type_)} {parameter}" for type_, parameter in parameters)
    return f"NVML_EXPORT int {name}({typed})"


def _split(name: str, parameters: list[list[str]]) -> tuple[list[str], list[str]]:
    """The names of the numbers that go in and of the pointers that come out, after the device."""
    if not parameters or parameters[0][0] != _DEVICE:
        sys.exit(f"nvml_calls.yaml: {name} has no device")
    inputs = [p for type_, p in parameters[1:] if "*" not in type_]
    outputs = [p for type_, p in parameters[1:] if "*" in type_]
    return inputs, outputs


def _reading(name: str, parameters: list[list[str]], limits: list[int]) -> str:
    inputs, outputs = _split(name, parameters)
    if len(inputs) != len(limits):
        sys.exit(f"nvml_calls.yaml: {name} has {len(inputs)} numbers, not {len(limits)}")
    bounds = ", ".join(
        f"{{unsigned({p}), {limit}}}" for p, limit in zip(inputs, limits, strict=True)
    )
    key, device = name.removeprefix("nvmlDeviceGet"), parameters[0][1]
    return (
        f"{_signature(name, parameters)} {{ "
        f'return reading({device}, "{key}", {{{bounds}}}, {", ".join(outputs)}); }}'
    )


def _constant(name: str, parameters: list[list[str]], values: list[int]) -> str:
    _, outputs = _split(name, parameters)
    given = ", ".join(
        f"std::pair{{{p}, {v}}}" for p, v in zip(outputs[: len(values)], values, strict=True)
    )
    rest = "".join(f" (void){p};" for _, p in parameters[1:] if p not in outputs[: len(values)])
    return (
        f"{_signature(name, parameters)} {{{rest} return constants({parameters[0][1]}, {given}); }}"
    )


def calls_inc() -> str:
    """The definitions of all functions that are not hand-written.

    Those that answer nothing take the device alone, where it comes first: the C calling convention
    lets a callee ignore the rest.
    """
    functions, calls = read()
    lines = [HEADER]
    for name, kind in load().items():
        parameters = functions[name]
        has_device = bool(parameters) and parameters[0][0] == _DEVICE
        if name in calls["readings"]:
            lines.append(_reading(name, parameters, calls["readings"][name]))
        elif name in calls["constants"]:
            lines.append(_constant(name, parameters, calls["constants"][name]))
        elif kind in ("refused", "unsupported"):
            device = "device" if has_device else "&device_token"
            lines.append(
                f"NVML_EXPORT int {name}({'const void* device' if has_device else ''}) "
                f"{{ static std::atomic<bool> told; "
                f'return {kind}("{name}", {device}, told); }}'
            )
    return "\n".join(lines) + "\n"


def version_script(kinds: dict[str, str]) -> str:
    names = "".join(f"    {name};\n" for name in kinds)
    return f"{{\n  global:\n{names}  local:\n    *;\n}};\n"


def main() -> None:
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for name, text in {"nvml_calls.inc": calls_inc(), "nvml.map": version_script(load())}.items():
        path = target / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


if __name__ == "__main__":
    main()
