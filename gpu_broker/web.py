"""The web application: one table of routes for the REST API, the pages and static files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tornado.web import Application, StaticFileHandler

from gpu_broker.pages.handlers import CallbackHandler, EndHandler, PoolHandler
from gpu_broker.pages.templates import environment
from gpu_broker.rest.api import Handler, NoSuchPage, Parts
from gpu_broker.rest.health import HealthHandler, MetricsHandler
from gpu_broker.rest.leases import (
    CredentialsHandler,
    HeartbeatHandler,
    LeaseCheckHandler,
    LeaseHandler,
    LeasesHandler,
)
from gpu_broker.rest.openapi import OpenApiHandler, document
from gpu_broker.rest.pool import CapacityHandler, NodesHandler, QuotaHandler
from gpu_broker.rest.sessions import SessionHandler, SessionsHandler

STATIC = Path(__file__).parent / "static"

REST: list[tuple[str, type[Handler]]] = [
    ("health", HealthHandler),
    ("api/v1/capacity", CapacityHandler),
    ("api/v1/quota", QuotaHandler),
    ("api/v1/leases", LeasesHandler),
    ("api/v1/leases/check", LeaseCheckHandler),
    ("api/v1/leases/{id}", LeaseHandler),
    ("api/v1/leases/{id}/heartbeat", HeartbeatHandler),
    ("api/v1/leases/{id}/credentials", CredentialsHandler),
    ("api/v1/sessions", SessionsHandler),
    ("api/v1/sessions/{id}", SessionHandler),
    ("api/v1/nodes", NodesHandler),
]


def application(parts: Parts, cookie_secret: bytes, template_paths: list[str]) -> Application:
    """The application, served under ``parts.prefix``."""
    prefix = re.escape(parts.prefix)

    def at(path: str) -> str:
        return prefix + path.replace("{id}", r"([A-Za-z0-9_-]{1,64})") + "/?"

    rest = [(at(path), handler) for path, handler in REST]
    other: list[Any] = [
        (at("api/v1/openapi.json"), OpenApiHandler),
        (at("metrics"), MetricsHandler),
        (prefix + "static/(.*)", StaticFileHandler, {"path": str(STATIC)}),
        (at("oauth_callback"), CallbackHandler),
        (prefix + r"(leases|sessions)/([A-Za-z0-9_-]{1,64})/end", EndHandler),
        (prefix, PoolHandler),
        (prefix.removesuffix("/"), PoolHandler),
    ]
    return Application(
        [*rest, *other],
        default_handler_class=NoSuchPage,
        parts=parts,
        templates=environment(template_paths),
        openapi=document(REST, parts.prefix, parts.version),
        cookie_secret=cookie_secret,
        xsrf_cookies=True,
        log_function=lambda handler: _log(parts, handler),
    )


def _log(parts: Parts, handler: Any) -> None:
    """One line per request: method, path without its query (it may hold an OAuth code), status."""
    request = handler.request
    status = handler.get_status()
    level = parts.log.warning if status >= 500 else parts.log.debug
    level("%d %s %s %.1f ms", status, request.method, request.path, 1000 * request.request_time())
