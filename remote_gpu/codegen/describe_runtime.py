"""Extracts the facts of the CUDA runtime's headers, one description per CUDA major.

    python -m remote_gpu.codegen.describe_runtime INCLUDE_12 INCLUDE_13

writes ``remote_gpu/api/cudart12.yaml`` and ``cudart13.yaml``: types, layouts and every function.
Run by hand when a new CUDA version is described; the folders are those with ``cuda_runtime_api.h``
of PyPI's ``nvidia-cuda-runtime-cu12`` and ``nvidia-cuda-runtime``. Needs ``libclang`` (PyPI).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from . import describe

_PARTS = ("driver_types.h", "vector_types.h", "surface_types.h", "texture_types.h")
_VECTOR = re.compile(r"u?(char|short|int|long|longlong)\d(_\d+a)?|(float|double)\d(_\d+a)?")

#: What the compiler's own objects call, and what other headers declare: no part of
#: ``cuda_runtime_api.h``. Prototypes of the former: crt/host_runtime.h.
_COMPILER = {
    "__cudaRegisterFatBinary": [["void *", "fatCubin"]],
    "__cudaRegisterFatBinaryEnd": [["void **", "fatCubinHandle"]],
    "__cudaUnregisterFatBinary": [["void **", "fatCubinHandle"]],
    "__cudaRegisterVar": [
        ["void **", "fatCubinHandle"], ["char *", "hostVar"], ["char *", "deviceAddress"],
        ["const char *", "deviceName"], ["int", "ext"], ["size_t", "size"], ["int", "constant"],
        ["int", "global"],
    ],
    "__cudaRegisterHostVar": [
        ["void **", "fatCubinHandle"], ["const char *", "deviceName"], ["char *", "hostVar"],
        ["size_t", "size"],
    ],
    "__cudaRegisterManagedVar": [
        ["void **", "fatCubinHandle"], ["void **", "hostVarPtrAddress"],
        ["char *", "deviceAddress"], ["const char *", "deviceName"], ["int", "ext"],
        ["size_t", "size"], ["int", "constant"], ["int", "global"],
    ],
    "__cudaRegisterFunction": [
        ["void **", "fatCubinHandle"], ["const char *", "hostFun"], ["char *", "deviceFun"],
        ["const char *", "deviceName"], ["int", "thread_limit"], ["void *", "tid"],
        ["void *", "bid"], ["dim3 *", "bDim"], ["dim3 *", "gDim"], ["int *", "wSize"],
    ],
    "__cudaRegisterUnifiedTable": [],
    "__cudaInitModule": [["void **", "fatCubinHandle"]],
    "__cudaPushCallConfiguration": [
        ["dim3", "gridDim"], ["dim3", "blockDim"], ["size_t", "sharedMem"],
        ["cudaStream_t", "stream"],
    ],
    "__cudaPopCallConfiguration": [
        ["dim3 *", "gridDim"], ["dim3 *", "blockDim"], ["size_t *", "sharedMem"],
        ["void *", "stream"],
    ],
    "__cudaGetKernel": [["cudaKernel_t *", "kernel"], ["const void *", "entryFuncAddr"]],
    "__cudaLaunchKernel": [
        ["cudaKernel_t", "kernel"], ["dim3", "gridDim"], ["dim3", "blockDim"],
        ["void **", "args"], ["size_t", "sharedMem"], ["cudaStream_t", "stream"],
    ],
    "cudaProfilerStart": [],
    "cudaProfilerStop": [],
}  # fmt: skip


def describe_major(include: Path) -> dict[str, Any]:
    """The description of the runtime whose headers lie in ``include``."""
    header = include / "cuda_runtime_api.h"
    types, functions = describe.describe(header, _PARTS, ("cuda", "CUDART_"))
    types["structs"] = {
        name: record
        for name, record in types["structs"].items()
        if not _VECTOR.fullmatch(name) and name != "CUuuid"
    }
    types["aliases"]["cudaUUID_t"] = "CUuuid"
    types["aliases"].pop("CUuuid_st", None)
    version = re.search(r"#define CUDART_VERSION\s+(\d+)", header.read_text())
    assert version, f"{header} has no CUDART_VERSION"
    types["version"] = int(version.group(1))
    # Names that a program built for a per-thread default stream uses.
    per_thread = re.findall(r"__CUDART_API_(PTDS|PTSZ)\((\w+)\)", header.read_text())
    return {
        "types": types,
        "functions": {**functions, **_COMPILER},
        "per_thread": sorted(
            {f"{name}_{suffix.lower()}" for suffix, name in per_thread if name in functions}
            | {"__cudaLaunchKernel_ptsz"}  # of the compiler
        ),
    }


def main() -> None:
    for major, include in zip((12, 13), sys.argv[1:3], strict=True):
        data = describe_major(Path(include))
        describe.write(
            describe.API / f"cudart{major}.yaml",
            f"The CUDA runtime API of CUDA {major}: facts, extracted by\n"
            "remote_gpu/codegen/describe_runtime.py. functions: name: [[type, parameter], ...].\n"
            "per_thread: names that programs use whose default stream is one per thread.\n"
            "How each function is answered: cudart_calls.yaml.",
            data,
        )
        print(f"CUDA {major}: {len(data['functions'])} functions")


if __name__ == "__main__":
    main()
