"""Generates what the software GPU needs besides its own code.

    python -m remote_gpu.codegen.softgpu OUTPUT_DIR

=======================  ========================================================================
softgpu_defaults.inc     a weak definition of every driver function that answers
                         ``CUDA_ERROR_NOT_SUPPORTED``, so that the library exports the whole API
                         and what is written by hand takes its place; and the per-thread variants
softgpu_errors.inc       rows ``{code, "NAME"}`` of ``CUresult``
=======================  ========================================================================
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import yaml

from .cuda import API, HEADER, Function, load


def defaults(functions: list[Function], per_thread: list[str]) -> str:
    out = [HEADER, 'extern "C" {', "#pragma GCC visibility push(default)"]
    for f in functions:
        unused = "".join(f"(void){p.name}; " for p in f.parameters)
        out.append(
            f"__attribute__((weak)) CUresult CUDAAPI {f.name}({f.signature}) "
            f'{{ {unused}return carrel::softgpu::unsupported("{f.name}"); }}'
        )
    by_name = {f.name: f for f in functions}
    for alias in per_thread:
        f = by_name[re.sub(r"_pt[sd][zs]$", "", alias)]
        arguments = ", ".join(
            f"carrel::softgpu::per_thread({p.name})" if p.type == "CUstream" else p.name
            for p in f.parameters
        )
        streams = any(p.type == "CUstream" for p in f.parameters)
        scope = "" if streams else "const carrel::softgpu::PerThreadDefault scope; "
        out.append(
            f"CUresult CUDAAPI {alias}({f.signature}) {{ {scope}return {f.name}({arguments}); }}"
        )
    out += ["#pragma GCC visibility pop", "}", ""]
    return "\n".join(out)


def errors() -> str:
    types = yaml.safe_load((API / "cuda_types.yaml").read_text())
    names = types["enums"]["CUresult"]
    return HEADER + "".join(f'{{{name}, "{name}"}},\n' for name in names)


def main() -> None:
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    functions, description = load()
    outputs = {
        "softgpu_defaults.inc": defaults(functions, description["per_thread"]),
        "softgpu_errors.inc": errors(),
    }
    for name, text in outputs.items():
        path = target / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


if __name__ == "__main__":
    main()
