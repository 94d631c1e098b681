"""Generates the runtime library's declarations, stubs and symbol versions from its descriptions.

    python -m remote_gpu.codegen.cudart MAJOR OUTPUT_DIR

Input: ``api/cudart12.yaml`` or ``cudart13.yaml`` (what exists), ``api/cudart_calls.yaml`` (what is
written by hand; the rest answers "not supported"). Output, in ``OUTPUT_DIR``:

======================  =========================================================================
cudart_abi.hpp          types of that major
cudart_functions.hpp    prototypes of the functions that are written by hand
cudart_stubs.inc        definitions of the others
cudart_per_thread.inc   variants of functions for the per-thread default stream
cudart_errors.inc       rows of error number and name
cudart.map              linker version script: SONAME's version node
======================  =========================================================================
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from . import abi

API = Path(__file__).resolve().parent.parent / "api"
MAJORS = (12, 13)
HEADER = (
    "// Generated from remote_gpu/api/cudart*.yaml by remote_gpu/codegen/cudart.py. Do not edit.\n"
)

#: Handles that are the driver's own, under another name.
_DRIVER_HANDLES = {
    "cudaArray_t": "CUarray",
    "cudaArray_const_t": "CUarray",
    "cudaEvent_t": "CUevent",
    "cudaFunction_t": "CUfunction",
    "cudaGraph_t": "CUgraph",
    "cudaGraphExec_t": "CUgraphExec",
    "cudaGraphNode_t": "CUgraphNode",
    "cudaKernel_t": "CUkernel",
    "cudaLibrary_t": "CUlibrary",
    "cudaMemPool_t": "CUmemoryPool",
    "cudaMipmappedArray_t": "CUmipmappedArray",
    "cudaMipmappedArray_const_t": "CUmipmappedArray",
    "cudaStream_t": "CUstream",
    "cudaUserObject_t": "CUuserObject",
}
#: Variants for the per-thread default stream that are written by hand.
_PER_THREAD_BY_HAND = {
    "cudaLaunchKernelExC_ptsz",
    "cudaGraphInstantiateWithParams_ptsz",
    "cudaGetDriverEntryPoint_ptsz",
    "cudaGetDriverEntryPointByVersion_ptsz",
}
#: Functions that return something else than a cudaError_t.
_RESULTS = {
    "cudaGetErrorName": "const char*",
    "cudaGetErrorString": "const char*",
    "cudaCreateChannelDesc": "cudaChannelFormatDesc",
    "__cudaRegisterFatBinary": "void**",
    "__cudaRegisterFatBinaryEnd": "void",
    "__cudaUnregisterFatBinary": "void",
    "__cudaRegisterVar": "void",
    "__cudaRegisterHostVar": "void",
    "__cudaRegisterManagedVar": "void",
    "__cudaRegisterFunction": "void",
    "__cudaRegisterUnifiedTable": "void",
    "__cudaInitModule": "char",
    "__cudaPushCallConfiguration": "unsigned int",
}


def load(major: int) -> tuple[dict[str, Any], dict[str, str]]:
    """The description of a major, and how each of its functions is answered."""
    description = yaml.safe_load((API / f"cudart{major}.yaml").read_text())
    manual = set(yaml.safe_load((API / "cudart_calls.yaml").read_text())["manual"])
    every = {
        name
        for other in MAJORS
        for name in yaml.safe_load((API / f"cudart{other}.yaml").read_text())["functions"]
    } | _PER_THREAD_BY_HAND
    if unknown := manual - every:
        sys.exit(f"cudart_calls.yaml: {sorted(unknown)} are functions of neither major")
    kinds = {
        name: "manual" if name in manual else "unsupported"
        for name in [*description["functions"], *description["per_thread"]]
    }
    for name in description["per_thread"]:
        if per_thread(name, description, kinds):
            kinds[name] = "manual"
    return description, kinds


def per_thread(name: str, description: dict[str, Any], kinds: dict[str, str]) -> str:
    """The definition of a function's variant for the per-thread default stream, or nothing.

    ``_ptsz``: the function itself, with that stream where the program gives none. ``_ptds``: the
    asynchronous function on that stream, and a wait.
    """
    base, suffix = name.rsplit("_", 1)
    functions = description["functions"]
    parameters = [list(parameter) for parameter in functions.get(base, [])]
    types = [kind for kind, _ in parameters]
    if kinds.get(base) != "manual" or name in _PER_THREAD_BY_HAND:
        return ""
    signature = ", ".join(f"{t} {n}".replace("* ", "*") for t, n in parameters)
    arguments = [n for _, n in parameters]
    if suffix == "ptsz":
        if "cudaStream_t" not in types:
            return ""
        arguments = [f"per_thread({n})" if t == "cudaStream_t" else n for t, n in parameters]
        body = f"return {base}({', '.join(arguments)});"
    else:
        if kinds.get(f"{base}Async") != "manual":
            return ""
        given = ", ".join([*arguments, "per_thread(nullptr)"])
        body = f"return complete_per_thread({base}Async({given}));"
    return f"cudaError_t {name}({signature}) {{ {body} }}"


def abi_header(types: dict[str, Any]) -> str:
    out = [HEADER, "#pragma once", '#include "cuda_abi.hpp"', ""]
    for handle in types["handles"]:
        ours = _DRIVER_HANDLES.get(handle)
        out.append(
            f"using {handle} = {ours};" if ours else f"typedef struct {handle}_st* {handle};"
        )
    out += ["", *abi.declarations({**types, "constants": {}}), ""]
    out.append(f"inline constexpr int kRuntimeVersion = {types['version']};")
    return "\n".join(out) + "\n"


def functions_header(description: dict[str, Any], kinds: dict[str, str]) -> str:
    out = [HEADER, "#pragma once", '#include "cudart_abi.hpp"', "", 'extern "C" {']
    out.append("#pragma GCC visibility push(default)")
    for name, parameters in description["functions"].items():
        if kinds[name] == "manual":
            signature = ", ".join(f"{t} {n}".replace("* ", "*") for t, n in parameters)
            out.append(f"{_RESULTS.get(name, 'cudaError_t')} {name}({signature});")
            if (variant := f"{name}_ptsz") in _PER_THREAD_BY_HAND:
                out.append(f"cudaError_t {variant}({signature});")
    out += ["#pragma GCC visibility pop", "}", ""]
    return "\n".join(out)


def stubs(kinds: dict[str, str]) -> str:
    """A stub looks at no argument, so that one signature serves all (the caller cleans up)."""
    out = [HEADER, 'extern "C" {', "#pragma GCC visibility push(default)"]
    out += [
        f'cudaError_t {name}() {{ return carrel::cudart::unsupported("{name}"); }}'
        for name, kind in kinds.items()
        if kind == "unsupported"
    ]
    out += ["#pragma GCC visibility pop", "}", ""]
    return "\n".join(out)


def per_thread_variants(description: dict[str, Any], kinds: dict[str, str]) -> str:
    found = (per_thread(name, description, kinds) for name in description["per_thread"])
    out = [HEADER, 'extern "C" {', "#pragma GCC visibility push(default)"]
    out += [definition for definition in found if definition]
    out += ["#pragma GCC visibility pop", "}", ""]
    return "\n".join(out)


def errors(types: dict[str, Any]) -> str:
    rows = types["enums"]["cudaError"].items()
    return HEADER + "".join(f'{{{value}, "{name}"}},\n' for name, value in rows)


def version_script(major: int, kinds: dict[str, str]) -> str:
    names = "".join(f"    {name};\n" for name in kinds)
    return f"libcudart.so.{major} {{\n  global:\n{names}  local:\n    *;\n}};\n"


def main() -> None:
    major, target = int(sys.argv[1]), Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)
    description, kinds = load(major)
    outputs = {
        "cudart_abi.hpp": abi_header(description["types"]),
        "cudart_functions.hpp": functions_header(description, kinds),
        "cudart_stubs.inc": stubs(kinds),
        "cudart_per_thread.inc": per_thread_variants(description, kinds),
        "cudart_errors.inc": errors(description["types"]),
        "cudart.map": version_script(major, kinds),
    }
    for name, text in outputs.items():
        path = target / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


if __name__ == "__main__":
    main()
