"""Writes ``generated/cuda_abi.hpp`` (C++ declarations of the CUDA driver ABI) from cuda_types.yaml.

python -m remote_gpu.codegen.abi OUTPUT.hpp
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

API = Path(__file__).resolve().parent.parent / "api"
INDENT = "    "


def _declare(type_: str, name: str, sizes: list[int]) -> str:
    return f"{type_} {name}{''.join(f'[{n}]' for n in sizes)};"


def _body(fields: list[Any], depth: int) -> list[str]:
    pad, lines = INDENT * depth, []
    for field in fields:
        if isinstance(field, list):
            type_, name, *rest = field
            if rest and isinstance(rest[0], dict):
                lines.append(f"{pad}{type_} {name} : {rest[0]['bits']};")
            else:
                lines.append(pad + _declare(type_, name, rest))
            continue
        tag = "union" if "union" in field else "struct"
        sizes = "".join(f"[{n}]" for n in field.get("count", []))
        lines.append(f"{pad}{tag} {{")
        lines += _body(field[tag], depth + 1)
        lines.append(f"{pad}}} {field.get('name', '')}{sizes};".replace(" ;", ";"))
    return lines


def _by_value(fields: list[Any]) -> set[str]:
    """Names of the types that ``fields`` embed."""
    names: set[str] = set()
    for field in fields:
        if isinstance(field, list):
            if "*" not in field[0]:
                names.add(field[0])
        else:
            names |= _by_value(field["union" if "union" in field else "struct"])
    return names


def _ordered(structs: dict[str, Any], aliases: dict[str, str]) -> list[str]:
    """Struct names such that an embedded struct comes before the one that embeds it."""
    done: list[str] = []

    def visit(name: str) -> None:
        while name in aliases:
            name = aliases[name]
        if name not in structs or name in done:
            return
        record = structs[name]
        for needed in sorted(_by_value(record.get("union") or record["struct"])):
            visit(needed)
        done.append(name)

    for name in structs:
        visit(name)
    return done


def generate(types: dict[str, Any]) -> str:
    """The header's text."""
    out = [
        "// Generated from remote_gpu/api/cuda_types.yaml by remote_gpu/codegen/abi.py. Do not edit.",
        "#pragma once",
        "#include <cstddef>",
        "#include <cstdint>",
        "",
        "#define CUDAAPI",
        "using cuuint32_t = uint32_t;",
        "using cuuint64_t = uint64_t;",
        "",
    ]
    out += [f"typedef struct {h}_st* {h};" for h in types["handles"]]
    out += ["", *declarations(types), ""]
    out.append(f"inline constexpr int kCudaVersion = {types['version']};")
    return "\n".join(out) + "\n"


def declarations(types: dict[str, Any]) -> list[str]:
    """Enums, structs, aliases, callbacks and constants; the handles are declared before."""
    aliases = {k: v for k, v in types["aliases"].items() if not k.startswith("cuuint") and k != v}
    structs = types["structs"]
    out: list[str] = []
    for name, values in types["enums"].items():
        base = "unsigned int" if any(v > 0x7FFFFFFF for v in values.values()) else "int"
        out.append(f"enum {name} : {base} {{")
        out += [f"{INDENT}{k} = {v}," for k, v in values.items()]
        out.append("};")
    out.append("")
    for name, record in structs.items():
        out.append(f"{'union' if 'union' in record else 'struct'} {name};")
    known = {*structs, *types["enums"], *types["handles"]}
    pending = dict(aliases)
    while pending:
        ready = [n for n, t in pending.items() if t not in pending]
        for name in ready:
            target = pending.pop(name)
            if target.endswith("_st") and target not in known:
                continue
            out.append(f"using {name} = {target};")
    for name, value in types["constants"].items():
        if name == "CUDA_VERSION" or not (-(2**63) <= value < 2**64):
            continue
        out.append(f"inline constexpr long long k{name} = {value}ll;" if value < 2**63 else "")
    out.append("")
    for name, signature in types["callbacks"].items():
        result, _, parameters = signature.partition(" (")
        out.append(f"typedef {result} (CUDAAPI *{name})({parameters};")
    out.append("")
    for name in _ordered(structs, aliases):
        record = structs[name]
        tag = "union" if "union" in record else "struct"
        out.append(f"{tag} {name} {{")
        out += _body(record[tag], 1)
        out.append("};")
        out.append(f'static_assert(sizeof({name}) == {record["size"]}, "{name}");')
    return out


def write(target: Path) -> None:
    """Writes the header to ``target``."""
    target.parent.mkdir(parents=True, exist_ok=True)
    types = yaml.safe_load((API / "cuda_types.yaml").read_text())
    target.write_text(generate(types))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
