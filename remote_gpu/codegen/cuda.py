"""Generates the driver API's calls, client stubs, worker dispatch and tables from the descriptions.

    python -m remote_gpu.codegen.cuda OUTPUT_DIR

Input: ``api/cuda.yaml`` (what exists), ``api/cuda_calls.yaml`` (how it is answered). Written only
where the content changed, so that a rebuild stays small. Output, all in ``OUTPUT_DIR``:

=====================  ==========================================================================
cuda_functions.hpp     prototypes of every function
cuda_calls.hpp         ``enum class Call`` and the calls' names
carrel_protocol.hpp    the protocol hash
client_stubs.inc       definitions of the async, sync and unsupported functions
client_exports.inc     rows for ``cuGetProcAddress``
libcuda.map            linker version script of the client library
driver_table.hpp       function pointers of a loaded driver
worker_dispatch.inc    the worker's ``case`` of each async and sync function
=====================  ==========================================================================
"""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
API = ROOT / "api"
#: Exports of our own: for our other client libraries (native/wire/bridge.h), and for benchmarks.
OURS = ("carrel_bridge_get", "carrel_trace_write")
HEADER = "// Generated from remote_gpu/api/cuda*.yaml by remote_gpu/codegen/cuda.py. Do not edit.\n"


@dataclass(frozen=True)
class Parameter:
    """One parameter and how it travels.

    ``how``: value, handle, string, struct (one, by value), device, out, mint (an output handle
    named by the client).
    """

    type: str
    name: str
    how: str
    base: str  # the pointee, for struct, out and mint


@dataclass(frozen=True)
class Function:
    name: str
    call: str
    parameters: tuple[Parameter, ...]

    @property
    def signature(self) -> str:
        return ", ".join(f"{p.type} {p.name}".replace("* ", "*") for p in self.parameters)

    @property
    def destroys(self) -> bool:
        """Whether the first parameter is a handle that is gone after the call."""
        return "Destroy" in self.name and self.parameters[0].how == "handle"


def _how(type_: str, handles: set[str]) -> tuple[str, str]:
    if type_ in ("CUdevice", "CUdevice_v1"):
        return "device", ""
    if type_ in handles:
        return "handle", ""
    if type_ == "const char *":
        return "string", ""
    if type_.startswith("const ") and type_.endswith(" *") and type_.count("*") == 1:
        return "struct", type_[6:-2]
    if type_.endswith(" *") and type_.count("*") == 1:
        base = type_[:-2]
        return ("mint" if base in handles else "out"), base
    return "value", ""


def load() -> tuple[list[Function], dict[str, Any]]:
    """All functions with how each is answered, and the raw description."""
    description = yaml.safe_load((API / "cuda.yaml").read_text())
    types = yaml.safe_load((API / "cuda_types.yaml").read_text())
    kinds = yaml.safe_load((API / "cuda_calls.yaml").read_text())
    handles = set(types["handles"])
    call_of: dict[str, str] = {}
    for kind, names in kinds.items():
        for name in names:
            if name not in description["functions"]:
                sys.exit(f"cuda_calls.yaml: {name} is not a function of cuda.yaml")
            if name in call_of:
                sys.exit(f"cuda_calls.yaml: {name} is listed twice")
            call_of[name] = kind
    functions = []
    for name, parameters in description["functions"].items():
        call = call_of.get(name, "unsupported")
        described = tuple(Parameter(t, n, *_how(t, handles)) for t, n in parameters)
        function = Function(name, call, described)
        _check(function)
        functions.append(function)
    return functions, description


def _check(function: Function) -> None:
    """Refuses what the generator cannot express: such a function must be written by hand."""
    if function.call not in ("async", "sync"):
        return
    for p in function.parameters:
        if p.how == "value" and "*" in p.type:
            sys.exit(f"{function.name}: parameter {p.name} ({p.type}) needs a hand-written call")
        if p.how == "out" and (function.call == "async" or p.base in ("void", "char")):
            sys.exit(f"{function.name}: output {p.name} needs a sync or hand-written call")
        if p.how == "mint" and function.call == "sync":
            sys.exit(f"{function.name}: handle {p.name} is minted; make the call async")


def functions_header(functions: list[Function]) -> str:
    out = [HEADER, "#pragma once", '#include "cuda_abi.hpp"', "", 'extern "C" {']
    out.append("#pragma GCC visibility push(default)")
    out += [f"CUresult CUDAAPI {f.name}({f.signature});" for f in functions]
    out += ["#pragma GCC visibility pop", "}", ""]
    return "\n".join(out)


def calls_header(functions: list[Function]) -> str:
    out = [HEADER, "#pragma once", "#include <cstddef>", "#include <cstdint>", ""]
    out += ["namespace carrel {", "", "enum class Call : uint16_t {"]
    out += [f"    {f.name} = {i}," for i, f in enumerate(functions)]
    out += ["};", "", f"inline constexpr size_t kCallCount = {len(functions)};", ""]
    out.append("inline constexpr const char* kCallNames[kCallCount] = {")
    out += [f'    "{f.name}",' for f in functions]
    out += ["};", "", "inline const char* call_name(Call call) {"]
    out.append("    const auto index = static_cast<size_t>(call);")
    out.append('    return index < kCallCount ? kCallNames[index] : "unknown call";')
    out += ["}", "", "}  // namespace carrel", ""]
    return "\n".join(out)


_LAYOUTS = ("protocol", "library", "resumable", "ring")


def protocol_header() -> str:
    digest = hashlib.sha256()
    for path in (
        API / "cuda.yaml",
        API / "cuda_types.yaml",
        API / "cuda_calls.yaml",
        Path(__file__),
        *(ROOT / "native" / "wire" / f"{part}.hpp" for part in _LAYOUTS),
        Path(__file__).with_name("library.py"),
        Path(__file__).with_name("library_cpp.py"),
        *sorted((API / "libraries").glob("*.yaml")),
    ):
        digest.update(path.read_bytes() if path.exists() else b"")
    data = ", ".join(f"0x{b:02x}" for b in digest.digest())
    return (
        f"{HEADER}\n#pragma once\n#include <cstdint>\n\nnamespace carrel {{\n\n"
        "// Client and worker must have been built from the same descriptions.\n"
        f"inline constexpr uint8_t kProtocolHash[32] = {{{data}}};\n\n}}  // namespace carrel\n"
    )


def _stub(f: Function) -> list[str]:
    head = f"CUresult CUDAAPI {f.name}({f.signature}) {{"
    if f.call == "unsupported":
        void = "".join(f"    (void){p.name};\n" for p in f.parameters)
        return [
            f"{head}\n{void}    return carrel::client::unsupported(carrel::Call::{f.name});\n}}"
        ]
    lines = [head]
    puts = []
    for p in f.parameters:
        if p.how in ("string", "struct", "mint"):
            lines.append(f"    if (!{p.name}) return CUDA_ERROR_INVALID_VALUE;")
        if p.how == "device":
            lines.append(f"    if ({p.name} != 0) return CUDA_ERROR_INVALID_DEVICE;")
        if p.how == "mint":
            lines.append(f"    const {p.base} {p.name}_new = carrel::client::mint<{p.base}>();")
            puts.append(f"w.put(carrel::client::name_of({p.name}_new));")
        elif p.how == "handle":
            puts.append(f"w.put(carrel::client::name_of({p.name}));")
        elif p.how == "value":
            puts.append(f"w.put({p.name});")
        elif p.how == "struct":
            puts.append(f"w.put(*{p.name});")
        elif p.how == "string":
            puts.append(f"w.bytes({p.name}, std::strlen({p.name}));")
    encode = "[&]([[maybe_unused]] carrel::wire::Writer& w) { " + " ".join(puts) + " }"
    if f.call == "sync":
        outs = [p for p in f.parameters if p.how == "out"]
        gets = " ".join(
            f"{{ const auto value = r.get<{p.base}>(); if ({p.name}) *{p.name} = value; }}"
            for p in outs
        )
        decode = "[&]([[maybe_unused]] carrel::wire::Reader& r) { " + gets + " }"
        lines.append(
            f"    const CUresult result = carrel::client::call(carrel::Call::{f.name}, {encode}, {decode});"
        )
    else:
        lines.append(
            f"    const CUresult result = carrel::client::post(carrel::Call::{f.name}, {encode});"
        )
    for p in f.parameters:
        if p.how == "mint":
            lines.append(f"    if (result == CUDA_SUCCESS) *{p.name} = {p.name}_new;")
            lines.append(f"    else carrel::client::retire({p.name}_new);")
    if f.destroys:
        lines.append(f"    carrel::client::retire({f.parameters[0].name});")
    lines += ["    return result;", "}"]
    return lines


def client_stubs(functions: list[Function], per_thread: list[str]) -> str:
    out = [HEADER]
    for f in functions:
        if f.call in ("async", "sync", "unsupported"):
            out += [*_stub(f), ""]
    by_name = {f.name: f for f in functions}
    out.append("// The same on the per-thread default stream.")
    out.append('extern "C" {\n#pragma GCC visibility push(default)')
    for alias in per_thread:
        f = by_name[re.sub(r"_pt[sd][zs]$", "", alias)]
        arguments = ", ".join(
            f"carrel::client::per_thread({p.name})" if p.type == "CUstream" else p.name
            for p in f.parameters
        )
        out.append(f"CUresult CUDAAPI {alias}({f.signature}) {{ return {f.name}({arguments}); }}")
    out.append("#pragma GCC visibility pop\n}\n")
    return "\n".join(out)


def client_exports(description: dict[str, Any]) -> str:
    out = [
        HEADER,
        "// {base name, CUDA version since which this variant serves, address, per thread}",
    ]
    per_thread = {re.sub(r"_pt[sd][zs]$", "", n): n for n in description["per_thread"]}
    for base, variants in description["variants"].items():
        for since, name in sorted(variants.items()):
            alias = per_thread.get(name, name)
            out.append(
                f'{{"{base}", {since}, reinterpret_cast<void*>(&{name}), '
                f"reinterpret_cast<void*>(&{alias})}},"
            )
    return "\n".join(out) + "\n"


def version_script(functions: list[Function], per_thread: list[str]) -> str:
    names = "".join(f"    {n};\n" for n in [*(f.name for f in functions), *per_thread, *OURS])
    return f"/* Generated by remote_gpu/codegen/cuda.py. */\n{{\n  global:\n{names}  local:\n    *;\n}};\n"


def driver_table(functions: list[Function]) -> str:
    out = [HEADER, "#pragma once", "#include <dlfcn.h>", "", '#include "cuda_abi.hpp"', ""]
    out += ["namespace carrel::worker {", ""]
    out.append("// The functions of a loaded driver; those that it lacks are null.")
    out.append("struct DriverTable {")
    for f in functions:
        out.append(f"    CUresult(CUDAAPI* {f.name})({f.signature}) = nullptr;")
    out.append("")
    out.append("    // Fills the table from a dlopen'ed driver; false when it is no CUDA driver.")
    out.append("    bool load(void* library) {")
    for f in functions:
        out.append(f'        find(library, "{f.name}", {f.name});')
    out.append("        return cuInit != nullptr;")
    out += ["    }", "", "  private:", "    template <class F>"]
    out.append("    static void find(void* library, const char* name, F& function) {")
    out.append("        function = reinterpret_cast<F>(dlsym(library, name));")
    out += ["    }", "};", ""]
    out.append("template <class F, class... A>")
    out.append("CUresult invoke(F function, A... arguments) {")
    out.append("    return function ? function(arguments...) : CUDA_ERROR_NOT_SUPPORTED;")
    out += ["}", "", "}  // namespace carrel::worker", ""]
    return "\n".join(out)


def _case(f: Function) -> list[str]:
    lines = [f"case Call::{f.name}: {{"]
    arguments = []
    for p in f.parameters:
        if p.how == "handle":
            if f.destroys and p is f.parameters[0]:
                lines.append("    const auto gone = in.get<uint64_t>();")
                lines.append(f"    const auto {p.name} = objects.get<{p.type}>(gone);")
            else:
                lines.append(
                    f"    const auto {p.name} = objects.get<{p.type}>(in.get<uint64_t>());"
                )
            arguments.append(p.name)
        elif p.how == "value":
            lines.append(f"    const auto {p.name} = in.get<{p.type}>();")
            arguments.append(p.name)
        elif p.how == "struct":
            lines.append(f"    const auto {p.name} = in.get<{p.base}>();")
            arguments.append(f"&{p.name}")
        elif p.how == "string":
            lines.append(f"    const std::string {p.name} = text(in.bytes());")
            arguments.append(f"{p.name}.c_str()")
        elif p.how == "device":
            arguments.append("device")
        elif p.how == "mint":
            lines.append(f"    const auto {p.name}_name = in.get<uint64_t>();")
            lines.append(f"    {p.base} {p.name}{{}};")
            arguments.append(f"&{p.name}")
        else:
            lines.append(f"    {p.base} {p.name}{{}};")
            arguments.append(f"&{p.name}")
    call = ", ".join([f"driver.{f.name}", *arguments])
    lines.append(f"    const CUresult result = invoke({call});")
    for p in f.parameters:
        if p.how == "mint":
            lines.append(
                f"    if (result == CUDA_SUCCESS) objects.bind<{p.base}>({p.name}_name, {p.name});"
            )
    if f.destroys:
        lines.append(f"    objects.erase<{f.parameters[0].type}>(gone);")
    if f.call == "sync":
        lines.append("    out.result(result);")
        outs = [p for p in f.parameters if p.how == "out"]
        if outs:
            puts = " ".join(f"out.writer().put({p.name});" for p in outs)
            lines.append(f"    if (result == CUDA_SUCCESS) {{ {puts} }}")
    else:
        lines.append(f"    if (result != CUDA_SUCCESS) out.failed(Call::{f.name}, result);")
    lines += ["    break;", "}"]
    return lines


def worker_dispatch(functions: list[Function]) -> str:
    out = [HEADER]
    for f in functions:
        if f.call in ("async", "sync"):
            out += _case(f)
    return "\n".join(out) + "\n"


def main() -> None:
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    functions, description = load()
    outputs = {
        "cuda_functions.hpp": functions_header(functions),
        "cuda_calls.hpp": calls_header(functions),
        "carrel_protocol.hpp": protocol_header(),
        "client_stubs.inc": client_stubs(functions, description["per_thread"]),
        "client_exports.inc": client_exports(description),
        "libcuda.map": version_script(functions, description["per_thread"]),
        "driver_table.hpp": driver_table(functions),
        "worker_dispatch.inc": worker_dispatch(functions),
    }
    for name, text in outputs.items():
        path = target / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


if __name__ == "__main__":
    main()
