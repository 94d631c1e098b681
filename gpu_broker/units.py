"""How amounts of GPU are written for people: "6,000 MiB", "2.5 TFLOPS". One place for all texts."""

from __future__ import annotations

MIB = 1024 * 1024


def mib(amount: int) -> str:
    """``6000`` → ``6,000 MiB``."""
    return f"{amount:,} MiB"


def tflops(amount: float) -> str:
    """``2.5`` → ``2.5 TFLOPS``; at most three decimals, none that are zero."""
    return f"{amount:,.3f}".rstrip("0").rstrip(".") + " TFLOPS"


def memory(amount_bytes: int) -> str:
    """Bytes as whole MiB, rounded up, so that something never reads as nothing."""
    return mib(-(-amount_bytes // MIB))


def duration(seconds: float) -> str:
    """A span for people: ``45 s``, ``12 min``, ``3 h 5 min``."""
    whole = max(0, round(seconds))
    if whole < 90:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
