"""Builds what Python packaging cannot: the native data plane and the fleet protocol."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent.resolve()
NATIVE = ROOT / "remote_gpu" / "native"
FLEET = ROOT / "gpu_broker" / "fleet"


def build_directory() -> Path:
    return Path(os.environ.get("CARREL_BUILD_DIR", ROOT / "build" / "native"))


def generate_fleet_protocol() -> None:
    """Writes ``gpu_broker/fleet/fleet_pb2*.py`` from ``fleet.proto``."""
    proto = FLEET / "fleet.proto"
    outputs = [FLEET / "fleet_pb2.py", FLEET / "fleet_pb2_grpc.py", FLEET / "fleet_pb2.pyi"]
    if all(o.exists() and o.stat().st_mtime >= proto.stat().st_mtime for o in outputs):
        return
    subprocess.run(
        [
            sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}",
            f"--python_out={ROOT}", f"--grpc_python_out={ROOT}", f"--pyi_out={ROOT}",
            str(proto.relative_to(ROOT)),
        ],
        check=True,
        cwd=ROOT,
    )  # fmt: skip


class BuildPy(build_py):
    def run(self) -> None:
        generate_fleet_protocol()
        super().run()


class BuildNative(build_ext):
    """Runs CMake and installs libraries and the worker under ``remote_gpu/lib``."""

    def run(self) -> None:
        generate_fleet_protocol()
        super().run()

    def build_extension(self, ext: Extension) -> None:
        build = build_directory()
        build.mkdir(parents=True, exist_ok=True)
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count() or 2))
        launcher = ["-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"] if shutil.which("ccache") else []
        subprocess.run(
            [
                "cmake", "-S", str(NATIVE), "-B", str(build), "-G", "Ninja",
                "-DCMAKE_BUILD_TYPE=RelWithDebInfo",
                f"-DPython3_EXECUTABLE={sys.executable}", *launcher,
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        subprocess.run(["cmake", "--build", str(build), "-j", jobs], check=True)
        self.install_native(Path(self.get_ext_fullpath(ext.name)).parent)

    def copy_extensions_to_source(self) -> None:
        """In place (``make build``, editable installs): libraries go where packages look."""
        self.install_native(ROOT / "remote_gpu" / "lib")

    def install_native(self, target: Path) -> None:
        subprocess.run(
            ["cmake", "--install", str(build_directory()), "--prefix", str(target), "--strip"],
            check=True,
            stdout=subprocess.DEVNULL,
        )

    # There is no Python extension module: setuptools must not look for one.
    def get_outputs(self) -> list[str]:
        return []

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class AnyPythonWheel(bdist_wheel):
    """The native parts do not use Python's ABI: one wheel serves every Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        _, _, platform = super().get_tag()
        return "py3", "none", platform


setup(
    ext_modules=[Extension("remote_gpu.lib._native", sources=[])],
    cmdclass={"build_ext": BuildNative, "build_py": BuildPy, "bdist_wheel": AnyPythonWheel},
    package_data={
        "hub_plugin": ["templates/*", "notebooks/*", "static/*", "py.typed"],
        "gpu_broker": [
            "templates/*",
            "static/*",
            "store/migrations/**/*",
            "fleet/*.proto",
            "py.typed",
        ],
        "remote_gpu": ["api/*.yaml", "bin/*", "py.typed"],
    },
)
