"""Extracts the facts of a CUDA library's headers: functions, how wide their parameters are, statuses.

    python -m remote_gpu.codegen.describe_library LIBRARY FOLDER_OF_HEADERS...

writes ``remote_gpu/api/libraries/LIBRARY.yaml``. Run by hand when a new version is described; the
headers come from PyPI's wheels. How parameters travel is ours and lives in ``LIBRARY_calls.yaml``.

Needs ``libclang`` (PyPI).
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from .describe import _spelling

API = Path(__file__).resolve().parent.parent / "api" / "libraries"

#: Headers that exclude each other are parsed one after another.
_LEGACY = {"cublas": ["cublas.h"]}

#: What the headers want of libcu++, where it plays no part for declarations.
_TARGET = (
    "#define NV_IF_TARGET(...)\n#define NV_IF_ELSE_TARGET(...)\n#define NV_DISPATCH_TARGET(...)\n"
)

#: Headers of a library, its functions' names, and the enum of its statuses.
LIBRARIES: dict[str, tuple[list[str], str, str]] = {
    "cublas": (["cublas_v2.h", "cublasXt.h"], "cublas(?!Lt)", "cublasStatus_t"),
    "cublasLt": (["cublasLt.h"], "cublasLt", "cublasStatus_t"),
    "cudnn": (["cudnn.h", "cudnn_gnn_ops.h", "cudnn_subquadratic_ops.h"], "cudnn", "cudnnStatus_t"),
    "cufft": (["cufftXt.h"], "cufft", "cufftResult"),
    "curand": (["curand.h"], "curand", "curandStatus_t"),
    "cusparse": (["cusparse.h"], "cusparse", "cusparseStatus_t"),
    "cusolver": (
        ["cusolverDn.h", "cusolverSp.h", "cusolverRf.h", "cusolverSp_LOWLEVEL_PREVIEW.h"],
        "cusolver", "cusolverStatus_t",
    ),
    "nccl": (["nccl.h", "nccl_device.h"], "p?nccl", "ncclResult_t"),
    "cusparseLt": (["cusparseLt.h"], "cusparseLt", "cusparseStatus_t"),
    "cupti": (
        ["cupti.h", "cupti_profiler_host.h", "cupti_profiler_target.h", "cupti_pcsampling.h",
         "cupti_pmsampling.h", "cupti_range_profiler.h", "cupti_sass_metrics.h",
         "cupti_checkpoint.h", "cupti_target.h"],
        "cupti", "CUptiResult",
    ),
}  # fmt: skip


def type_code(type_: Any, cindex: Any) -> str:
    """How a parameter lies in a call.

    ``iN`` and ``uN``: integer of N bytes; ``f4``, ``f8``; ``sN``: a struct of N bytes by value;
    ``h``: pointer to an opaque struct (a handle); ``ph``: pointer to such; ``pN``: pointer to N
    bytes (0: void); ``cN``: the same, const; ``pp``: pointer to pointers; ``fn``: a callback.
    """
    canonical = type_.get_canonical()
    kinds = cindex.TypeKind
    if canonical.kind in (kinds.POINTER, kinds.INCOMPLETEARRAY, kinds.CONSTANTARRAY):
        pointee = (
            canonical.get_pointee() if canonical.kind == kinds.POINTER else canonical.element_type
        )
        if pointee.kind in (kinds.FUNCTIONPROTO, kinds.FUNCTIONNOPROTO):
            return "fn"
        const = "c" if pointee.is_const_qualified() else "p"
        if pointee.kind == kinds.POINTER:
            inner = pointee.get_pointee()
            opaque = inner.kind == kinds.RECORD and not inner.get_declaration().is_definition()
            return ("ch" if const == "c" else "ph") if opaque else "pp"
        if pointee.kind == kinds.VOID:
            return f"{const}0"
        if pointee.kind == kinds.RECORD and pointee.get_size() <= 0:
            return "h"
        return f"{const}{max(0, pointee.get_size())}"
    if canonical.kind == kinds.RECORD:
        return f"s{canonical.get_size()}"
    if canonical.kind == kinds.FLOAT:
        return "f4"
    if canonical.kind == kinds.DOUBLE:
        return "f8"
    if canonical.kind == kinds.VOID:
        return "v"
    signed = canonical.kind in (kinds.INT, kinds.LONG, kinds.LONGLONG, kinds.SHORT, kinds.CHAR_S)
    return f"{'i' if signed else 'u'}{canonical.get_size()}"


def _declarations(cursor: Any, cindex: Any) -> Iterator[Any]:
    for child in cursor.get_children():
        if child.kind in (cindex.CursorKind.LINKAGE_SPEC, cindex.CursorKind.UNEXPOSED_DECL):
            yield from _declarations(child, cindex)
        else:
            yield child


def describe(library: str, folders: list[Path]) -> dict[str, Any]:
    """The description of a library."""
    headers, names, status = LIBRARIES[library]
    found = _parse(library, headers, names, status, folders)
    if library in _LEGACY:
        legacy = _parse(library, _LEGACY[library], names, status, folders)
        for part in ("types", "functions"):
            found[part] = {**legacy[part], **found[part]}
    return found


def _parse(
    library: str, headers: list[str], names: str, status: str, folders: list[Path]
) -> dict[str, Any]:
    from clang import cindex

    present = [h for h in headers if any((f / h).exists() for f in folders)]
    source = "#include <library_types.h>\n" + "".join(f'#include "{h}"\n' for h in present)
    unit = cindex.Index.create().parse(
        "all.cpp",
        args=["-x", "c++", "-std=c++17", "-D__CUDA_RUNTIME_H__", "-include", "cuda_runtime_api.h",
              *(f"-I{f}" for f in folders), "-I/usr/lib/gcc/x86_64-linux-gnu/12/include"],
        unsaved_files=[("all.cpp", source), (str(folders[0] / "nv" / "target"), _TARGET)],
    )  # fmt: skip
    for problem in unit.diagnostics:
        if problem.severity >= cindex.Diagnostic.Error:
            print(f"{library}: {problem}")
    functions: dict[str, Any] = {}
    types: dict[str, str] = {}
    statuses: dict[str, int] = {}
    for cursor in _declarations(unit.cursor, cindex):
        if cursor.kind == cindex.CursorKind.ENUM_DECL and cursor.spelling in (
            status,
            f"{status}_t",
        ):
            statuses = {c.spelling: c.enum_value for c in cursor.get_children()}
        elif cursor.kind == cindex.CursorKind.TYPEDEF_DECL and cursor.spelling == status:
            declaration = cursor.underlying_typedef_type.get_declaration()
            statuses = statuses or {c.spelling: c.enum_value for c in declaration.get_children()}
        if cursor.kind != cindex.CursorKind.FUNCTION_DECL or not re.match(names, cursor.spelling):
            continue
        if cursor.storage_class == cindex.StorageClass.STATIC or cursor.is_definition():
            continue
        row = [_spelling(cursor.result_type)]
        types[row[0]] = type_code(cursor.result_type, cindex)
        for i, p in enumerate(cursor.get_arguments()):
            spelling = _spelling(p.type)
            types[spelling] = type_code(p.type, cindex)
            row += [spelling, p.spelling or f"argument{i}"]
        functions[cursor.spelling] = row
    return {"status": statuses, "types": dict(sorted(types.items())), "functions": functions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", choices=sorted(LIBRARIES))
    parser.add_argument("folders", type=Path, nargs="+", help="where the headers are")
    arguments = parser.parse_args()
    description = describe(arguments.library, arguments.folders)
    body = yaml.safe_dump(description, sort_keys=False, width=100, default_flow_style=None)
    API.mkdir(exist_ok=True)
    (API / f"{arguments.library}.yaml").write_text(
        f"# Every function of {arguments.library}: facts, extracted by "
        "remote_gpu/codegen/describe_library.py.\n"
        "# functions: name: [result, type, parameter, type, parameter, ...]; types: how wide each is\n"
        "# (codes: describe_library.type_code). How parameters travel: the _calls.yaml beside it.\n"
        + body
    )
    print(f"{arguments.library}: {len(description['functions'])} functions, "
          f"{len(description['status'])} statuses")  # fmt: skip


if __name__ == "__main__":
    main()
