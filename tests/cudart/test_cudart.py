"""The CUDA runtime library: programs of nvcc, and what programs of either CUDA major ask of it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from remote_gpu import environment
from remote_gpu.codegen import cudart, library

HERE = Path(__file__).parent
CARREL_RUN = [sys.executable, "-m", "remote_gpu.run", "--software-gpu", "vram=256MiB", "--"]
SAMPLES = [
    "vector_add", "reduction", "symbols", "streams", "properties", "pitched", "managed",
    "threads", "errors", "pools", "both_sides", "graph_nodes",
    "managed_variables",
]  # fmt: skip


def cuda_home() -> Path:
    """The folder of PyPI's CUDA compiler."""
    spec = importlib.util.find_spec("nvidia")
    assert spec is not None
    for place in spec.submodule_search_locations or []:
        if (home := Path(place) / "cu13").joinpath("bin/nvcc").exists():
            return home
    raise AssertionError("nvcc is missing: pip install nvidia-cuda-nvcc")


@pytest.fixture(scope="module", params=["compressed", "plain", "per_thread"])
def samples(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """samples.cu, built as a student builds it on a slice: shared runtime, PTX inside."""
    folder = tmp_path_factory.mktemp("cudart")
    (folder / "libcudart.so").symlink_to(environment.CLIENT_LIB / "libcudart.so.13")
    home, program = cuda_home(), folder / "samples"
    options = {"plain": ["-no-compress"], "per_thread": ["-default-stream", "per-thread"]}
    plain = options.get(request.param, [])
    subprocess.run(
        [home / "bin/nvcc", "-cudart", "shared", *plain,
         "-gencode", "arch=compute_80,code=compute_80", "-I", home / "include", "-L", folder,
         "-Xlinker", f"-rpath-link={environment.CLIENT_LIB}", "-o", program, HERE / "samples.cu"],
        check=True, timeout=240,
    )  # fmt: skip
    return program


@pytest.mark.parametrize("name", SAMPLES)
def test_programs_of_nvcc(samples: Path, name: str) -> None:
    done = subprocess.run([*CARREL_RUN, samples, name], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(f"{name} ok\n")


def test_a_static_runtime_is_named_once(tmp_path: Path) -> None:
    home, program = cuda_home(), tmp_path / "static"
    subprocess.run(
        [home / "bin/nvcc", "-cudart", "static", "-gencode", "arch=compute_80,code=compute_80",
         "-I", home / "include", "-L", home / "lib", "-o", program, HERE / "samples.cu"],
        check=True, timeout=240,
    )  # fmt: skip
    done = subprocess.run(
        [*CARREL_RUN, program, "vector_add"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert done.stderr.count("NVIDIA's CUDA runtime linked into it") == 1, done.stderr
    assert str(program) in done.stderr
    assert "-cudart shared" in done.stderr


def on_a_slice(program: str) -> str:
    done = subprocess.run(
        [*CARREL_RUN, sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("major", [12, 13])
def test_each_major_answers_by_its_own_layouts(major: int) -> None:
    description, _ = cudart.load(major)
    size = description["types"]["structs"]["cudaDeviceProp"]["size"]
    out = on_a_slice(f"""
        import ctypes
        rt = ctypes.CDLL("libcudart.so.{major}")
        def check(status):
            assert status == 0, status
        version = ctypes.c_int()
        check(rt.cudaRuntimeGetVersion(ctypes.byref(version)))
        assert version.value // 1000 == {major}, version.value
        prop = (ctypes.c_ubyte * ({size} + 64))(*[0xEE] * ({size} + 64))
        get = rt.cudaGetDeviceProperties{"" if major == 13 else "_v2"}
        check(get(prop, 0))
        assert bytes(prop[{size}:]) == b"\\xee" * 64  # nothing beyond the struct
        print(bytes(prop[:256]).split(b"\\0")[0].decode())
        pointer = ctypes.c_void_p()
        check(rt.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(1000)))
        source, target = ctypes.create_string_buffer(b"slice", 1000), (ctypes.c_char * 1000)()
        size = ctypes.c_size_t(1000)
        check(rt.cudaMemcpy(pointer, source, size, 1))
        check(rt.cudaMemcpy(target, pointer, size, 2))
        assert target.value == b"slice"
        entry, state = ctypes.c_void_p(), ctypes.c_int(-1)
        ask = rt.cudaGetDriverEntryPointByVersion
        flags = ctypes.c_ulonglong(0)
        check(ask(b"cuMemAlloc", ctypes.byref(entry), 12000, flags, ctypes.byref(state)))
        assert entry.value and state.value == 0
        check(ask(b"cuNoSuchThing", ctypes.byref(entry), 12000, flags, ctypes.byref(state)))
        assert not entry.value and state.value == 1
        assert rt.cudaFree(ctypes.c_void_p(8)) == 1  # cudaErrorInvalidValue
        assert rt.cudaGetLastError() == 1 and rt.cudaGetLastError() == 0
        assert rt.cudaGraphicsMapResources(0, None, None) == 801  # cudaErrorNotSupported
        rt.cudaGetErrorName.restype = ctypes.c_char_p
        assert rt.cudaGetErrorName(801) == b"cudaErrorNotSupported"
        """)
    assert out.strip() == "Carrel Software GPU"


def test_without_a_slice_there_is_no_device() -> None:
    program = (
        "import ctypes, sys; rt = ctypes.CDLL(sys.argv[1]); n = ctypes.c_int(7); "
        "print(rt.cudaGetDeviceCount(ctypes.byref(n)), n.value)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, environment.CLIENT_LIB / "libcudart.so.13"],
        env=environment.without_slice({"PATH": "/usr/bin:/bin"}),
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == "100 0\n", done.stderr  # cudaErrorNoDevice


@pytest.mark.parametrize("major", [12, 13])
def test_every_function_is_exported_with_its_version(major: int) -> None:
    library = environment.CLIENT_LIB / f"libcudart.so.{major}"
    table = subprocess.run(
        ["objdump", "-T", library], capture_output=True, text=True, check=True
    ).stdout
    node = f"libcudart.so.{major}"
    symbols = [line.split() for line in table.splitlines() if f" {node} " in line]
    exported = {symbol[-1] for symbol in symbols} - {node}
    _, kinds = cudart.load(major)
    assert exported == set(kinds)


def test_all_that_pytorch_imports_is_written() -> None:
    imports = library.imports("cudart")["PyTorch 2.15"]
    kinds = {name: kind for major in cudart.MAJORS for name, kind in cudart.load(major)[1].items()}
    assert len(imports) > 100
    assert [name for name in imports if kinds[name] != "manual"] == []
