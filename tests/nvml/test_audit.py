"""The audit library in real processes: what is redirected, what is left alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from remote_gpu.environment import AUDIT_LIBRARY, CLIENT_LIB

# Loads argv[1] and tells which file the function argv[2] came from.
LOADER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    void* library = dlopen(argv[1], RTLD_NOW);
    if (!library) return fprintf(stderr, "%s\n", dlerror()), 1;
    Dl_info info;
    void* function = dlsym(library, argv[2]);
    if (!function || !dladdr(function, &info)) return 3;
    puts(info.dli_fname);
    return 0;
}
"""
# Is linked with libcuda.so.1, as programs that nvcc made are.
LINKED = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>

int cuInit(unsigned);

int main(void) {
    Dl_info info;
    void* function = dlsym(RTLD_DEFAULT, "cuInit");
    if (!function || !dladdr(function, &info)) return 3;
    puts(info.dli_fname);
    return cuInit(0) == 0 ? 4 : 0;  /* without a slice there is no GPU */
}
"""
# Stands in for NVIDIA's library on a machine that has one.
OTHER = "int cuInit(unsigned flags) { return flags ? 1 : 0; } int nvmlInit_v2(void) { return 0; }"


def compile_c(path: Path, text: str, *options: str) -> Path:
    source = path.with_suffix(".c")
    source.write_text(text)
    subprocess.run(["cc", "-o", path, source, *options], check=True)
    return path


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds ``loader``, ``linked``, and in ``driver`` what stands in for NVIDIA's libraries."""
    top = tmp_path_factory.mktemp("audit")
    compile_c(top / "loader", LOADER, "-ldl")
    driver = top / "driver"
    driver.mkdir()
    compile_c(driver / "libcuda.so.1", OTHER, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1")
    for name in ("libcuda.so", "libnvidia-ml.so.1", "libnvidia-ml.so", "libcuda.so.1.old"):
        shutil.copy(driver / "libcuda.so.1", driver / name)
    compile_c(top / "linked", LINKED, str(driver / "libcuda.so.1"), "-ldl")
    return top


def run(*command: str | Path, audit: Path | None = AUDIT_LIBRARY, **env: str) -> str:
    """Standard output of ``command``; fails when it fails or writes to standard error."""
    clean = {
        k: v for k, v in os.environ.items() if not k.startswith(("CARREL_", "LD_"))
    }  # no slice: the libraries need none to be loaded
    if audit:
        clean["LD_AUDIT"] = str(audit)
    done = subprocess.run(command, env=clean | env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


REDIRECTED = [
    ("libcuda.so.1", "libcuda.so.1", "cuInit"),
    ("libcuda.so", "libcuda.so.1", "cuInit"),
    ("libnvidia-ml.so.1", "libnvidia-ml.so.1", "nvmlInit_v2"),
    ("libnvidia-ml.so", "libnvidia-ml.so.1", "nvmlInit_v2"),
]


@pytest.mark.parametrize(("asked", "loaded", "function"), REDIRECTED)
def test_by_name_and_by_any_path(directory: Path, asked: str, loaded: str, function: str) -> None:
    loader = directory / "loader"
    ours = str(CLIENT_LIB / loaded)
    assert run(loader, asked, function) == ours
    assert run(loader, directory / "driver" / asked, function) == ours
    assert run(loader, f"/nowhere/at/all/{asked}", function) == ours
    assert run(loader, asked, function, LD_LIBRARY_PATH=str(directory / "driver")) == ours


def test_a_program_linked_with_the_driver(directory: Path) -> None:
    driver = str(directory / "driver")
    env = {"LD_LIBRARY_PATH": driver, "CARREL_LOG": "warning"}
    done = subprocess.run(
        [directory / "linked"],
        env={"PATH": os.environ["PATH"], "LD_AUDIT": str(AUDIT_LIBRARY)} | env,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(CLIENT_LIB / "libcuda.so.1")


def test_python(directory: Path) -> None:
    program = (
        "import ctypes, re, sys; ctypes.CDLL(sys.argv[1]);"
        "print({*re.findall(r'\\S*/libcuda\\S*', open('/proc/self/maps').read())})"
    )
    for name in ("libcuda.so.1", str(directory / "driver" / "libcuda.so.1")):
        assert run(sys.executable, "-c", program, name) == str({str(CLIENT_LIB / "libcuda.so.1")})


def test_children_too(directory: Path) -> None:
    command = f"{directory / 'loader'} libcuda.so.1 cuInit"
    assert run("sh", "-c", f"sh -c '{command}'") == str(CLIENT_LIB / "libcuda.so.1")


def test_other_names_are_left_alone(directory: Path) -> None:
    old = directory / "driver" / "libcuda.so.1.old"
    assert run(directory / "loader", old, "cuInit") == str(old)
    assert "libm.so.6" in run(directory / "loader", "libm.so.6", "cos")


def test_without_our_libraries_nothing_changes(directory: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copy(AUDIT_LIBRARY, tmp_path))
    theirs = directory / "driver" / "libcuda.so.1"
    assert run(directory / "loader", theirs, "cuInit", audit=alone) == str(theirs)
    # One of the two is enough for that one.
    shutil.copy(CLIENT_LIB / "libnvidia-ml.so.1", tmp_path)
    assert run(directory / "loader", theirs, "cuInit", audit=alone) == str(theirs)
    nvml = run(directory / "loader", "libnvidia-ml.so.1", "nvmlInit_v2", audit=alone)
    assert nvml == str(tmp_path / "libnvidia-ml.so.1")


def test_without_the_audit_library_nothing_changes(directory: Path) -> None:
    theirs = directory / "driver" / "libcuda.so.1"
    assert run(directory / "loader", theirs, "cuInit", audit=None) == str(theirs)


def test_needs_only_libc() -> None:
    needed = subprocess.check_output(["readelf", "-d", AUDIT_LIBRARY], text=True)
    assert [
        line.split("[")[1].rstrip("]") for line in needed.splitlines() if "(NEEDED)" in line
    ] == ["libc.so.6"]
