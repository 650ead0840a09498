"""The application: its paths, its start and its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp

from steerkit.errors import SteerkitError
from steerkit.server.door import Door, error_response
from steerkit.server.endpoints import ROUTES, Endpoint
from steerkit.server.errors import ApiError
from steerkit.server.keys import Keys
from steerkit.server.options import UI
from steerkit.server.service import Service
from steerkit.server.ui import MakeUi, Ui


def make_app(service: Service, failed: Callable[[], None] = lambda: None, ui: MakeUi | None = None) -> ASGIApp:
    """The application of a service, which it loads when it starts.

    Args:
        service: not started.
        failed: called where it cannot be loaded; `service.failure` says why.
        ui: makes the pages at `/ui` over the runtime's store; None for no pages.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async def start() -> None:
            await asyncio.to_thread(service.start)
            if service.failure is not None:
                failed()

        starting = asyncio.create_task(start())
        yield
        await starting
        await asyncio.to_thread(service.close)

    def bound(endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
        async def call(request: Request) -> Response:
            return await endpoint(service, request)

        return call

    routes: list[BaseRoute] = [Route(path, bound(endpoint), methods=[method]) for method, path, endpoint in ROUTES]
    routes += [] if ui is None else [Mount(UI, Ui(service, ui))]
    handlers: dict[Any, Any] = {ApiError: _told, SteerkitError: _told, HTTPException: _unknown_path}
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    return Door(app, service.options, Keys(service.options.keys), service.metrics)


async def _told(request: Request, error: Exception) -> Response:
    return error_response(ApiError.of(error))


async def _unknown_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # registered for it
    known = ", ".join(f"{method} {path}" for method, path, _ in ROUTES)
    said = f"{request.method} {request.url.path[:120]}: {error.detail}; there are {known}"
    return error_response(ApiError(error.status_code, said, code="not_found", headers=error.headers))
