"""The environment of a slice: what makes an unmodified program use Carrel's GPU.

One function builds it for ``carrel-run``, the hub's spawner and the kernel provisioner alike.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
LIB = PACKAGE / "lib"
CLIENT_LIB = LIB / "client"
AUDIT_LIBRARY = CLIENT_LIB / "libcarrel-audit.so"
SOFTWARE_DRIVER = LIB / "libcarrel-softgpu.so"
SOFTWARE_LIBRARIES = LIB / "softgpu"  # CUDA's libraries as far as the software GPU has them
NULL_LIBRARIES = LIB / "null"  # the same for the null device: all of them, computing nothing
WORKER = LIB / "carrel-worker"
SLICE_BIN = PACKAGE / "bin"  # holds `nvidia-smi`, a name for carrel-smi

#: The variables that :func:`slice_environment` may set.
VARIABLES = (
    "CARREL_ENDPOINT",
    "CARREL_LEASE",
    "CARREL_LEASE_KEY",
    "CARREL_SESSION_NAME",
    "CARREL_SOFTWARE_GPU",
    "LD_AUDIT",
)
#: What programs need besides, on any slice; a value of the user's own stays. Triton looks for a
#: driver before it compiles; CuPy's CUB has a CUDA runtime of its own inside, so it is left out.
HINTS = {
    "TRITON_LIBCUDA_PATH": str(CLIENT_LIB),
    "CUPY_ACCELERATORS": "",
}
#: The same on a software GPU, which executes PTX and no machine code.
SOFTWARE_HINTS = {
    "TRITON_PTXAS_PATH": str(SLICE_BIN / "carrel-copy-ptx"),
    "CUPY_COMPILE_WITH_PTX": "1",
}
#: Programs must load the CUDA runtime, not contain it: nvcc's default is the other way.
NVCC_FLAGS = "-cudart shared"


def slice_environment(
    endpoint: str,
    lease: str,
    key: str,
    name: str | None = None,
    base: Mapping[str, str] | None = None,
    software: bool = False,
) -> dict[str, str]:
    """A copy of ``base`` (default: this process's environment) with the slice in it.

    Args:
        endpoint: ``host:port`` of the node's front door.
        lease: the lease's id.
        key: the lease's key, 64 hexadecimal digits. A secret: never log the result.
        name: a label for the sessions, such as a notebook's path.
        software: whether the GPU is a software GPU, for which programs must hand over PTX.

    Raises:
        FileNotFoundError: the client libraries have not been built.
    """
    if not AUDIT_LIBRARY.exists():
        raise FileNotFoundError(
            f"{AUDIT_LIBRARY} is missing: build the native parts (make build) or install a wheel"
        )
    env = without_slice(os.environ if base is None else base)
    env["CARREL_ENDPOINT"] = endpoint
    env["CARREL_LEASE"] = lease
    env["CARREL_LEASE_KEY"] = key
    if name:
        env["CARREL_SESSION_NAME"] = name
    others = [entry for entry in env.get("LD_AUDIT", "").split(":") if entry]
    env["LD_AUDIT"] = ":".join([str(AUDIT_LIBRARY), *others])
    env["PATH"] = search_path(env)
    if software:
        env["CARREL_SOFTWARE_GPU"] = "1"
    for variable, value in hints(software).items():
        env.setdefault(variable, value)
    flags = env.get("NVCC_APPEND_FLAGS", "")
    if "cudart" not in flags:  # the user's own choice stays
        env["NVCC_APPEND_FLAGS"] = f"{flags} {NVCC_FLAGS}".strip()
    return env


def local_environment(
    setting: str, libraries: Path, folder: Path, base: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The environment of a program that has a software GPU in its own process: no node, no worker,
    no network between them. What the way through a slice costs is measured against it.

    Args:
        setting: the value of ``CARREL_SOFTGPU``.
        libraries: the folder of CUDA's libraries for that device.
        folder: an empty folder, which must last as long as the program.
        base: what the environment is made from (default: this process's).
    """
    env = without_slice(os.environ if base is None else base)
    (folder / "libcuda.so.1").symlink_to(SOFTWARE_DRIVER)
    for library in libraries.iterdir():
        (folder / library.name).symlink_to(library)
    for library in CLIENT_LIB.iterdir():  # the runtime, and what is the same everywhere
        own = library.name.startswith(("libcudart", "libcupti", "libcufile", "libnvshmem"))
        if own or library == AUDIT_LIBRARY:
            (folder / library.name).symlink_to(library)
    env["CARREL_SOFTGPU"] = setting
    env["LD_AUDIT"] = str(folder / AUDIT_LIBRARY.name)
    env["TRITON_LIBCUDA_PATH"] = str(folder)
    if found := openblas():
        env["CARREL_OPENBLAS"] = str(found)
    return env


def hints(software: bool) -> dict[str, str]:
    """The variables that tell libraries how to work on a slice."""
    return HINTS | SOFTWARE_HINTS if software else dict(HINTS)


def search_path(base: Mapping[str, str]) -> str:
    """``PATH`` in a slice: our ``nvidia-smi`` first, the scripts of this environment at the end."""
    path = [str(SLICE_BIN), *base.get("PATH", os.defpath).split(os.pathsep)]
    scripts = str(Path(sys.executable).parent)
    return os.pathsep.join(path if scripts in path else [*path, scripts])


def openblas() -> Path | None:
    """The OpenBLAS of the ``scipy-openblas64`` package: it multiplies the software GPU's matrices.

    None without the package; products then take a plain way, correct and slow.
    """
    package = importlib.util.find_spec("scipy_openblas64")
    if package is None or package.origin is None:
        return None
    library = Path(package.origin).parent / "lib" / "libscipy_openblas64_.so"
    return library if library.exists() else None


def image_store() -> Path:
    """Where a node's workers keep code that programs have loaded, so that it is sent once:
    ``$CARREL_IMAGE_STORE``, or ``carrel/images`` in this account's cache folder. At most 2 GiB."""
    if named := os.environ.get("CARREL_IMAGE_STORE"):
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(cache) / "carrel" / "images"


def without_slice(base: Mapping[str, str]) -> dict[str, str]:
    """A copy of ``base`` with no slice in it: for workers, and for servers without a GPU."""
    env = {name: value for name, value in base.items() if name not in VARIABLES}
    for variable, value in hints(software=True).items():
        if env.get(variable) == value:
            del env[variable]
    if flags := env.get("NVCC_APPEND_FLAGS", "").removesuffix(NVCC_FLAGS).strip():
        env["NVCC_APPEND_FLAGS"] = flags
    else:
        env.pop("NVCC_APPEND_FLAGS", None)
    others = [
        entry
        for entry in base.get("LD_AUDIT", "").split(":")
        if entry and Path(entry).name != AUDIT_LIBRARY.name
    ]
    if others:
        env["LD_AUDIT"] = ":".join(others)
    if "PATH" in env:
        parts = [part for part in env["PATH"].split(os.pathsep) if part != str(SLICE_BIN)]
        env["PATH"] = os.pathsep.join(parts)
    return env
