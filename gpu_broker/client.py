"""The broker's REST client, sync and async: the one way other Python code talks to the broker.

Knows the API's models and HTTP, nothing of the broker's inside. ``url`` is where the service
is served, e.g. ``http://127.0.0.1:8000/services/gpu``; ``token`` a hub token or one of the
broker's own. Tokens travel in a header only, never in a URL.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from gpu_broker.models import (
    Capacity,
    Credentials,
    GpuRef,
    Health,
    Lease,
    LeasePage,
    LeaseState,
    Node,
    NodeList,
    Problem,
    Quota,
    Session,
    SessionList,
)

T = TypeVar("T", bound=BaseModel)
DEFAULT_TIMEOUT_S = 10.0
POLL_S = 0.1


class BrokerError(Exception):
    """The broker said no, or could not be asked.

    ``status`` is the HTTP status (0: no answer), ``code`` a word for programs (``gpu_quota``,
    ``gpu_capacity``, ``invalid``, …), ``detail`` a sentence for people, ``field`` the input
    at fault, if one is.
    """

    def __init__(self, status: int, code: str, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.field = field


class Denied(BrokerError):
    """The request was understood and refused: no quota, no capacity, no permission, bad input."""


class NotFound(BrokerError):
    """There is no such thing, or it is not yours to see."""


class Unavailable(BrokerError):
    """The broker does not answer or has a fault of its own; asking again later may help."""


@dataclass(frozen=True)
class _Request(Generic[T]):
    """One call: how to ask, and the model of the answer."""

    method: str
    path: str
    answer: type[T]
    params: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "url": self.path,
            "params": dict(self.params),
            "json": None if self.body is None else dict(self.body),
            "headers": dict(self.headers),
        }

    def read(self, response: httpx.Response) -> T:
        if response.is_success:
            try:
                return self.answer.model_validate_json(response.content)
            except ValidationError as error:
                raise Unavailable(
                    response.status_code,
                    "not_a_broker",
                    f"{response.request.url} answered, but not as a Carrel broker does: {error}",
                ) from error
        raise _error(response)


def _error(response: httpx.Response) -> BrokerError:
    status = response.status_code
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        problem = Problem(
            title=response.reason_phrase,
            status=status,
            code="unavailable" if status >= 500 else "http",
            detail=f"The GPU broker at {response.request.url.host} answered HTTP {status}.",
        )
    kind = NotFound if status == 404 else Unavailable if status >= 500 else Denied
    return kind(status, problem.code, problem.detail, problem.field)


def _unreachable(url: str, error: httpx.HTTPError) -> Unavailable:
    return Unavailable(
        0,
        "unreachable",
        f"The GPU broker at {url} does not answer ({type(error).__name__}: {error}).",
    )


def _some(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


class _Api:
    """Builds the requests; what the sync and async clients have in common."""

    def __init__(self, url: str, token: str | None, timeout_s: float) -> None:
        self.url = url.rstrip("/")
        self._options: dict[str, Any] = {
            "base_url": self.url + "/",
            "timeout": timeout_s,
            "follow_redirects": False,
            "headers": {"Authorization": f"Bearer {token}"} if token else {},
        }

    def _capacity(self) -> _Request[Capacity]:
        return _Request("GET", "api/v1/capacity", Capacity)

    def _quota(self, user: str | None) -> _Request[Quota]:
        return _Request("GET", "api/v1/quota", Quota, params=_some(user=user))

    def _slice(
        self,
        vram_mib: int,
        tflops: float,
        user: str | None,
        server_name: str,
        ttl_s: float | None,
        name: str | None,
    ) -> dict[str, Any]:
        return _some(
            vram_mib=vram_mib,
            tflops=tflops,
            user=user,
            server_name=server_name,
            ttl_s=ttl_s,
            name=name,
        )

    def _create(self, body: Mapping[str, Any], key: str | None) -> _Request[Lease]:
        headers = {"Idempotency-Key": key or secrets.token_urlsafe(24)}
        return _Request("POST", "api/v1/leases", Lease, body=body, headers=headers)

    def _check(self, body: Mapping[str, Any]) -> _Request[GpuRef]:
        return _Request("POST", "api/v1/leases/check", GpuRef, body=body)

    def _lease(self, id: str, method: str = "GET") -> _Request[Lease]:
        return _Request(method, f"api/v1/leases/{quote(id, safe='')}", Lease)

    def _leases(
        self, user: str | None, state: LeaseState | None, cursor: str | None
    ) -> _Request[LeasePage]:
        params = _some(user=user, state=state, cursor=cursor)
        return _Request("GET", "api/v1/leases", LeasePage, params=params)

    def _heartbeat(self, id: str, ttl_s: float | None) -> _Request[Lease]:
        path = f"api/v1/leases/{quote(id, safe='')}/heartbeat"
        return _Request("POST", path, Lease, body=_some(ttl_s=ttl_s))

    def _credentials(self, id: str) -> _Request[Credentials]:
        path = f"api/v1/leases/{quote(id, safe='')}/credentials"
        return _Request("GET", path, Credentials)

    def _sessions(self) -> _Request[SessionList]:
        return _Request("GET", "api/v1/sessions", SessionList)

    def _end_session(self, id: str) -> _Request[Session]:
        return _Request("DELETE", f"api/v1/sessions/{quote(id, safe='')}", Session)

    def _nodes(self) -> _Request[NodeList]:
        return _Request("GET", "api/v1/nodes", NodeList)

    def _health(self) -> _Request[Health]:
        return _Request("GET", "health", Health)

    @staticmethod
    def _settled(lease: Lease, deadline: float, timeout_s: float) -> bool:
        """True once the lease is active; raises when it never will be, or not in time."""
        if lease.state in ("active", "idle"):
            return True
        why = f": {lease.message}" if lease.message else "."
        if lease.state == "ended":
            raise Denied(409, "lease_ended", f"The lease ended ({lease.reason}){why}")
        if time.monotonic() >= deadline:
            raise Unavailable(
                0,
                "lease_waits",
                f"Node {lease.gpu.node} did not let the lease in within {timeout_s:g} s{why}",
            )
        return False


class BrokerClient(_Api):
    """Talks to the broker, blocking. Close it, or use it as a context manager."""

    def __init__(
        self, url: str, token: str | None = None, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> None:
        super().__init__(url, token, timeout_s)
        self._http = httpx.Client(**self._options)

    def _ask(self, request: _Request[T]) -> T:
        try:
            response = self._http.request(**request.arguments())
        except httpx.HTTPError as error:
            raise _unreachable(self.url, error) from error
        return request.read(response)

    def capacity(self) -> Capacity:
        """What the pool has and what is free."""
        return self._ask(self._capacity())

    def quota(self, user: str | None = None) -> Quota:
        """Limits and use of ``user`` (default: the token's owner)."""
        return self._ask(self._quota(user))

    def check_lease(
        self,
        vram_mib: int,
        tflops: float,
        *,
        user: str | None = None,
        server_name: str = "",
    ) -> GpuRef:
        """The GPU such a lease would get now; raises as :meth:`create_lease`. Takes nothing."""
        return self._ask(self._check(self._slice(vram_mib, tflops, user, server_name, None, None)))

    def create_lease(
        self,
        vram_mib: int,
        tflops: float,
        *,
        user: str | None = None,
        server_name: str = "",
        ttl_s: float | None = None,
        name: str | None = None,
        idempotency_key: str | None = None,
    ) -> Lease:
        """Takes a slice; replaces an unended lease of the same user and server.

        The same ``idempotency_key`` again returns the lease made the first time.
        Raises :class:`Denied` with code ``gpu_quota``, ``gpu_capacity`` or ``invalid``.
        """
        body = self._slice(vram_mib, tflops, user, server_name, ttl_s, name)
        return self._ask(self._create(body, idempotency_key))

    def lease(self, id: str) -> Lease:
        """One lease, with its sessions."""
        return self._ask(self._lease(id))

    def leases(self, user: str | None = None, state: LeaseState | None = None) -> list[Lease]:
        """All leases one may see, newest first; follows the pages."""
        page = self._ask(self._leases(user, state, None))
        items = list(page.items)
        while page.next_cursor is not None:
            page = self._ask(self._leases(user, state, page.next_cursor))
            items += page.items
        return items

    def wait_active(self, id: str, timeout_s: float = 30.0) -> Lease:
        """Waits until the node let the lease in. Raises Denied (it ended) or Unavailable (time)."""
        deadline = time.monotonic() + timeout_s
        while True:
            lease = self.lease(id)
            if self._settled(lease, deadline, timeout_s):
                return lease
            time.sleep(POLL_S)

    def heartbeat(self, id: str, ttl_s: float | None = None) -> Lease:
        """Extends the lease to ``ttl_s`` seconds from now. Raises Denied (409) once it ended."""
        return self._ask(self._heartbeat(id, ttl_s))

    def credentials(self, id: str) -> Credentials:
        """What a program needs to attach; Denied (409) until the lease is active."""
        return self._ask(self._credentials(id))

    def end_lease(self, id: str) -> Lease:
        """Ends the lease and its sessions. May be repeated."""
        return self._ask(self._lease(id, "DELETE"))

    def sessions(self) -> list[Session]:
        """All sessions one may see."""
        return self._ask(self._sessions()).items

    def end_session(self, id: str) -> Session:
        """Ends one program's session; the lease stays."""
        return self._ask(self._end_session(id))

    def nodes(self) -> list[Node]:
        """All nodes, with measured use. Needs custom:gpu:admin."""
        return self._ask(self._nodes()).items

    def health(self) -> Health:
        """Whether the broker works; needs no token."""
        return self._ask(self._health())

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncBrokerClient(_Api):
    """Talks to the broker from a coroutine; methods as in :class:`BrokerClient`."""

    def __init__(
        self, url: str, token: str | None = None, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> None:
        super().__init__(url, token, timeout_s)
        self._http = httpx.AsyncClient(**self._options)

    async def _ask(self, request: _Request[T]) -> T:
        try:
            response = await self._http.request(**request.arguments())
        except httpx.HTTPError as error:
            raise _unreachable(self.url, error) from error
        return request.read(response)

    async def capacity(self) -> Capacity:
        return await self._ask(self._capacity())

    async def quota(self, user: str | None = None) -> Quota:
        return await self._ask(self._quota(user))

    async def check_lease(
        self,
        vram_mib: int,
        tflops: float,
        *,
        user: str | None = None,
        server_name: str = "",
    ) -> GpuRef:
        return await self._ask(
            self._check(self._slice(vram_mib, tflops, user, server_name, None, None))
        )

    async def create_lease(
        self,
        vram_mib: int,
        tflops: float,
        *,
        user: str | None = None,
        server_name: str = "",
        ttl_s: float | None = None,
        name: str | None = None,
        idempotency_key: str | None = None,
    ) -> Lease:
        body = self._slice(vram_mib, tflops, user, server_name, ttl_s, name)
        return await self._ask(self._create(body, idempotency_key))

    async def lease(self, id: str) -> Lease:
        return await self._ask(self._lease(id))

    async def leases(self, user: str | None = None, state: LeaseState | None = None) -> list[Lease]:
        page = await self._ask(self._leases(user, state, None))
        items = list(page.items)
        while page.next_cursor is not None:
            page = await self._ask(self._leases(user, state, page.next_cursor))
            items += page.items
        return items

    async def wait_active(self, id: str, timeout_s: float = 30.0) -> Lease:
        deadline = time.monotonic() + timeout_s
        while True:
            lease = await self.lease(id)
            if self._settled(lease, deadline, timeout_s):
                return lease
            await asyncio.sleep(POLL_S)

    async def heartbeat(self, id: str, ttl_s: float | None = None) -> Lease:
        return await self._ask(self._heartbeat(id, ttl_s))

    async def credentials(self, id: str) -> Credentials:
        return await self._ask(self._credentials(id))

    async def end_lease(self, id: str) -> Lease:
        return await self._ask(self._lease(id, "DELETE"))

    async def sessions(self) -> list[Session]:
        return (await self._ask(self._sessions())).items

    async def end_session(self, id: str) -> Session:
        return await self._ask(self._end_session(id))

    async def nodes(self) -> list[Node]:
        return (await self._ask(self._nodes())).items

    async def health(self) -> Health:
        return await self._ask(self._health())

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
