"""Generates the forwarders of CUDA's libraries from ``api/libraries``.

    python -m remote_gpu.codegen.library OUTPUT_DIR

``LIBRARY.yaml`` has the facts (see ``describe_library``); ``LIBRARY_calls.yaml`` says how calls
travel:

=================  ==============================================================================
sonames            {CUDA major: file name}: a client library for each, and what the worker loads
symbol_version     ``soname`` (NVIDIA's habit), ``none``, or the name of the version node
statuses           not_supported, unavailable (no GPU, or the host lacks the library), failed,
                   invalid (a handle that does not exist): names or numbers
handles            types that are handles: named by the client, real only in the worker
boxes              {struct: bytes}: the program's memory holds the handle, the struct is the worker's
pointer_mode       true: scalars are on the host or the device by the first handle's note
parameters         {parameter's name: how}, for all functions
calls              rules; the first whose ``functions`` (a regular expression) matches serves:
                   ``parameters``, ``wait`` (true or a condition), ``blocks`` (waits for the GPU),
                   ``note`` (what is remembered with the handle), ``require`` (else not supported),
                   ``memo`` (the answer depends on the arguments and on what was set in them)
aliases            {type: the handle type that it is, too}
names              functions that return the name of a status
texts              {function: a constant text}
values             {function: constant} for what is answered without asking
outputs            {function: status}: what an unsupported function returns
extra              functions of other versions, not described: exported, not supported
=================  ==============================================================================

How a parameter travels: ``value``, ``handle``, ``mint`` (a new handle), ``box`` (a new box),
``gone`` (a handle that ends), ``stream``, ``stream out``, ``device``, ``string``, ``null`` (must
be), ``ignored`` (the library gets null), ``in N``, ``out N``, ``inout N`` (N bytes of host memory), ``scalar N``, ``result N``,
``inresult N`` (the same, or in device memory), ``scratch N`` (host memory that only the library uses), ``handles N``
(N handles). N is an expression of the parameters; left out, it is the size of what is pointed to. ``in
N handles C``: what it holds depends on C: 0 data, 1 handles, 2 pointers to device memory or to a
single value on the host, 3 streams.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

API = Path(__file__).resolve().parent.parent / "api" / "libraries"
HEADER = (
    "// Generated from remote_gpu/api/libraries by remote_gpu/codegen/library.py. Do not edit.\n"
)

#: In the order of their numbers on the wire.
LIBRARIES = (
    "cublas", "cublasLt", "cudnn", "cufft", "curand", "cusparse", "cusolver", "nccl", "cusparseLt",
    "cupti", "nvshmem", "cufile",
)  # fmt: skip

MAX_ARGUMENTS = 48  # as in wire/library.hpp
STREAMS = ("cudaStream_t", "CUstream")
KINDS = (
    "value", "handle", "mint", "box", "gone", "stream", "stream_out", "device", "string", "null",
    "in", "out", "inout", "scalar", "result", "inresult", "scratch", "ignored",
)  # fmt: skip
_SIZED = ("in", "out", "inout", "scalar", "result", "inresult", "scratch")


def _yaml(text: str) -> Any:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast where it is built
    return yaml.load(text, Loader=loader)  # noqa: S506 - both loaders are safe


class Inexpressible(Exception):
    """A parameter needs a rule, or a hand-written call."""


@dataclass
class Parameter:
    type: str
    name: str
    code: str
    kind: str = ""
    size: str = ""  # expression: bytes
    handles: str = ""  # condition
    handle: int = 0  # number of its handle type, from 1


@dataclass
class Function:
    """``call`` is one of the kinds of the coverage page."""

    name: str
    returns: str
    code: str
    parameters: list[Parameter]
    call: str = "unsupported"
    wait: str = ""
    blocks: bool = False
    note: str = ""
    require: str = ""
    memo: bool = False
    value: Any = None
    text: str | None = None

    @property
    def tells(self) -> bool:
        """Whether the call may change what is answered of its object later."""
        if any(p.kind in ("mint", "box") for p in self.parameters):
            return True
        return bool(re.search(r"Set(?!_?Stream|Workspace|Vector|Matrix)|Derive", self.name))

    @property
    def shape(self) -> str:
        """The call's classes for the machine: result, then parameters."""
        classes = [{"f4": "f", "f8": "d"}.get(p.code, p.code if p.code[0] == "s" else "i")
                   for p in self.parameters]  # fmt: skip
        return ".".join([self.code, *classes])


@dataclass
class Library:
    name: str
    number: int
    sonames: dict[int, str]
    version: str
    statuses: dict[str, int]
    results: dict[str, int]  # all statuses
    types: dict[str, str]
    handles: list[str]
    boxes: dict[str, int]
    functions: list[Function]
    pointer_mode: bool
    integers: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)
    status_type: str = ""
    default: Any = None

    def base(self, p: Parameter) -> str:
        """The type of a handle without what leads to it."""
        bare = _bare(p.type)
        return self.aliases.get(bare, bare)

    def kinds(self) -> dict[str, str]:
        """How each function is answered, for the coverage page."""
        answered = {f.name: f.call for f in self.functions}
        return {**answered, **{name: "unsupported" for name in self.extra}}


def _bare(type_: str) -> str:
    return re.sub(r"\bconst\b|\*|\[\]", "", type_).strip()


def _default(p: Parameter, function: str, lib: Library) -> str:
    bare, code = lib.base(p), p.code
    if p.type in STREAMS:
        return "stream"
    if bare in STREAMS:
        return "stream out"
    if bare in lib.boxes and "*" in p.type:
        return "gone" if re.search(r"[dD]estroy", function) else "handle"
    if bare in lib.handles:
        stars = p.type.count("*") + p.type.count("[]")
        if stars == 0:
            return "gone" if re.search(r"[dD]estroy|Abort", function) else "handle"
        if stars == 1 and re.search(r"Create|Init|create|Plan", function):
            return "mint"
        raise Inexpressible(f"{function}: {p.name} ({p.type}) needs a rule")
    if code[0] in "iufs" and code != "fn":
        return "value"
    if p.type == "const char *":
        return "string"
    raise Inexpressible(f"{function}: {p.name} ({p.type}, {code}) needs a rule")


def _named(p: Parameter, lib: Library) -> bool:
    """Whether it is, or points to, something that the client names."""
    return p.type in STREAMS or lib.base(p) in (*lib.handles, *lib.boxes, *STREAMS)


def _travel(p: Parameter, how: str, function: str, lib: Library) -> None:
    how, _, condition = (
        how.partition(" handles ") if not how.startswith("handles") else (how, "", "")
    )
    kind, _, size = how.partition(" ")
    if how == "stream out":
        kind, size = "stream_out", ""
    if kind == "handles":
        kind, size, condition = "in", f"8 * ({size})", "1"
    if kind not in KINDS:
        raise Inexpressible(f"{function}: {p.name}: {how!r} is no way to travel")
    if kind in _SIZED and not size:
        width = p.code[1:]
        if not width.isdigit() or int(width) == 0:
            raise Inexpressible(f"{function}: {p.name}: how many bytes does {p.type} point to?")
        size = width
    if kind in ("handle", "mint", "box", "gone"):
        p.handle = (lib.handles + list(lib.boxes)).index(lib.base(p)) + 1
    p.kind, p.size, p.handles = kind, size, condition


def _apply(function: Function, rule: dict[str, Any], shared: dict[str, str], lib: Library) -> None:
    own = rule.get("parameters", {})
    for p in function.parameters:
        plain = p.code[0] in "pc" and p.code not in ("ph", "ch") and not _named(p, lib)
        how = own.get(p.name) or (shared.get(p.name) if plain else None)
        if not how:
            how = (
                "device" if plain and p.type != "const char *" else _default(p, function.name, lib)
            )
        _travel(p, how, function.name, lib)
    wait = rule.get("wait", False)
    if function.returns != lib.status_type:
        wait = True
    function.wait = "1" if wait is True else str(wait or "")
    function.blocks = bool(rule.get("blocks")) or any(
        p.kind in ("result", "inresult") for p in function.parameters
    )
    function.note = str(rule.get("note", ""))
    function.require = str(rule.get("require", ""))
    function.memo = bool(rule.get("memo"))
    waits = wait is True or any(
        p.kind in ("out", "inout", "result", "inresult") for p in function.parameters
    )
    function.call = "sync" if waits else "async"


def load(name: str) -> Library:
    """A library's description with how each function is answered."""
    facts = _yaml((API / f"{name}.yaml").read_text()) if (API / f"{name}.yaml").exists() else {
        "status": {}, "types": {}, "functions": {}}  # fmt: skip
    calls = _yaml((API / f"{name}_calls.yaml").read_text())
    results = facts["status"]
    statuses = {
        role: results.get(value, value) if isinstance(value, str) else value
        for role, value in calls["statuses"].items()
    }
    for role, value in statuses.items():
        if not isinstance(value, int):
            sys.exit(f"{name}_calls.yaml: no status {value} ({role})")
    status_type = calls.get("status_type", "")
    lib = Library(
        name=name, number=LIBRARIES.index(name), sonames=calls["sonames"],
        version=calls.get("symbol_version", "soname"), statuses=statuses, results=results,
        types=facts["types"], handles=calls.get("handles", []), boxes=calls.get("boxes", {}),
        functions=[], pointer_mode=calls.get("pointer_mode", False),
        integers=calls.get("integers", []), aliases=calls.get("aliases", {}), status_type=status_type,
        default=calls.get("values", {}),
    )  # fmt: skip
    rules = [(re.compile(rule["functions"]), rule) for rule in calls.get("calls", [])]
    used: set[int] = set()
    for function, row in facts["functions"].items():
        parameters = [
            Parameter(t, n, facts["types"][t]) for t, n in zip(row[1::2], row[2::2], strict=True)
        ]
        f = Function(function, row[0], facts["types"][row[0]], parameters)
        if function in calls.get("names", []):
            f.call = "local"
        elif function in calls.get("texts", {}):
            f.call, f.text = "local", calls["texts"][function]
        elif function in calls.get("local", []):
            f.call = "manual"
        elif function in calls.get("values", {}):
            f.call, f.value = "local", calls["values"][function]
        else:
            for number, (pattern, rule) in enumerate(rules):
                if pattern.fullmatch(function):
                    used.add(number)
                    if rule.get("unsupported"):
                        break
                    try:
                        _apply(f, rule, calls.get("parameters", {}), lib)
                    except (Inexpressible, ValueError) as problem:
                        sys.exit(f"{name}_calls.yaml: {problem}")
                    break
        if f.call == "unsupported":
            f.value = calls.get("outputs", {}).get(function)
        if len(parameters) > MAX_ARGUMENTS:
            sys.exit(f"{name}: {function} has more than {MAX_ARGUMENTS} parameters (library.hpp)")
        lib.functions.append(f)
    for number, (_, rule) in enumerate(rules):
        if number not in used:
            sys.exit(f"{name}_calls.yaml: {rule['functions']} matches no function")
    described = set(facts["functions"])
    imported = imports(name)
    lib.extra = sorted({n for names in imported.values() for n in names} - described
                       | set(calls.get("extra", [])) - described)  # fmt: skip
    return lib


def imports(name: str) -> dict[str, list[str]]:
    """The names that known clients import, by client; empty when none is recorded."""
    path = API.parent / "imports" / f"{name}.yaml"
    found: dict[str, list[str]] = _yaml(path.read_text()) if path.exists() else {}
    return found


# --- C++ -----------------------------------------------------------------------------------------

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
    boxes = [0] * len(lib.handles) + list(lib.boxes.values())
    integers = [int(h in lib.integers) for h in lib.handles] + [0] * len(lib.boxes)
    sonames = ", ".join(f'{{{major}, "{name}"}}' for major, name in sorted(lib.sonames.items()))
    return "\n".join([
        HEADER, '#include "wire/library.hpp"', "", "namespace carrel::library {", "namespace {", "",
        measures.source(), "", "constexpr ParameterRow kParameters[] = {", *parameters,
        "{Kind::value, 0, 0, 0, 0}};", "", "constexpr FunctionRow kFunctions[] = {", *functions,
        '{"", 0, 0, 0, 0, 0, 0, 0}};', "",
        f"constexpr HandleRow kHandles[] = {{{{0, false}}, {', '.join(f'{{{b}, {str(bool(i)).lower()}}}' for b, i in zip(boxes, integers, strict=True)) or '{0, false}'}}};",
        f"constexpr Soname kSonames[] = {{{sonames}}};", "", "}  // namespace", "",
        f"extern const LibraryRow k_{lib.name};",
        f"const LibraryRow k_{lib.name} = {{{lib.number}, \"{lib.name}\", kFunctions, "
        f"{len(lib.functions)}, kParameters, kHandles, {len(boxes) + 1}, kSonames, {len(lib.sonames)}, &measure, "
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
