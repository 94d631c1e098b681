"""Who is asking: hub tokens checked with the hub, and the broker's own tokens.

The hub is the authority on people. The broker's own tokens (an admin token, a file of tokens)
serve scripts and sites without a hub; they are compared by digest and never logged.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyterhub.services.auth import HubOAuth
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from tornado.web import HTTPError

from gpu_broker import errors

USE = "custom:gpu:use"
ADMIN = "custom:gpu:admin"


@dataclass(frozen=True)
class Principal:
    """A person or service, and what they may do here."""

    name: str
    scopes: frozenset[str]

    @property
    def admin(self) -> bool:
        """May see and end everybody's leases, and lease for others."""
        return ADMIN in self.scopes

    @property
    def owner(self) -> str | None:
        """Whose leases they may touch: their own name, or None for everybody's."""
        return None if self.admin else self.name

    def may(self, scope: str) -> bool:
        """Whether they hold the scope; admin includes use."""
        return self.admin or scope in self.scopes


class TokenGrant(BaseModel):
    """One entry of the token file."""

    model_config = ConfigDict(extra="forbid")

    user: str
    scopes: list[str] = [USE]


def principal(name: str, scopes: Iterable[str]) -> Principal:
    """A principal of the hub's model. ``custom:gpu:use!user=<oneself>`` counts as ``use``."""
    held = {
        scope.removesuffix(f"!user={name}") if scope.startswith(USE) else scope for scope in scopes
    }
    return Principal(name, frozenset(held))


def read_token_file(path: Path) -> dict[str, TokenGrant]:
    """Reads ``{"<token>": {"user": "...", "scopes": ["custom:gpu:use"]}}``."""
    try:
        return TypeAdapter(dict[str, TokenGrant]).validate_json(path.read_bytes())
    except ValidationError as error:
        # The error's own text would show input, and the input is secrets.
        wrong = "; ".join(str(item["msg"]) for item in error.errors(include_input=False))
        raise ValueError(f"{path}: not a token file: {wrong}") from None


class Authenticator:
    """Turns a bearer token into a :class:`Principal`."""

    def __init__(
        self,
        hub: HubOAuth | None,
        tokens: Mapping[str, TokenGrant],
        log: logging.Logger | logging.LoggerAdapter[Any],
    ) -> None:
        self.hub = hub
        self._log = log
        self._own = {
            _digest(token): principal(grant.user, grant.scopes) for token, grant in tokens.items()
        }

    async def identify(self, authorization: str | None) -> Principal:
        """The caller behind an ``Authorization`` header; raises a 401 or 503 Refusal."""
        kind, _, token = (authorization or "").partition(" ")
        token = token.strip()
        if kind.lower() not in ("bearer", "token") or not token:
            raise _unauthorized("Send a hub token in the header `Authorization: Bearer <token>`.")
        own = self._own.get(_digest(token))
        if own is not None:
            return own
        if self.hub is None:
            raise _unauthorized("The token is not one of the broker's own, and it has no hub.")
        try:
            model = await self.hub.user_for_token(token, sync=False)
        except HTTPError as error:
            self._log.error("The hub cannot be asked about a token: %s", error)
            raise errors.unavailable(
                "The hub cannot be asked who you are; try again in a moment."
            ) from error
        if model is None:
            raise _unauthorized("The hub does not know this token, or it has expired.")
        return principal(model["name"], model.get("scopes") or ())


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def _unauthorized(detail: str) -> errors.Refusal:
    return errors.Refusal(401, "unauthorized", "Who are you?", detail)
