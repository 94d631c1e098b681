"""Extracts the facts of a CUDA header into descriptions: names, values, layouts, signatures.

    python -m remote_gpu.codegen.describe /path/to/cuda.h

writes ``remote_gpu/api/cuda_types.yaml`` (enums, structs, handles) and ``remote_gpu/api/cuda.yaml``
(every exported function). It is run by hand when a new CUDA version is described; the header comes
from PyPI's ``nvidia-cuda-runtime``. Building Carrel needs neither the header nor this module.

How a function is answered (its ``call``) and how its parameters travel are ours and live in
``remote_gpu/api/cuda_calls.yaml``; this module never touches them.

Needs ``libclang`` (PyPI).
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

API = Path(__file__).resolve().parent.parent / "api"


_COMPILER_HEADER = "".join(
    f"#define {name}\n"
    for name in (
        "__host__", "__device__", "__device_builtin__", "__cudart_builtin__", "CUDARTAPI",
        "CUDARTAPI_CDECL", "CUDA_CB", "__builtin_align__(n)", "__align__(n)", "__inline__",
        "__device_builtin_texture_type__", "__device_builtin_surface_type__", "__CUDA_DEPRECATED",
        "__specialization_static", "__no_return__", "__forceinline__", "__noinline__",
    )
)  # fmt: skip


def _spelling(type_: Any) -> str:
    """The C spelling of a type, without elaborations that vary between headers."""
    text = str(type_.spelling).replace("struct ", "").replace("enum ", "").replace("union ", "")
    return re.sub(r"\s+", " ", text).strip()


def _record(cursor: Any, cindex: Any) -> list[Any]:
    """Fields of a struct or union: ``[type, name]``, ``[type, name, n]`` or nested records."""
    kinds = cindex.CursorKind
    fields: list[Any] = []
    anonymous: list[Any] = []
    for child in cursor.get_children():
        if child.kind in (kinds.STRUCT_DECL, kinds.UNION_DECL):
            anonymous.append(child)
            if child.is_anonymous() and not _named_by_field(cursor, child, cindex):
                fields.append({_tag(child, kinds): _record(child, cindex)})
        elif child.kind == kinds.FIELD_DECL:
            fields.append(_field(child, cindex))
    return fields


def _tag(cursor: Any, kinds: Any) -> str:
    return "union" if cursor.kind == kinds.UNION_DECL else "struct"


def _named_by_field(parent: Any, record: Any, cindex: Any) -> bool:
    for child in parent.get_children():
        if child.kind == cindex.CursorKind.FIELD_DECL:
            declaration = _element(child.type, cindex).get_declaration()
            if declaration == record:
                return True
    return False


def _element(type_: Any, cindex: Any) -> Any:
    while type_.kind == cindex.TypeKind.CONSTANTARRAY:
        type_ = type_.element_type
    return type_


def _field(field: Any, cindex: Any) -> Any:
    kinds = cindex.CursorKind
    type_, sizes = field.type, []
    while type_.kind == cindex.TypeKind.CONSTANTARRAY:
        sizes.append(type_.element_count)
        type_ = type_.element_type
    declaration = type_.get_declaration()
    if field.is_bitfield():
        return [_spelling(type_), field.spelling, {"bits": field.get_bitfield_width()}]
    in_place = declaration.kind in (kinds.STRUCT_DECL, kinds.UNION_DECL) and (
        declaration.semantic_parent == field.semantic_parent
        or declaration.lexical_parent == field.semantic_parent
    )
    if in_place:
        entry: Any = {
            _tag(declaration, kinds): _record(declaration, cindex),
            "name": field.spelling,
        }
        if sizes:
            entry["count"] = sizes
        return entry
    if type_.kind == cindex.TypeKind.POINTER and "(*)" in type_.spelling:
        return ["void *", field.spelling]
    return [_spelling(type_), field.spelling, *sizes]


def describe(
    header: Path, parts: Collection[str] = (), macros: tuple[str, ...] = ("CU_", "CUDA_")
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The types and the functions of ``header``, and of the headers of its folder that ``parts``
    names; of its macros, the numbers whose names begin with one of ``macros``."""
    from clang import cindex

    kinds = cindex.CursorKind
    unit = cindex.Index.create().parse(
        str(header),
        args=["-x", "c", f"-I{header.parent}", "-I/usr/lib/gcc/x86_64-linux-gnu/12/include"],
        options=cindex.TranslationUnit.PARSE_DETAILED_PROCESSING_RECORD,
        # The runtime's headers want the compiler's own ones, which come in another package.
        unsaved_files=[
            (str(header.parent / "crt" / name), _COMPILER_HEADER)
            for name in ("host_defines.h", "host_config.h")
        ],
    )
    version = re.search(r"#define CUDA_VERSION (\d+)", header.read_text())
    types: dict[str, Any] = {
        "version": int(version.group(1)) if version else 0,
        "handles": [],
        "aliases": {},
        "callbacks": {},
        "enums": {},
        "structs": {},
        "constants": {},
        "tags": {},
    }
    functions: dict[str, Any] = {}
    records: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    for cursor in unit.cursor.get_children():
        if not cursor.location.file:
            continue
        if Path(cursor.location.file.name).name not in (header.name, *parts):
            continue
        if cursor.kind == kinds.ENUM_DECL:
            name = str(cursor.spelling)
            types["enums"][re.sub(r"_enum$", "", name)] = {
                c.spelling: c.enum_value for c in cursor.get_children()
            }
        elif cursor.kind in (kinds.STRUCT_DECL, kinds.UNION_DECL) and cursor.is_definition():
            records[cursor.spelling] = {_tag(cursor, kinds): _record(cursor, cindex)}
            sizes[cursor.spelling] = cursor.type.get_size()
        elif cursor.kind == kinds.TYPEDEF_DECL:
            _typedef(cursor, cindex, types, records)
        elif cursor.kind == kinds.FUNCTION_DECL:
            functions[cursor.spelling] = [
                [_spelling(p.type), p.spelling] for p in cursor.get_arguments()
            ]
        elif cursor.kind == kinds.MACRO_DEFINITION:
            tokens = [t.spelling for t in cursor.get_tokens()]
            match = re.fullmatch(r"\(*(?:\(\s*\w+\s*\))?\s*\(?(-?(?:0x)?[0-9a-fA-F]+)[uUlL]*\)*",
                                 "".join(tokens[1:]))  # fmt: skip
            if match and cursor.spelling.startswith(macros):
                types["constants"][cursor.spelling] = int(match.group(1), 0)
    for tag, record in records.items():  # declared by its tag only
        types["structs"][tag] = {**record, "size": sizes[tag]}
    used = str(types["structs"])
    types["aliases"] |= {tag: name for tag, name in types.pop("tags").items() if f"{tag} *" in used}
    return types, functions


def _typedef(cursor: Any, cindex: Any, types: dict[str, Any], records: dict[str, Any]) -> None:
    name, target = cursor.spelling, cursor.underlying_typedef_type
    text = _spelling(target)
    declaration = target.get_declaration()
    if target.kind == cindex.TypeKind.POINTER:
        pointee = target.get_pointee()
        if "(" in pointee.spelling:
            types["callbacks"][name] = re.sub(r"\s+", " ", pointee.spelling)
        elif pointee.get_declaration().kind == cindex.CursorKind.STRUCT_DECL:
            types["handles"].append(name)
        else:
            types["aliases"][name] = text
    elif declaration.kind == cindex.CursorKind.ENUM_DECL:
        tag = re.sub(r"_enum$", "", declaration.spelling)
        if not declaration.spelling.endswith("_enum"):
            types["aliases"][name] = tag
        elif tag in types["enums"] and tag not in types["aliases"].values():
            types["enums"][name] = types["enums"].pop(tag)
        else:
            types["aliases"][name] = tag
    elif declaration.spelling in records and not declaration.spelling.endswith("_st"):
        if name != declaration.spelling:
            types["aliases"][name] = declaration.spelling
    elif declaration.spelling in records:
        record = records.pop(declaration.spelling)
        types["structs"][name] = {**record, "size": target.get_size()}
        types["tags"][declaration.spelling] = name
    else:
        types["aliases"][name] = text


def describe_variants(
    typedefs: Path, functions: dict[str, Any]
) -> tuple[dict[str, dict[int, str]], list[str]]:
    """Which exported name serves which CUDA version, from ``cudaTypedefs.h``.

    The header declares ``PFN_<base>_v<version>`` for each variant; the n-th variant of a name is
    exported as ``<base>_v<n>`` (the first without suffix). Variants that a CUDA older than 4.0
    replaced are left out. Signatures of older variants are added to ``functions``.

    Returns the variants by base name, and the names that also exist with per-thread default
    stream (``_ptsz``, ``_ptds``).
    """
    from clang import cindex

    unit = cindex.Index.create().parse(
        str(typedefs),
        args=["-x", "c", f"-I{typedefs.parent}", "-I/usr/lib/gcc/x86_64-linux-gnu/12/include",
              "-DCUDA_FORCE_LEGACY32_INTERNAL_ONLY"],
    )  # fmt: skip
    found: dict[str, dict[int, Any]] = {}
    per_thread: set[str] = set()
    for cursor in unit.cursor.get_children():
        match = re.fullmatch(r"PFN_(cu\w+?)_v(\d+)(_ptsz|_ptds)?", cursor.spelling)
        if cursor.kind != cindex.CursorKind.TYPEDEF_DECL or not match:
            continue
        base, version, suffix = match.group(1), int(match.group(2)), match.group(3)
        if suffix:
            per_thread.add(f"{base} {version} {suffix}")
            continue
        parameters = [[_spelling(p.type), p.spelling] for p in cursor.get_children()
                      if p.kind == cindex.CursorKind.PARM_DECL]  # fmt: skip
        found.setdefault(base, {})[version] = parameters
    variants: dict[str, dict[int, str]] = {}
    threads: set[str] = set()
    for base, versions in sorted(found.items()):
        ordered = sorted(versions)
        newest = max((n for n in range(2, 9) if f"{base}_v{n}" in functions), default=1)
        first = 1 + max(0, newest - len(ordered))  # the header hides the oldest of some
        for index, version in enumerate(ordered):
            name = base if first + index == 1 else f"{base}_v{first + index}"
            if index + 1 < len(ordered) and ordered[index + 1] <= 4000:
                continue
            variants.setdefault(base, {})[version] = name
            functions.setdefault(name, versions[version])
    for entry in per_thread:
        base, since, suffix = entry.split()
        served = [v for v in variants.get(base, {}) if v <= int(since)]
        if served:
            threads.add(variants[base][max(served)] + suffix)
    return variants, sorted(threads)


def write(path: Path, comment: str, data: Any) -> None:
    body = yaml.safe_dump(data, sort_keys=False, width=100, default_flow_style=None)
    path.write_text("".join(f"# {line}\n" for line in comment.splitlines()) + body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("header", type=Path, help="cuda.h of the CUDA version to describe")
    header = parser.parse_args().header
    types, functions = describe(header)
    variants, per_thread = describe_variants(header.with_name("cudaTypedefs.h"), functions)
    # Declared in cudaProfiler.h, which is no part of the runtime's wheel; both since CUDA 4.0.
    for name in ("cuProfilerStart", "cuProfilerStop"):
        functions.setdefault(name, [])
        variants.setdefault(name, {4000: name})
    write(
        API / "cuda_types.yaml",
        "The types of the CUDA driver API: facts, extracted by remote_gpu/codegen/describe.py.\n"
        "generated/cuda_abi.hpp is made from this file at build time.",
        types,
    )
    write(
        API / "cuda.yaml",
        "Every function of the CUDA driver API: facts, extracted by remote_gpu/codegen/describe.py.\n"
        "functions: name: [[type, parameter], ...]. All return CUresult.\n"
        "variants: base name: {CUDA version: the exported name that serves it from then on}.\n"
        "per_thread: names that also exist for the per-thread default stream.\n"
        "How each function is answered: cuda_calls.yaml.",
        {
            "library": "libcuda.so.1",
            "version": types["version"],
            "functions": functions,
            "variants": variants,
            "per_thread": per_thread,
        },
    )
    print(
        f"{len(functions)} functions, {len(types['structs'])} structs, {len(types['enums'])} enums"
    )


if __name__ == "__main__":
    main()
