"""Which GPU a slice goes to: a pure decision on a snapshot of the fleet.

Best fit: of the GPUs that have both the VRAM and the compute free, the one with the least
left over. Knows nothing of leases, people or the database.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpu_broker import units

# Sums of shares like 0.1 are not exact; a millionth of a TFLOPS is nobody's slice.
TFLOPS_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Gpu:
    """One GPU that takes leases, with what is free on it. MiB and TFLOPS.

    ``online``: its node is connected now; a node that is only briefly away still takes leases,
    but one that is connected is preferred, since it can let them in at once.
    """

    uuid: str
    node: str
    index: int
    vram_mib: int
    tflops: float
    vram_free_mib: int
    tflops_free: float
    online: bool = True

    @property
    def place(self) -> str:
        return f"{self.node} (GPU {self.index})"


@dataclass(frozen=True)
class Refused:
    """Why no GPU was found. ``field`` is set if no GPU of the pool could ever hold the slice."""

    detail: str
    field: str | None = None


def fits(gpu: Gpu, vram_mib: int, tflops: float) -> bool:
    """Whether the slice fits into what is free."""
    return gpu.vram_free_mib >= vram_mib and gpu.tflops_free + TFLOPS_TOLERANCE >= tflops


def leftover(gpu: Gpu, vram_mib: int, tflops: float) -> float:
    """What would stay free, as the sum of both shares of the GPU: 0 (full) to 2 (empty)."""
    return (gpu.vram_free_mib - vram_mib) / gpu.vram_mib + (gpu.tflops_free - tflops) / gpu.tflops


def place(gpus: Sequence[Gpu], vram_mib: int, tflops: float) -> Gpu | Refused:
    """The GPU for a slice, or why there is none."""
    if not gpus:
        return Refused(
            "no GPU is connected to the pool at this moment; "
            "start without a GPU, or try again in a minute"
        )
    fitting = [gpu for gpu in gpus if fits(gpu, vram_mib, tflops)]
    if fitting:
        return min(
            fitting,
            key=lambda g: (not g.online, leftover(g, vram_mib, tflops), g.node, g.index),
        )
    return too_large(gpus, vram_mib, tflops) or Refused(_explain(gpus, vram_mib, tflops))


def too_large(gpus: Sequence[Gpu], vram_mib: int, tflops: float) -> Refused | None:
    """Why no GPU of the pool could hold the slice even when empty, or None if one could."""
    if not gpus:
        return None
    largest = max(gpu.vram_mib for gpu in gpus)
    if vram_mib > largest:
        return Refused(
            f"{units.mib(vram_mib)} is more than any GPU of the pool has; "
            f"the largest has {units.mib(largest)}",
            "vram_mib",
        )
    fastest = max(gpu.tflops for gpu in gpus)
    if tflops > fastest + TFLOPS_TOLERANCE:
        return Refused(
            f"{units.tflops(tflops)} is more than any GPU of the pool has; "
            f"the fastest has {units.tflops(fastest)}",
            "tflops",
        )
    return None


def _explain(gpus: Sequence[Gpu], vram_mib: int, tflops: float) -> str:
    roomy = max(gpus, key=lambda g: (g.vram_free_mib, g.tflops_free))
    idle = max(gpus, key=lambda g: (g.tflops_free, g.vram_free_mib))
    if roomy.vram_free_mib < vram_mib:
        return (
            f"no GPU has {units.mib(vram_mib)} free; the largest free is "
            f"{units.mib(roomy.vram_free_mib)} and {units.tflops(roomy.tflops_free)} "
            f"on {roomy.place}"
        )
    if idle.tflops_free + TFLOPS_TOLERANCE < tflops:
        return (
            f"no GPU has {units.tflops(tflops)} free; the largest free is "
            f"{units.tflops(idle.tflops_free)} and {units.mib(idle.vram_free_mib)} "
            f"on {idle.place}"
        )
    return (
        f"no single GPU has {units.mib(vram_mib)} and {units.tflops(tflops)} free; "
        f"the largest free is {units.mib(roomy.vram_free_mib)} and "
        f"{units.tflops(roomy.tflops_free)} on {roomy.place}"
    )
