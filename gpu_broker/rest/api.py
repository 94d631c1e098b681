"""What all REST handlers share: operations with typed models, authentication, problem+json.

An :class:`Operation` says everything about a method: who may call it, what goes in and out. The
same object validates requests, writes answers, and becomes the OpenAPI document, so the three
cannot disagree. Handlers take ``Authorization`` headers only, never cookies: no XSRF is possible.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Concatenate, ParamSpec, TypeVar

from pydantic import BaseModel, ValidationError
from tornado.web import HTTPError, RequestHandler

from gpu_broker import errors
from gpu_broker.fleet.server import FleetServer
from gpu_broker.models import Problem
from gpu_broker.rest.auth import Authenticator, Principal
from gpu_broker.store.database import Database
from gpu_broker.store.fleet import FleetStore
from gpu_broker.store.leases import Leases
from gpu_broker.threads import Threads

P = ParamSpec("P")
H = TypeVar("H", bound="Handler")

MAX_BODY_BYTES = 64 * 1024


@dataclass(frozen=True)
class Parts:
    """What handlers work with. ``wake`` tells the reconcile loop that there is work."""

    database: Database
    leases: Leases
    store: FleetStore
    fleet: FleetServer
    threads: Threads
    auth: Authenticator
    wake: Callable[[], None]
    version: str
    prefix: str
    log: logging.Logger | logging.LoggerAdapter[Any]


@dataclass(frozen=True)
class Operation:
    """One method of one resource. ``scope`` None: no token needed."""

    summary: str
    answer: type[BaseModel]
    scope: str | None
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)  # request headers: name → description
    refusals: tuple[int, ...] = ()


def operation(
    op: Operation,
) -> Callable[
    [Callable[Concatenate[H, P], Awaitable[BaseModel]]],
    Callable[Concatenate[H, P], Awaitable[None]],
]:
    """Makes a handler's method an operation; it returns its answer as a model.

    The method finds the caller in ``self.caller``, and parsed input in ``self.body`` and
    ``self.query``.
    """

    def wrap(
        method: Callable[Concatenate[H, P], Awaitable[BaseModel]],
    ) -> Callable[Concatenate[H, P], Awaitable[None]]:
        @functools.wraps(method)
        async def handle(self: H, *args: P.args, **kwargs: P.kwargs) -> None:
            await self.admit(op)
            answer = await method(self, *args, **kwargs)
            self.set_status(op.status)
            self.set_header("Content-Type", "application/json")
            self.finish(answer.model_dump_json())

        handle.operation = op  # type: ignore[attr-defined]
        return handle  # type: ignore[return-value]

    return wrap


class Handler(RequestHandler):
    """Base of the REST handlers: turns every error into problem+json."""

    caller: Principal
    body: Any
    query: Any

    @property
    def parts(self) -> Parts:
        parts: Parts = self.settings["parts"]
        return parts

    def check_xsrf_cookie(self) -> None:
        """No cookie is ever read here."""

    def set_default_headers(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")

    async def admit(self, op: Operation) -> None:
        """Checks the caller's scope, then the input."""
        if op.scope is not None:
            self.caller = await self.parts.auth.identify(self.request.headers.get("Authorization"))
            if not self.caller.may(op.scope):
                raise errors.forbidden(
                    f"{self.caller.name} does not hold the scope {op.scope}; "
                    "an administrator of the hub can grant it with a role."
                )
        if op.query is not None:
            self.query = self._parse_query(op.query)
        if op.body is not None:
            self.body = self._parse_body(op.body)

    def _parse_query(self, model: type[BaseModel]) -> BaseModel:
        given = {name: self.get_query_argument(name) for name in self.request.query_arguments}
        try:
            return model.model_validate(given)
        except ValidationError as error:
            raise _invalid(error) from error

    def _parse_body(self, model: type[BaseModel]) -> BaseModel:
        try:
            return model.model_validate_json(self.request.body or b"{}")
        except ValidationError as error:
            raise _invalid(error) from error

    def header(self, name: str, max_length: int = 255) -> str | None:
        """An optional request header of printable characters."""
        value = self.request.headers.get(name)
        if value is None:
            return None
        if not (0 < len(value) <= max_length and value.isprintable()):
            raise errors.invalid(name, f"{name} must be 1 to {max_length} printable characters.")
        return value

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, errors.Refusal):
            problem = Problem(
                title=error.title,
                status=error.status,
                code=error.code,
                detail=error.detail,
                field=error.field,
            )
        else:
            problem = _plain(status_code, error)
        self.set_status(problem.status)
        if problem.status == 401:
            self.set_header("WWW-Authenticate", "Bearer")
        self.set_header("Content-Type", "application/problem+json")
        self.finish(problem.model_dump_json(exclude_none=True))

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:
        """Refusals are answers, not faults."""
        if not isinstance(value, errors.Refusal):
            super().log_exception(typ, value, tb)


class NoSuchPage(Handler):
    """Everything that is not there."""

    async def prepare(self) -> None:
        raise HTTPError(404)


def _plain(status: int, error: BaseException | None) -> Problem:
    title = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Error"
    if status >= 500:
        detail = "The broker has a fault; its log says more. Trying again may help."
    elif status == 404:
        detail = "There is nothing at this address; see api/v1/openapi.json."
    else:
        detail = getattr(error, "log_message", None) or title
    return Problem(title=title, status=status, code=title.lower().replace(" ", "_"), detail=detail)


def _invalid(error: ValidationError) -> errors.Refusal:
    problems = [
        (
            ".".join(str(part) for part in item["loc"]),
            # The only pattern there is (gpu_broker.models) forbids them.
            "must not contain control characters"
            if item["type"] == "string_pattern_mismatch"
            else item["msg"],
            item.get("input"),
        )
        for item in error.errors(include_url=False, include_context=False)
    ]
    sentences = []
    for name, message, given in problems[:5]:
        shown = _shown(given)
        sentences.append(f"{name or 'body'}: {message}" + (f" (got {shown})" if shown else ""))
    return errors.invalid(problems[0][0] or "body", "; ".join(sentences))


def _shown(given: object) -> str:
    """The input as it came, if it is short and says something."""
    if isinstance(given, (dict, list, bytes)):
        return ""
    try:
        text = json.dumps(given)
    except (TypeError, ValueError):
        return ""
    return text if len(text) <= 80 else text[:77] + "…"
