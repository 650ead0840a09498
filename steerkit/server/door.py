"""The door: who may come in, and a line in the log for each who came."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steerkit.audit import new_id
from steerkit.hosts import host_of, is_of_host
from steerkit.server.errors import ApiError
from steerkit.server.keys import ANYBODY, Key, Keys
from steerkit.server.log import log, log_failure
from steerkit.server.metrics import Metrics
from steerkit.server.options import UI, Options

_OPEN: Final = ("/health", "/ready")
"""Paths that need no key."""
_UNCOUNTED: Final = (*_OPEN, "/metrics")
"""Paths that no key's limits count."""
_HEADERS: Final = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
}
GONE: Final = 499
"""Status in the log of a request whose asker went away."""


@dataclass
class Visit:
    """A request at the door."""

    id: str = field(default_factory=new_id)
    key: Key = ANYBODY
    said: dict[str, Any] = field(default_factory=dict)
    """For its line in the log."""
    status: int = 0
    """Of the answer; 0 before it begins."""


def visit_of(request: Request) -> Visit:
    """The visit of a request."""
    found: Visit = request.scope["steerkit.visit"]
    return found


class Door:
    """Checks host, origin and key of each request before anything of it is read, and logs how it ended."""

    def __init__(self, app: ASGIApp, options: Options, keys: Keys, metrics: Metrics) -> None:
        self._app, self._hosts, self._keys, self._metrics = app, options.hosts, keys, metrics
        self._origins = {one.rstrip("/").lower() for one in options.allowed_origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit, began = Visit(), time.monotonic()
        scope["steerkit.visit"] = visit

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                visit.status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in {"x-request-id": visit.id, **_HEADERS}.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._let_in(scope, receive, answer, visit)
        except Exception as error:
            log_failure("request failed", {"request": visit.id, "path": scope["path"]}, error)
            if not visit.status:
                await error_response(ApiError.of(error))(scope, receive, answer)
        finally:
            self._close(scope, visit, time.monotonic() - began)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send, visit: Visit) -> None:
        page = f"{scope['path']}/".startswith(f"{UI}/")
        counted = scope["path"] not in _UNCOUNTED and not page
        try:
            self._check_names(Headers(scope=scope))
            if scope["path"] not in _OPEN:
                visit.key = self._holder(Headers(scope=scope), page)
            usage = self._keys.usage_of(visit.key)
            wait = usage.wait(visit.key) if counted else None
        except ApiError as error:
            await error_response(error)(scope, receive, send)
            return
        if wait is not None:
            await error_response(too_many("the key's limit is reached", wait))(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            usage.running -= counted

    def _check_names(self, headers: Headers) -> None:
        """Refuse names that are not the server's: pages of other sites reach it under theirs. Raises ApiError."""
        host, name = host_of(headers)
        if self._hosts is not None and name not in self._hosts:
            raise ApiError(403, f"host: got {host[:80]!r}, which is no name of this server", code="host_not_allowed")
        origin = headers.get("origin", "").lower()
        if origin and origin not in self._origins and not is_of_host(origin, host):
            raise ApiError(
                403, f"origin: got {origin[:80]!r}, which may not call this server", code="origin_not_allowed"
            )

    def _holder(self, headers: Headers, page: bool) -> Key:
        scheme, _, said = headers.get("authorization", "").partition(" ")
        given = said.strip() if scheme.lower() == "bearer" else _password(said) if page else None
        holder = self._keys.holder(given)
        if holder is None:
            raise ApiError(
                401,
                "authorization: got no key that is known here, expected `Bearer KEY`",
                code="invalid_api_key",
                headers={"www-authenticate": 'Basic realm="steerkit: a key as the password"' if page else "Bearer"},
            )
        return holder

    def _close(self, scope: Scope, visit: Visit, seconds: float) -> None:
        status = visit.status or GONE
        if status >= HTTPStatus.BAD_REQUEST:
            self._metrics.refused(status)
        said = {"method": scope["method"], "path": scope["path"], "status": status, "seconds": round(seconds, 4)}
        who = {"key": visit.key.name} if visit.key.name else {}
        log("request", {"request": visit.id, **said, **who, **visit.said})


def _password(said: str) -> str | None:
    """The password of what a browser sends after `Basic`; None where it is none."""
    try:
        return base64.b64decode(said, validate=True).decode().partition(":")[2]
    except ValueError:
        return None


def error_response(error: ApiError) -> JSONResponse:
    """The answer of an error."""
    return JSONResponse(error.body(), error.status, headers=dict(error.headers))


def too_many(why: str, seconds: float) -> ApiError:
    """The answer to a request that is to come again after a while."""
    wait = max(1, round(seconds + 0.5))
    said = f"{why}; come again in {wait} s"
    return ApiError(429, said, code="rate_limit_exceeded", headers={"retry-after": str(wait)})
