"""Generates the forwarders of CUDA's libraries: tables for both sides, stubs, calls by shape.

    python -m remote_gpu.codegen.library_cpp OUTPUT_DIR

=====================  ==========================================================================
library_tables.hpp     the libraries' rows (``native/wire/library.hpp``), by number
library_LIBRARY.cpp    a library's rows and the expressions that measure its arguments
forward_LIBRARY.cpp    the functions that the client library exports
SONAME.map             its version script
library_invoke.cpp     calls of the worker, by the classes of their arguments
libraries.cmake        the lists that the build needs
=====================  ==========================================================================
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from .library import LIBRARIES, Function, Library, load

HEADER = "// Generated from api/libraries by remote_gpu/codegen/library_cpp.py. Do not edit.\n"

_CASTS = {"i1": "int8_t", "u1": "uint8_t", "i2": "int16_t", "u2": "uint16_t", "i4": "int32_t",
          "u4": "uint32_t", "i8": "int64_t", "u8": "int64_t"}  # fmt: skip
_HELPERS = {
    "size", "scale", "u32", "i32", "i64", "sum32", "note", "min", "max", "keep", "gaps",
    "scalar_of", "attribute_element",
}  # fmt: skip


def expression(text: str, function: Function) -> str:
    """C++ of an expression over ``a`` (the arguments) and ``notes``."""
    position = {p.name: i for i, p in enumerate(function.parameters)}

    def replace(match: re.Match[str]) -> str:
        word = match.group(0)
        if word in _HELPERS and word not in position:
            return word
        if word not in position:
            sys.exit(f"{function.name}: {word} in {text!r} is no parameter")
        index = position[word]
        code = function.parameters[index].code
        cast = _CASTS.get(code)
        return f"int64_t({cast}(a[{index}]))" if cast else f"a[{index}]"

    text = re.sub(r"\bnote\((\w+)\)", lambda m: f"int64_t(notes[{position[m.group(1)]}])", text)
    out = ""
    for part in re.split(r"(int64_t\(notes\[\d+\]\))", text):
        out += (
            part if part.startswith("int64_t(notes") else re.sub(r"\b[A-Za-z_]\w*\b", replace, part)
        )
    return out


class Measures:
    """The expressions of a library, each once; number 0 is zero, small constants are themselves."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def number(self, text: str, function: Function) -> int:
        if not text:
            return 0
        if re.fullmatch(r"\d+", text) and int(text) < 0x8000:
            return int(text)
        return 0x8000 + self.numbers.setdefault(expression(text, function), len(self.numbers))

    def source(self) -> str:
        out = ["int64_t measure(uint16_t which, [[maybe_unused]] const uint64_t* a,",
               "                [[maybe_unused]] const uint32_t* notes) {", "    switch (which) {"]  # fmt: skip
        out += [f"        case {n}: return {text};" for text, n in self.numbers.items()]
        out += ["        default: return 0;", "    }", "}"]
        return "\n".join(out)


def table(lib: Library, shapes: list[str]) -> str:
    """Rows of functions and parameters: what both sides interpret."""
    measures = Measures()
    memo = any(f.memo for f in lib.functions)
    parameters: list[str] = []
    functions: list[str] = []
    for f in lib.functions:
        forwarded = f.call in ("async", "sync")
        first = len(parameters)
        if forwarded:
            for p in f.parameters:
                width = int(p.code[1:]) if p.code[0] in "iufs" and p.code[1:].isdigit() else 8
                parameters.append(
                    f"{{Kind::{p.kind}, {p.handle}, {width}, "
                    f"{measures.number(p.size, f)}, {measures.number(p.handles, f)}}},"
                )
        shape = shapes.index(f.shape) if forwarded else 0
        flags = " | ".join(
            ["0"] + (["kForwarded"] if forwarded else []) + (["kBlocks"] if f.blocks else [])
            + (["kStatus"] if f.returns == lib.status_type else [])
            + (["kNotes"] if f.note else []) + (["kRequires"] if f.require else [])
            + (["kMemo"] if f.memo else []) + (["kTells"] if f.tells and memo else [])
            + (["kSetsStream"] if re.search(r"Set_?Stream", f.name) else [])
        )  # fmt: skip
        functions.append(
            f'{{"{f.name}", {first}, {len(f.parameters) if forwarded else 0}, {flags}, {shape}, '
            f"{measures.number(f.wait, f)}, {measures.number(f.note, f)}, "
            f"{measures.number(f.require, f)}}},"
        )
    rows = [
        f"{{{box}, {str(name in lib.integers).lower()}, {str(name in lib.kept).lower()}, "
        f"{lib.foreign.get(name, 0)}}}"
        for name, box in [*((name, 0) for name in lib.handles), *lib.boxes.items()]
    ]
    sonames = ", ".join(f'{{{major}, "{name}"}}' for major, name in sorted(lib.sonames.items()))
    return "\n".join([
        HEADER, '#include "wire/library.hpp"', "", "namespace carrel::library {", "namespace {", "",
        measures.source(), "", "constexpr ParameterRow kParameters[] = {", *parameters,
        "{Kind::value, 0, 0, 0, 0}};", "", "constexpr FunctionRow kFunctions[] = {", *functions,
        '{"", 0, 0, 0, 0, 0, 0, 0}};', "",
        f"constexpr HandleRow kHandles[] = {{{', '.join(['{0, false, false, 0}', *rows])}}};",
        f"constexpr Soname kSonames[] = {{{sonames}}};", "", "}  // namespace", "",
        f"extern const LibraryRow k_{lib.name};",
        f"const LibraryRow k_{lib.name} = {{{lib.number}, \"{lib.name}\", kFunctions, "
        f"{len(lib.functions)}, kParameters, kHandles, {len(rows) + 1}, kSonames, {len(lib.sonames)}, &measure, "
        f"{lib.statuses['not_supported']}, {lib.statuses['unavailable']}, {lib.statuses['failed']}, "
        f"{lib.statuses['invalid']}, {str(lib.pointer_mode).lower()}}};",
        "", "}  // namespace carrel::library", "",
    ])  # fmt: skip


def tables_header(libraries: list[Library]) -> str:
    out = [
        HEADER,
        "#pragma once",
        '#include "wire/library.hpp"',
        "",
        "namespace carrel::library {",
        "",
    ]
    out += [f"extern const LibraryRow k_{lib.name};" for lib in libraries]
    out += ["", f"inline constexpr size_t kLibraryCount = {len(libraries)};",
            "inline const LibraryRow* const kLibraries[kLibraryCount] = {"]  # fmt: skip
    out += [f"    &k_{lib.name}," for lib in libraries]
    return "\n".join([*out, "};", "", "}  // namespace carrel::library", ""])


_CPP = {"f4": "float", "f8": "double"}


def _unsupported_value(lib: Library, f: Function) -> str:
    if f.value is not None:
        return str(lib.results.get(f.value, f.value) if isinstance(f.value, str) else f.value)
    return str(lib.statuses["not_supported"]) if f.returns == lib.status_type else "0"


def stubs(lib: Library) -> str:
    """The exported functions: arguments as machine words, whatever their types."""
    out = [HEADER, '#include "forwarders/forward.hpp"', '#include "library_tables.hpp"', "",
           "using carrel::forwarders::forward;",
           "using carrel::forwarders::unsupported;", "",
           f"namespace {{ [[maybe_unused]] constexpr const auto& kLibrary = carrel::library::k_{lib.name}; }}",
           'extern "C" {', "#pragma GCC visibility push(default)"]  # fmt: skip
    names = [f'case {v}: return "{n}";' for n, v in _unique(lib.results).items()]
    for i, f in enumerate(lib.functions):
        if f.call == "manual":
            continue
        if f.text is not None:
            out.append(f'const char* {f.name}() {{ return "{f.text}"; }}')
            continue
        if f.call == "local" and f.value is None:
            out.append(f"const char* {f.name}(int status) {{ switch (status) {{ {' '.join(names)} "
                       'default: return "unknown status"; } }')  # fmt: skip
            continue
        if f.call == "local":
            out.append(f"uint64_t {f.name}() {{ return {_unsupported_value(lib, f)}; }}")
            continue
        if f.call == "unsupported":
            out.append(f"uint64_t {f.name}() {{ static std::atomic<bool> told; "
                       f'return unsupported("{f.name}", told, {_unsupported_value(lib, f)}); }}')  # fmt: skip
            continue
        declared, words = [], []
        for j, p in enumerate(f.parameters):
            if p.code[0] == "s":
                declared.append(f"carrel::library::Bytes<{p.code[1:]}> p{j}")
                words.append(f"reinterpret_cast<uint64_t>(&p{j})")
            elif p.code in _CPP:
                declared.append(f"{_CPP[p.code]} p{j}")
                words.append(f"carrel::library::word(p{j})")
            else:
                declared.append(f"uint64_t p{j}")
                words.append(f"p{j}")
        out.append(f"uint64_t {f.name}({', '.join(declared)}) {{ const uint64_t a[] = "
                   f"{{{', '.join([*words, '0'])}}}; return forward(kLibrary, {i}, a); }}")  # fmt: skip
    for name in lib.extra:
        value = lib.default.get(name, lib.statuses["not_supported"])
        out.append(f"uint64_t {name}() {{ static std::atomic<bool> told; "
                   f'return unsupported("{name}", told, {value}); }}')  # fmt: skip
    return "\n".join([*out, "#pragma GCC visibility pop", "}", ""])


def _unique(results: dict[str, int]) -> dict[str, int]:
    seen: dict[int, str] = {}
    for name, value in results.items():
        seen.setdefault(value, name)
    return {name: value for value, name in seen.items()}


def version_script(lib: Library, soname: str) -> str:
    names = "".join(f"    {n};\n" for n in sorted(lib.kinds()))
    node = {"soname": soname, "none": ""}.get(lib.version, lib.version)
    return f"{node} {{\n  global:\n{names}  local:\n    *;\n}};\n".lstrip()


def invoke(shapes: list[str]) -> str:
    """Calls a function of a loaded library with words, by its shape."""
    out = [HEADER, '#include "worker/libraries/invoke.hpp"', "", "namespace carrel::worker {", "",
           "uint64_t invoke_shape(uint16_t shape, void* f, const uint64_t* a) {",
           "    using carrel::library::Bytes;", "    using carrel::library::unword;",
           "    switch (shape) {"]  # fmt: skip
    for number, shape in enumerate(shapes):
        code, *classes = shape.split(".")
        result = (
            "void" if code == "v" else _CASTS.get(code, "uint64_t").replace("int64_t", "int64_t")
        )
        types, arguments = [], []
        for i, c in enumerate(classes):
            if c == "i":
                types.append("uint64_t")
                arguments.append(f"a[{i}]")
            elif c in "fd":
                types.append("float" if c == "f" else "double")
                arguments.append(f"unword<{types[-1]}>(a[{i}])")
            else:
                types.append(f"Bytes<{c[1:]}>")
                arguments.append(f"*reinterpret_cast<const Bytes<{c[1:]}>*>(a[{i}])")
        call = f"reinterpret_cast<{result} (*)({', '.join(types)})>(f)({', '.join(arguments)})"
        if result == "void":
            out.append(f"        case {number}: {call}; return 0;")
        else:
            out.append(f"        case {number}: return static_cast<uint64_t>({call});")
    out += [
        "        default: return ~uint64_t{0};",
        "    }",
        "}",
        "",
        "}  // namespace carrel::worker",
        "",
    ]
    return "\n".join(out)


def main() -> None:
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    libraries = [load(name) for name in LIBRARIES]
    shapes = sorted(
        {f.shape for lib in libraries for f in lib.functions if f.call in ("async", "sync")}
    )
    outputs = {"library_tables.hpp": tables_header(libraries), "library_invoke.cpp": invoke(shapes)}
    for lib in libraries:
        outputs[f"library_{lib.name}.cpp"] = table(lib, shapes)
        outputs[f"forward_{lib.name}.cpp"] = stubs(lib)
        for soname in lib.sonames.values():
            outputs[f"{soname}.map"] = version_script(lib, soname)
    names = "\n".join(f"list(APPEND CARREL_SONAMES {lib.name} {major} {soname})"
                      for lib in libraries for major, soname in sorted(lib.sonames.items()))  # fmt: skip
    outputs["libraries.cmake"] = (
        f"set(CARREL_LIBRARIES {' '.join(LIBRARIES)})\nset(CARREL_SONAMES)\n{names}\n"
    )
    outputs["names_cupti.inc"] = "".join(
        f'case {value}:\n    return "{name}";\n'
        for name, value in _unique(libraries[LIBRARIES.index("cupti")].results).items()
    )
    for name, text in outputs.items():
        path = target / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


if __name__ == "__main__":
    main()
