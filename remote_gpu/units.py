"""Sizes of memory as people write them, and back."""

from __future__ import annotations

import argparse
import re

_UNITS = {"": 1, "B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_UNITS |= {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_size(text: str) -> int:
    """Bytes of a size such as ``2GiB`` or ``512MiB``; a bare number is bytes.

    Raises:
        argparse.ArgumentTypeError: it is not a size, or not positive (usable as an argparse type).
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = _UNITS.get(match.group(2).upper()) if match else None
    if not match or unit is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 2GiB or 512MiB")
    size = int(float(match.group(1)) * unit)
    if size <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive size")
    return size


def format_size(size: int) -> str:
    """``size`` bytes for people: ``2 GiB``, ``512 MiB``, ``1.5 GiB``."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        factor = _UNITS[unit.upper()]
        if size >= factor:
            return f"{size / factor:.4g} {unit}"
    return f"{size} B"
