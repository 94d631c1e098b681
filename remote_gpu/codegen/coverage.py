"""Writes ``docs/coverage.md``: every function of the described libraries and how it is answered.

python -m remote_gpu.codegen.coverage [--check]
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from . import cuda, cudart, library, nvml

PAGE = Path(__file__).resolve().parents[2] / "docs" / "coverage.md"

_MEANING = {
    "async": "forwarded, pipelined: generated on both sides, returns at once",
    "sync": "forwarded, waits for its outputs: generated on both sides",
    "manual": "hand-written; crosses the wire where it must",
    "local": "answered in the client from what it knows",
    "refused": 'NVML: would change a GPU that others use; returns its "no permission"',
    "unsupported": 'returns the library\'s "not supported"; named once in the log (NVML: with CARREL_LOG=info)',
}


def page() -> str:
    """The page's text."""
    functions, _ = cuda.load()
    forwarded = [library.load(name) for name in library.LIBRARIES]
    libraries = {
        "libcuda.so.1 (driver API)": {f.name: f.call for f in functions},
        "libnvidia-ml.so.1 (NVML)": nvml.load(),
        **{f"libcudart.so.{major}": cudart.load(major)[1] for major in cudart.MAJORS},
        **{" and ".join(lib.sonames.values()): lib.kinds() for lib in forwarded},
    }
    lines = [
        "# Coverage",
        "",
        "Made from `remote_gpu/api` by `python -m remote_gpu.codegen.coverage`; do not edit.",
        "",
        "| kind | meaning |",
        "|---|---|",
        *(f"| {kind} | {meaning} |" for kind, meaning in _MEANING.items()),
        "",
        "| library | functions | " + " | ".join(_MEANING) + " | answered |",
        "|---|---|" + "---|" * (len(_MEANING) + 1),
    ]
    for name, kinds in libraries.items():
        count = Counter(kinds.values())
        answered = len(kinds) - count["unsupported"]
        cells = [name, str(len(kinds)), *(str(count[kind]) for kind in _MEANING)]
        lines.append(f"| {' | '.join(cells)} | {100 * answered / len(kinds):.0f} % |")
    runtime = {
        name: kind for major in cudart.MAJORS for name, kind in cudart.load(major)[1].items()
    }
    lines += _imported({"cudart": runtime, **{lib.name: lib.kinds() for lib in forwarded}})
    for name, kinds in libraries.items():
        lines += ["", f"## {name}", "", "| function | answered |", "|---|---|"]
        lines += [f"| `{function}` | {kind} |" for function, kind in sorted(kinds.items())]
    return "\n".join(lines) + "\n"


def _imported(libraries: dict[str, dict[str, str]]) -> list[str]:
    """The table of what clients import, and what of it is answered."""
    lines = [
        "",
        "## What clients import",
        "",
        "Names that their shared objects import or, for JAX, may look up; `remote_gpu/api/imports`",
        'has them. None is unresolved: what is not answered returns its library\'s "not supported".',
        "CUPTI, NVSHMEM and cuFile are not available on a slice.",
        "",
        "| library | client | imported | answered | |",
        "|---|---|---|---|---|",
    ]
    for lib, kinds in libraries.items():
        for client, names in sorted(library.imports(lib).items()):
            # What JAX may look up includes names that CUDA has only with OpenGL, EGL and VDPAU.
            answered = sum(kinds.get(name, "unsupported") != "unsupported" for name in names)
            percent = f"{100 * answered / len(names):.0f} %"
            lines.append(f"| {lib} | {client} | {len(names)} | {answered} | {percent} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail when the page is not current")
    text = page()
    if parser.parse_args().check:
        if not PAGE.exists() or PAGE.read_text() != text:
            sys.exit("docs/coverage.md is not current: run python -m remote_gpu.codegen.coverage")
    else:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(text)


if __name__ == "__main__":
    main()
