"""Compiles the programs of ``bench/native``, each of one source file."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "bench" / "native"
BUILD = ROOT / "build" / "bench"


def build(name: str, *flags: str) -> Path:
    """The path of program ``name``; compiles it when its source or a header is newer.

    Raises:
        subprocess.CalledProcessError: it does not compile; the compiler has said why.
    """
    BUILD.mkdir(parents=True, exist_ok=True)
    built, source = BUILD / name, SOURCES / f"{name}.cpp"
    newest = max(one.stat().st_mtime for one in (source, *SOURCES.glob("*.hpp")))
    if built.exists() and built.stat().st_mtime > newest:
        return built
    compiler = os.environ.get("CXX") or shutil.which("g++") or "c++"
    # A name of its own until it is whole: two programs may find it missing at once.
    part = BUILD / f"{name}.{os.getpid()}"
    command = [compiler, "-std=c++20", "-O2", "-Wall", "-Wextra", *flags, str(source), "-o"]
    subprocess.run([*command, str(part)], check=True)
    part.replace(built)
    return built
