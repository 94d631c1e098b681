"""The spawn form: turns capacity, sizes and a denial into HTML.

Knows the broker's models, not its client and not the hub. The markup is Bootstrap 5, as on the
hub's pages; the small script that keeps it current asks for the spawn page itself again, because
that is the one address which a person on it may certainly read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader

from gpu_broker import units
from gpu_broker.models import Capacity, Quota
from hub_plugin.slices import CHOICE, CUSTOM, NONE, TFLOPS, VRAM, WITHOUT_BUTTON, Size, Slice

# Rounding of sums of TFLOPS, as the broker's placement allows for.
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Denial:
    """Why the last try did not start, and what was asked for."""

    message: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Offer:
    """One size as shown: ``problem`` says why it cannot be chosen now, if so."""

    size: Size
    problem: str | None


def environment() -> Environment:
    """The templates of this package; everything is escaped."""
    templates = Environment(
        loader=PackageLoader("hub_plugin"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters.update(mib=units.mib, tflops=units.tflops)
    return templates


def problem(amount: Slice, capacity: Capacity | None, quota: Quota | None) -> str | None:
    """Why a slice cannot be had now, in a few words; None if it can, or if nobody knows.

    The broker decides when the server starts; this only spares people a click.
    """
    if quota is not None:
        over = _over_quota(amount, quota)
        if over:
            return over
    if capacity is None:
        return None
    if not capacity.gpus:
        return "no GPU is connected"
    if any(
        gpu.vram_free_mib >= amount.vram_mib and gpu.tflops_free + _TOLERANCE >= amount.tflops
        for gpu in capacity.gpus
    ):
        return None
    most = max(capacity.gpus, key=lambda gpu: (gpu.vram_mib, gpu.tflops))
    if most.vram_mib < amount.vram_mib:
        return "larger than any GPU here"
    return "not free now"


def _over_quota(amount: Slice, quota: Quota) -> str | None:
    # Asking again replaces what this server holds, so only single limits are certain here.
    if quota.max_vram_mib is not None and amount.vram_mib > quota.max_vram_mib:
        return f"above your limit of {units.mib(quota.max_vram_mib)}"
    if quota.max_tflops is not None and amount.tflops > quota.max_tflops + _TOLERANCE:
        return f"above your limit of {units.tflops(quota.max_tflops)}"
    return None


def chosen(options: Mapping[str, Any], offers: Sequence[Offer], allow_custom: bool) -> str:
    """Which card is ticked at first: the last choice if it can be had, else the first that can."""
    last = options.get(CHOICE)
    if last == NONE or (last == CUSTOM and allow_custom):
        return str(last)
    free = [offer.size.name for offer in offers if offer.problem is None]
    if last in free:
        return str(last)
    return free[0] if free else NONE


def render(
    templates: Environment,
    *,
    sizes: Sequence[Size],
    allow_custom: bool,
    capacity: Capacity | None,
    quota: Quota | None,
    options: Mapping[str, Any],
    denial: Denial | None,
    trouble: str | None,
) -> str:
    """The form's inside.

    Args:
        capacity: None where the broker could not be asked; then ``trouble`` says why.
        options: what the person chose last time.
        denial: why the try before this one did not start; its options win over ``options``.
    """
    if denial is not None:
        options = denial.options
    offers = [Offer(size, problem(size.slice, capacity, quota)) for size in sizes]
    largest = max((gpu.vram_mib for gpu in capacity.gpus), default=None) if capacity else None
    return templates.get_template("carrel_form.html").render(
        offers=offers,
        allow_custom=allow_custom,
        capacity=capacity,
        quota=quota,
        chosen=chosen(options, offers, allow_custom),
        custom_vram=options.get(VRAM, sizes[0].slice.vram_mib if sizes else 1024),
        custom_tflops=_plain(options.get(TFLOPS, sizes[0].slice.tflops if sizes else 1)),
        largest_mib=largest,
        denial=denial,
        trouble=trouble,
        names={
            "choice": CHOICE, "vram": VRAM, "tflops": TFLOPS, "none": NONE, "custom": CUSTOM,
            "without": WITHOUT_BUTTON,
        },
    )  # fmt: skip


def _plain(number: Any) -> str:
    """A number as a person types it: 5, not 5.0."""
    return f"{number:.12g}" if isinstance(number, int | float) else str(number)
