"""Generates NVML's prototypes, unsupported stubs and export list from the descriptions.

python -m remote_gpu.codegen.nvml OUTPUT_DIR
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

API = Path(__file__).resolve().parent.parent / "api"
HEADER = "// Generated from remote_gpu/api/nvml*.yaml by remote_gpu/codegen/nvml.py. Do not edit.\n"


def load() -> dict[str, str]:
    """How each function is answered, by name: ``local`` or ``unsupported``."""
    functions = yaml.safe_load((API / "nvml.yaml").read_text())["functions"]
    local = yaml.safe_load((API / "nvml_calls.yaml").read_text())["local"]
    if unknown := set(local) - set(functions):
        sys.exit(f"nvml_calls.yaml: not in nvml.yaml: {sorted(unknown)}")
    return {name: "local" if name in local else "unsupported" for name in functions}


def stubs(kinds: dict[str, str]) -> str:
    """Stubs take no parameters: the C calling convention lets a callee ignore them."""
    lines = [HEADER]
    for name, kind in kinds.items():
        if kind == "unsupported":
            lines.append(
                f"NVML_EXPORT int {name}() {{ static std::atomic<bool> told; "
                f'return carrel::nvml::unsupported("{name}", told); }}'
            )
    return "\n".join(lines) + "\n"


def version_script(kinds: dict[str, str]) -> str:
    names = "".join(f"    {name};\n" for name in kinds)
    return f"{{\n  global:\n{names}  local:\n    *;\n}};\n"


def main() -> None:
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    kinds = load()
    for name, text in {"nvml_stubs.inc": stubs(kinds), "nvml.map": version_script(kinds)}.items():
        path = target / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


if __name__ == "__main__":
    main()
