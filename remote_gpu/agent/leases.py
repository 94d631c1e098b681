"""The leases that this node has admitted: whom the front door lets in, and to which GPU."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from .inventory import Gpu
from .ledger import Ledger


@dataclass
class AdmittedLease:
    """A person's right to a slice of one of this node's GPUs."""

    id: str
    key: bytes = field(repr=False)
    gpu: Gpu
    vram_mib: int
    tflops: float
    expires_at: float  # Unix seconds
    ended: str = ""  # why, once it is over; a program that comes later is told
    ledger: Ledger = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.vram_mib << 20)

    @property
    def expired(self) -> bool:
        """Whether its time is over, by this node's clock."""
        return time.time() >= self.expires_at

    @property
    def over(self) -> str:
        """Why nobody is let in any more; empty while it holds."""
        return self.ended or ("the lease has expired" if self.expired else "")
