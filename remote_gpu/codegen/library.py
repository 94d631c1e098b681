"""How the calls of CUDA's libraries travel, read from ``api/libraries``.

``LIBRARY.yaml`` has the facts (see ``describe_library``); ``LIBRARY_calls.yaml`` says how calls
travel:

=================  ==============================================================================
sonames            {CUDA major: file name}: a client library for each, and what the worker loads
symbol_version     ``soname`` (NVIDIA's habit), ``none``, or the name of the version node
statuses           not_supported, unavailable (no GPU, or the host lacks the library), failed,
                   invalid (a handle that does not exist): names or numbers
handles            types that are handles: named by the client, real only in the worker
kept               handles of descriptors that are sent when they are used, and serve again: what
                   makes and sets one has no output and no other handle
boxes              {struct: bytes}: the program's memory holds the handle, the struct is the worker's
pointer_mode       true: scalars are on the host or the device by the first handle's note
parameters         {parameter's name: how}, for all functions
calls              rules; the first whose ``functions`` (a regular expression) matches serves:
                   ``parameters``, ``wait`` (true or a condition), ``blocks`` (waits for the GPU),
                   ``note`` (what is remembered with the handle), ``require`` (else not supported),
                   ``memo`` (the answer depends on the arguments and on what was set in them)
foreign            {handle type: the library that it is a handle of}
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
    kept: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)
    foreign: dict[str, int] = field(default_factory=dict)  # the kind of a handle of another library
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


def _kind(library: str, handle: str) -> int:
    """What ``LibraryRow::kind`` is of ``library``'s handles of that type."""
    handles = _yaml((API / f"{library}_calls.yaml").read_text())["handles"]
    number: int = LIBRARIES.index(library) + 1 << 8 | handles.index(handle) + 1
    return number


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
        integers=calls.get("integers", []), kept=calls.get("kept", []), aliases=calls.get("aliases", {}),
        foreign={h: _kind(owner, h) for h, owner in calls.get("foreign", {}).items()}, status_type=status_type,
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
