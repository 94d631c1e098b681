"""The templates: the broker's own, on top of the hub's ``page.html`` so that both look the same."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, FileSystemLoader
from jupyterhub._data import DATA_FILES_PATH

from gpu_broker import units

OWN = Path(__file__).parent.parent / "templates"


def environment(template_paths: Sequence[str] = ()) -> Environment:
    """Looks in the site's paths, then the broker's, then the hub's. Everything is escaped."""
    hub = Path(DATA_FILES_PATH) / "templates"
    loader = ChoiceLoader(
        [FileSystemLoader(list(template_paths)), FileSystemLoader(OWN), FileSystemLoader(hub)]
    )
    templates = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    templates.filters.update(
        mib=units.mib,
        tflops=units.tflops,
        memory=units.memory,
        duration=units.duration,
        ago=lambda at: units.duration((datetime.now(UTC) - at).total_seconds()),
        until=lambda at: units.duration((at - datetime.now(UTC)).total_seconds()),
        moment=lambda at: at.strftime("%Y-%m-%d %H:%M:%S UTC"),
    )
    return templates
