"""Records which functions of CUDA's libraries a client's shared objects import.

    python -m remote_gpu.codegen.imports CLIENT FILE...

``CLIENT`` is a label such as "PyTorch 2.15"; each ``FILE`` is a wheel or a shared object. Rewrites
that client's entry in ``remote_gpu/api/imports/LIBRARY.yaml``. Libraries that a client opens by
itself (``dlopen``) are named in its strings only: ``--strings`` takes those in, too.

Needs ``nm`` (binutils). Run by hand when a client's new version is taken in.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import yaml

IMPORTS = Path(__file__).resolve().parent.parent / "api" / "imports"

NAMES = {
    "cudart": r"(__)?cuda[A-Z]\w*",
    "cublas": r"cublas(?!Lt)[A-Z]\w*",
    "cublasLt": r"cublasLt[A-Z]\w*",
    "cudnn": r"cudnn[A-Z]\w*",
    "cufft": r"cufft[A-Z]\w*",
    "curand": r"curand[A-Z]\w*",
    "cusparse": r"cusparse(?!Lt)[A-Z]\w*",
    "cusolver": r"cusolver[A-Z]\w*",
    "nccl": r"p?nccl[A-Z]\w*",
    "cusparseLt": r"cusparseLt[A-Z]\w*",
    "cupti": r"cupti[A-Z]\w*",
    "nvshmem": r"nvshmem(x|id)?_\w+",
    "cufile": r"cuFile[A-Z]\w*",
}


def undefined(shared_object: Path) -> Iterator[str]:
    """The names that a shared object wants from others."""
    found = subprocess.run(
        ["nm", "-D", "--undefined-only", str(shared_object)],
        capture_output=True,
        text=True,
        check=False,
    )
    for line in found.stdout.splitlines():
        if line.split():
            yield line.split()[-1].split("@")[0]


def named(shared_object: Path) -> Iterator[str]:
    """Whole C strings of a shared object that look like functions."""
    for match in re.finditer(rb"(?<=\0)[a-z][A-Za-z0-9_]{5,80}(?=\0)", shared_object.read_bytes()):
        yield match.group().decode()


def names_of(path: Path, strings: bool) -> set[str]:
    """The names that a wheel's shared objects, or one shared object, import."""
    if path.suffix != ".whl":
        return {*undefined(path), *(named(path) if strings else ())}
    found: set[str] = set()
    with zipfile.ZipFile(path) as wheel, tempfile.TemporaryDirectory() as folder:
        for member in wheel.namelist():
            if re.search(r"\.so(\.\d+)*$", member):
                found |= names_of(Path(wheel.extract(member, folder)), strings)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("client", help='a label, such as "PyTorch 2.15"')
    parser.add_argument("files", type=Path, nargs="+", help="wheels or shared objects")
    parser.add_argument("--strings", action="store_true", help="also names given to dlsym")
    arguments = parser.parse_args()
    found = set().union(*(names_of(path, arguments.strings) for path in arguments.files))
    IMPORTS.mkdir(exist_ok=True)
    for library, pattern in NAMES.items():
        names = sorted(name for name in found if re.fullmatch(pattern, name))
        path = IMPORTS / f"{library}.yaml"
        known = yaml.safe_load(path.read_text()) if path.exists() else {}
        known.pop(arguments.client, None)
        if names:
            known[arguments.client] = names
            print(f"{arguments.client}: {len(names)} of {library}")
        if known:
            path.write_text(
                f"# The functions of {library} that clients import, by client; taken by\n"
                "# remote_gpu/codegen/imports.py.\n"
                + yaml.safe_dump(known, width=100, default_flow_style=None)
            )


if __name__ == "__main__":
    main()
