"""What a person asks for: no GPU, a named size, or their own numbers; read and checked.

Pure functions over form fields and the hub's ``user_options``. Whether it fits is the broker's
to say; this module knows neither the broker nor the hub.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NONE = "none"
CUSTOM = "custom"
CHOICE, VRAM, TFLOPS = "gpu", "vram_mib", "tflops"
#: A button of this name starts without a GPU, whatever else the form says.
WITHOUT_BUTTON = "start_without_gpu"

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_WHOLE = re.compile(r"[0-9]{1,12}")


class InvalidChoice(ValueError):
    """What was asked for makes no sense. ``field`` is the input at fault."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


@dataclass(frozen=True)
class Slice:
    """An amount of one GPU: VRAM in MiB, compute in TFLOPS (dense FP16)."""

    vram_mib: int
    tflops: float

    def __str__(self) -> str:
        return f"{self.vram_mib:,} MiB and {self.tflops:g} TFLOPS"


@dataclass(frozen=True)
class Size:
    """A slice that the site offers by name."""

    name: str
    label: str
    slice: Slice

    @classmethod
    def from_config(cls, entry: Mapping[str, Any]) -> Size:
        """From ``{"name": …, "label": …, "vram_mib": …, "tflops": …}``. Raises ValueError."""
        unknown = set(entry) - {"name", "label", VRAM, TFLOPS}
        if unknown:
            raise ValueError(f"a size has no option {', '.join(sorted(unknown))}")
        name = entry.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name in (NONE, CUSTOM):
            raise ValueError(
                f"a size's name is 1 to 32 of a-z, 0-9, _ and -, and not {NONE!r} or {CUSTOM!r}; "
                f"got {name!r}"
            )
        amount = Slice(_whole(VRAM, entry.get(VRAM)), _number(TFLOPS, entry.get(TFLOPS)))
        return cls(name, str(entry.get("label") or name), amount)


def read_sizes(entries: Iterable[Mapping[str, Any]]) -> list[Size]:
    """All sizes of a site. Raises ValueError that says what is wrong with which."""
    sizes = [Size.from_config(entry) for entry in entries]
    names = [size.name for size in sizes]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two sizes are named {name!r}")
    return sizes


def from_form(fields: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """``user_options`` of a submitted form, whose fields hang in lists of strings.

    Only reads text; :func:`from_options` says whether the result makes sense. Fields of the
    custom slice count only where it is chosen, because a form always sends them.
    """
    if WITHOUT_BUTTON in fields:
        return {CHOICE: NONE}
    choice = _only(fields, CHOICE)
    if choice is None:
        choice = CUSTOM if VRAM in fields or TFLOPS in fields else NONE
    if choice != CUSTOM:
        return {CHOICE: choice}
    return {
        CHOICE: CUSTOM,
        VRAM: _whole(VRAM, _text_as_number(VRAM, _only(fields, VRAM), int)),
        TFLOPS: _number(TFLOPS, _text_as_number(TFLOPS, _only(fields, TFLOPS), float)),
    }


def from_options(
    options: Mapping[str, Any], sizes: Sequence[Size], allow_custom: bool
) -> Slice | None:
    """The slice that ``user_options`` ask for, or None. Options of others are left alone.

    Raises:
        InvalidChoice: the options, which anybody may send by the hub's API, make no sense.
    """
    choice = options.get(CHOICE)
    if choice is None:
        choice = CUSTOM if VRAM in options or TFLOPS in options else NONE
    if choice == NONE:
        return None
    if choice == CUSTOM and allow_custom:
        return Slice(_whole(VRAM, options.get(VRAM)), _number(TFLOPS, options.get(TFLOPS)))
    for size in sizes:
        if size.name == choice:
            return size.slice
    offered = [NONE, *(size.name for size in sizes), *([CUSTOM] if allow_custom else [])]
    raise InvalidChoice(CHOICE, f"{_shown(choice)} is not offered; choose {', '.join(offered)}")


def _only(fields: Mapping[str, Sequence[Any]], field: str) -> str | None:
    values = fields.get(field)
    if not values:
        return None
    if len(values) != 1 or not isinstance(values[0], str):
        raise InvalidChoice(field, "send it once, as text")
    return values[0].strip()


def _text_as_number(field: str, text: str | None, kind: type[int] | type[float]) -> Any:
    if not text:
        raise InvalidChoice(field, "a custom slice needs a number here")
    try:
        if kind is int:
            return int(text) if _WHOLE.fullmatch(text) else text
        return float(text)
    except ValueError:
        return text


def _whole(field: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidChoice(field, f"a whole number of MiB from 1 on, please; got {_shown(value)}")
    return value


def _number(field: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidChoice(field, f"a number of TFLOPS, please; got {_shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or number <= 0:
        raise InvalidChoice(field, f"a number of TFLOPS above 0, please; got {_shown(value)}")
    return number


def _shown(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 40 else text[:37] + "…"
