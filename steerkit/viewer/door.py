"""The door of the viewer: whose browser may come in, and the headers that keep a page to itself.

Texts of records are other people's. They are escaped where they are written, and should that ever fail, these headers
leave them nothing: no script but the viewer's own file, no style, no request elsewhere, no frame.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steerkit.hosts import host_of, is_of_host

LOCAL: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
"""Names of this machine in a `Host` header."""
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS: Final = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "cache-control": "no-store",
}
"""Headers of every answer."""


class Door:
    """Refuses requests under other names than the viewer's own, and from pages of other sites.

    Args:
        app: behind it.
        hosts: names that a `Host` header may have; None for any.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or say why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        reason = self._why_not(scope["method"], Headers(scope=scope))
        if reason is None:
            await self._app(scope, receive, answer)
        else:
            await PlainTextResponse(f"{reason}\n", 403)(scope, receive, answer)

    def _why_not(self, method: str, headers: Headers) -> str | None:
        host, name = host_of(headers)
        if self._hosts is not None and name not in self._hosts:
            return f"host: got {host[:80]!r}, which is no name of this viewer"
        origin = headers.get("origin", "").lower()
        if (origin or method not in ("GET", "HEAD")) and not is_of_host(origin, host):
            return f"origin: got {origin[:80]!r}, which may not call this viewer"
        return None
