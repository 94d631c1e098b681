"""One call that puts Carrel into a hub's configuration.

    from hub_plugin import configure

    c = get_config()
    c.Authenticator.admin_users = {"admin"}
    configure(c, sizes=[{"name": "small", "label": "Small", "vram_mib": 2048, "tflops": 5}])

Call it last: it adds to the roles, services and template paths that are there. It knows the
hub's options and those of the spawner and the broker; it starts nothing.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from traitlets.config import Config
from traitlets.config.loader import LazyConfigValue

from hub_plugin.slices import read_sizes

USE, ADMIN = "custom:gpu:use", "custom:gpu:admin"
SERVICE = "gpu"
SPAWNER = "gpu-spawner"
TEMPLATES = Path(__file__).parent / "templates"

SCOPES = {
    ADMIN: {
        "description": "See and end everybody's GPU leases and sessions, and lease for others",
        "subscopes": [USE],
    },
    USE: {"description": "Lease slices of GPUs for oneself, and see and end one's own leases"},
}


def configure(
    c: Config,
    *,
    sizes: Iterable[Mapping[str, Any]] = (),
    allow_custom: bool = True,
    lease_ttl_s: float = 180.0,
    admins: Iterable[str] = (),
    admin_groups: Iterable[str] = (),
    broker_url: str | None = None,
    broker_port: int = 8095,
    broker_arguments: Sequence[str] = (),
    service_token: str | None = None,
    spawner_token: str | None = None,
    spawner_class: Any = "hub_plugin.spawner.CarrelLocalSpawner",
) -> None:
    """Wires broker service, scopes, roles, spawner and spawn page into ``c``.

    Args:
        sizes: slices offered by name: ``{"name": "small", "label": "Small", "vram_mib": 2048,
            "tflops": 5}``, VRAM in MiB and compute in TFLOPS.
        allow_custom: whether people may type their own numbers.
        lease_ttl_s: seconds a lease outlives a hub that is gone.
        admins: people who see and steer the whole pool, besides ``Authenticator.admin_users``.
        admin_groups: hub groups of such people.
        broker_url: where a broker that you run yourself is served, e.g. ``http://gpu:8095``;
            None: the hub starts one on ``broker_port`` of loopback, in its own directory.
        broker_arguments: further arguments for the broker that the hub starts, such as
            ``["--config", "/etc/carrel/broker.py"]``. No secrets.
        service_token: the broker's hub token, which a broker of your own needs as its
            ``JUPYTERHUB_API_TOKEN``. Default: ``$CARREL_SERVICE_TOKEN``; for a broker that the
            hub starts, a fresh one.
        spawner_token: the token by which the spawner takes leases. Default:
            ``$CARREL_BROKER_TOKEN``, else a fresh one.
        spawner_class: a spawner with :class:`~hub_plugin.spawner.GPULeaseMixin`.

    Raises:
        ValueError: a size or a token is wrong, or the broker's token is missing.
    """
    sizes = [dict(size) for size in sizes]
    read_sizes(sizes)
    service_token = service_token or os.environ.get("CARREL_SERVICE_TOKEN")
    spawner_token = spawner_token or os.environ.get("CARREL_BROKER_TOKEN")
    if broker_url is not None and not service_token:
        raise ValueError(
            "a broker of your own needs service_token (or $CARREL_SERVICE_TOKEN), the same as its "
            "JUPYTERHUB_API_TOKEN"
        )
    spawner_token = spawner_token or secrets.token_hex(32)
    service: dict[str, Any] = {
        "name": SERVICE,
        "display": True,
        "api_token": service_token or secrets.token_hex(32),
        "oauth_no_confirm": True,
        # The hub passes on to the broker what a person holds of these, and nothing else.
        "oauth_client_allowed_scopes": [USE, ADMIN],
    }
    if broker_url is None:
        service["url"] = f"http://127.0.0.1:{broker_port}"
        service["command"] = [
            sys.executable, "-m", "hub_plugin.tether",
            sys.executable, "-m", "gpu_broker.app", *broker_arguments,
        ]  # fmt: skip
    else:
        parts = urlparse(broker_url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"broker_url: {broker_url!r} is no URL like http://host:8095")
        service["url"] = f"{parts.scheme}://{parts.netloc}"

    hub = c.JupyterHub
    hub.services = [
        *_given(hub, "services", []),
        service,
        {"name": SPAWNER, "api_token": spawner_token},
    ]
    hub.custom_scopes = {**_given(hub, "custom_scopes", {}), **SCOPES}
    everywhere = {*admins, *_given(c.Authenticator, "admin_users", set())}
    hub.load_roles = _roles(_given(hub, "load_roles", []), sorted(everywhere), sorted(admin_groups))
    hub.template_paths = [*_given(hub, "template_paths", []), str(TEMPLATES)]
    hub.spawner_class = spawner_class
    c.GPULeaseMixin.broker_url = f"{service['url']}/services/{SERVICE}"
    c.GPULeaseMixin.broker_token = spawner_token
    c.GPULeaseMixin.gpu_sizes = sizes
    c.GPULeaseMixin.allow_custom_gpu = allow_custom
    c.GPULeaseMixin.gpu_lease_ttl_s = lease_ttl_s


def _given(section: Any, name: str, empty: Any) -> Any:
    """What the configuration says so far; also where it only says what to append."""
    value = section.get(name, empty)
    return value.get_value(type(empty)()) if isinstance(value, LazyConfigValue) else value


def _roles(
    given: Iterable[Mapping[str, Any]], admins: list[str], groups: list[str]
) -> list[dict[str, Any]]:
    """The site's roles and Carrel's. Everybody's role, ``user``, is added to, not replaced."""
    roles = [dict(role) for role in given]
    for_everybody = next((role for role in roles if role["name"] == "user"), None)
    if for_everybody is None:
        for_everybody = {"name": "user", "scopes": ["self"]}
        roles.append(for_everybody)
    scopes = list(for_everybody.get("scopes", ()))
    scopes += [s for s in (USE, f"access:services!service={SERVICE}") if s not in scopes]
    for_everybody["scopes"] = scopes
    return [
        *roles,
        {
            "name": "gpu-admin",
            "description": "Sees and steers the GPU pool",
            "scopes": [ADMIN],
            "users": admins,
            "groups": groups,
        },
        {
            "name": SPAWNER,
            "description": "Takes GPU leases for people whose servers start",
            "scopes": [ADMIN],
            "services": [SPAWNER],
        },
    ]
