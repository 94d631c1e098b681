"""What one person may hold at once: a pure decision.

Knows limits and what is held; nothing of GPUs, the database or the web.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpu_broker import units
from gpu_broker.placement import TFLOPS_TOLERANCE


@dataclass(frozen=True)
class Limits:
    """Per person, held at once; ``None`` is no limit. ``contact`` is whom to ask for more."""

    max_leases: int | None = None
    max_vram_mib: int | None = None
    max_tflops: float | None = None
    contact: str = "your instructor or the administrator of this hub"


@dataclass(frozen=True)
class Usage:
    """What a person holds, not counting a lease that the new one replaces."""

    leases: int = 0
    vram_mib: int = 0
    tflops: float = 0.0


@dataclass(frozen=True)
class Over:
    """The limit that forbids it, in a sentence, and the field of the request it is about."""

    detail: str
    field: str


def check(limits: Limits, usage: Usage, vram_mib: int, tflops: float) -> Over | None:
    """``None`` if the slice is within the limits, else the first limit it breaks."""
    if limits.max_vram_mib is not None and usage.vram_mib + vram_mib > limits.max_vram_mib:
        return Over(
            _sentence(
                f"{units.mib(vram_mib)} of GPU memory",
                units.mib(limits.max_vram_mib),
                units.mib(usage.vram_mib),
                units.mib(max(0, limits.max_vram_mib - usage.vram_mib)),
                limits.contact,
            ),
            "vram_mib",
        )
    if (
        limits.max_tflops is not None
        and usage.tflops + tflops > limits.max_tflops + TFLOPS_TOLERANCE
    ):
        return Over(
            _sentence(
                units.tflops(tflops),
                units.tflops(limits.max_tflops),
                units.tflops(usage.tflops),
                units.tflops(max(0.0, limits.max_tflops - usage.tflops)),
                limits.contact,
            ),
            "tflops",
        )
    if limits.max_leases is not None and usage.leases >= limits.max_leases:
        slices = "1 slice" if limits.max_leases == 1 else f"{limits.max_leases} slices"
        return Over(
            f"You hold {usage.leases} of at most {slices} at once. "
            f"Stop one of your servers first, or ask {limits.contact}.",
            "user",
        )
    return None


def _sentence(asked: str, limit: str, used: str, left: str, contact: str) -> str:
    return (
        f"You asked for {asked}; your limit is {limit} at once and you hold {used}, "
        f"so {left} is left. Ask for less, stop another of your servers, or ask {contact}."
    )
