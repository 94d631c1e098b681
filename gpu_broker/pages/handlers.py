"""The page's handlers: log in through the hub, show, and end a lease or session.

Everything shown comes from :mod:`gpu_broker.store`; rights are the caller's scopes, as in the
REST API. A form post carries the hub's XSRF token; the page works without JavaScript.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jinja2 import Environment
from jupyterhub.services.auth import (
    HubOAuth,
    HubOAuthCallbackHandler,
    HubOAuthenticated,
    UserNotAllowed,
)
from tornado.httputil import url_concat
from tornado.web import HTTPError, RequestHandler

from gpu_broker import errors, models
from gpu_broker.rest.api import Parts
from gpu_broker.rest.auth import USE, Principal, principal
from gpu_broker.rest.sessions import end_session

FRAGMENT = "X-Carrel-Fragment"
MAX_ROWS = 500


@dataclass(frozen=True)
class Person:
    """What the hub's ``page.html`` wants to know about who is logged in."""

    name: str

    @property
    def json_escaped_name(self) -> str:
        return self.name.replace("<", "\\u003c").replace('"', "\\u0022")


class _HubPage(HubOAuthenticated, RequestHandler):  # type: ignore[misc]
    """What the page and the OAuth callback share: the broker's one HubOAuth."""

    hub_auth_class = HubOAuth

    @property
    def parts(self) -> Parts:
        parts: Parts = self.settings["parts"]
        return parts

    @property
    def hub_auth(self) -> HubOAuth:
        hub = self.parts.auth.hub
        if hub is None:
            raise HTTPError(503, "This broker has no hub to log in with; use its REST API.")
        return hub

    def set_default_headers(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "same-origin")
        self.set_header("Content-Security-Policy", "frame-ancestors 'none'; base-uri 'self'")


class Page(_HubPage):
    """A page for one who is logged in; ``self.caller`` is who."""

    caller: Principal

    async def prepare(self) -> None:
        model = await self.hub_auth.get_user(self, sync=False)
        try:
            self._hub_auth_user_cache = model and self.check_hub_user(model)
        except UserNotAllowed as error:
            raise HTTPError(403, "You have no access to this service of the hub.") from error
        if not model:
            if self.request.method == "GET" and FRAGMENT not in self.request.headers:
                self.redirect(self.get_login_url())
                return
            raise HTTPError(401, "You are no longer logged in; load the page again.")
        self.caller = principal(model["name"], model.get("scopes") or ())
        if not self.caller.may(USE):
            raise HTTPError(
                403,
                f"{self.caller.name} does not hold the scope {USE}; an administrator of the hub "
                "can grant it with a role.",
            )

    def show(self, template: str, **values: Any) -> None:
        """Renders a template with what the hub's own page needs."""
        templates: Environment = self.settings["templates"]
        hub = self.hub_auth
        hub_prefix = hub.hub_host + hub.hub_prefix

        def static_url(path: str, include_version: bool = True) -> str:
            return f"{hub_prefix}static/{path}"

        self.finish(
            templates.get_template(template).render(
                base_url=hub_prefix,
                logo_url=hub_prefix,
                logout_url=f"{hub_prefix}logout",
                login_url=f"{hub_prefix}login",
                static_url=static_url,
                no_spawner_check=True,
                user=Person(self.caller.name) if hasattr(self, "caller") else None,
                xsrf_token=self.xsrf_token.decode(),
                broker_url=self.parts.prefix,
                version=self.parts.version,
                **values,
            )
        )

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, errors.Refusal):
            self.set_status(error.status)
            text = error.detail
        elif isinstance(error, HTTPError) and error.log_message:
            text = error.log_message
        else:
            text = "The GPU broker has a fault; its log says more."
        if self.parts.auth.hub is None or FRAGMENT in self.request.headers:
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            self.finish(text)
            return
        self.show("carrel_error.html", text=text, status=self.get_status())

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:
        if not isinstance(value, errors.Refusal):
            super().log_exception(typ, value, tb)


class PoolHandler(Page):
    """The page. With the header ``X-Carrel-Fragment`` only what changes, for the live view."""

    async def get(self) -> None:
        parts = self.parts
        if not self.request.path.endswith("/"):
            self.redirect(parts.prefix)
            return
        owner = self.caller.owner
        page = await parts.threads.run(parts.leases.page, owner, None, None, MAX_ROWS, live=True)
        sessions = await parts.threads.run(parts.leases.sessions, owner)
        nodes: list[models.Node] = []
        if self.caller.admin:
            nodes = await parts.threads.run(parts.store.nodes, parts.fleet.online())
        fragment = FRAGMENT in self.request.headers
        self.show(
            "carrel_fragment.html" if fragment else "carrel_pool.html",
            admin=self.caller.admin,
            leases=page.items,
            more=page.next_cursor is not None,
            sessions=sessions[:MAX_ROWS],
            nodes=nodes,
            capacity=await parts.threads.run(parts.leases.capacity),
            quota=await parts.threads.run(parts.leases.quota, self.caller.name),
            notice=NOTICES.get(self.get_query_argument("done", "")),
        )


NOTICES = {
    "leases": "The lease is ended. Its programs get an error at their next GPU call.",
    "sessions": "The session is ended. Its lease stays.",
}


class EndHandler(Page):
    """Ends a lease or a session from a button of the page."""

    async def post(self, kind: str, id: str) -> None:
        parts = self.parts
        if kind == "leases":
            lease = await parts.threads.run(parts.leases.get, id, self.caller.owner)
            own = lease.user == self.caller.name
            message = None if own else f"Ended by {self.caller.name}; ask them why."
            await parts.threads.run(
                parts.leases.end,
                self.caller.name,
                id,
                self.caller.owner,
                "released" if own else "reclaimed",
                message,
            )
            parts.wake()
        else:
            await end_session(parts, self.caller, id)
        self.redirect(url_concat(parts.prefix, {"done": kind}), status=303)


class CallbackHandler(_HubPage, HubOAuthCallbackHandler):  # type: ignore[misc]
    """Where the hub sends people back to after they logged in."""
