"""Pages over the store of the loaded runtime, beside the API: an application that somebody else makes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from starlette.types import ASGIApp, Receive, Scope, Send

from steerkit.server.errors import ApiError
from steerkit.server.service import Service

MakeUi: TypeAlias = "Callable[[Path], ASGIApp]"
"""Makes the pages over the store of a path."""


class Ui:
    """The pages, made once the runtime is loaded; for keys that may read every record.

    Args:
        service: whose store they show.
        make: makes them.
    """

    def __init__(self, service: Service, make: MakeUi) -> None:
        self._service, self._make = service, make
        self._made: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on. Raises ApiError where there is nothing to show, or not to this key."""
        if not scope["steerkit.visit"].key.reads_all:
            raise ApiError(403, "this key may not read every record, so it sees no pages", code="may_not_read")
        store = self._service.loaded.runtime.store
        if store is None:
            raise ApiError(404, "nothing is recorded here, so there is nothing to show", code="not_found")
        if self._made is None:
            self._made = self._make(store.path)
        await self._made(scope, receive, send)
