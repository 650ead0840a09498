"""The application: its paths, its start and its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from steerkit.errors import SteerkitError
from steerkit.server.answer import answer
from steerkit.server.body import read_body
from steerkit.server.chat_reply import ChatReply
from steerkit.server.chat_request import ChatRequest, read_chat
from steerkit.server.door import Door, error_response, visit_of
from steerkit.server.errors import ApiError
from steerkit.server.fields import Asker
from steerkit.server.keys import Keys
from steerkit.server.names import HEADER
from steerkit.server.service import Service

Endpoint = Callable[[Service, Request], Awaitable[Response]]


async def chat_completions(service: Service, request: Request) -> Response:
    """A reply in the form of a chat completion."""
    body = await read_body(request, service.options.limits)
    asked = read_chat(body, asker_of(request), service.names, service.options.limits, service.default())
    form = asked.form
    assert isinstance(form, ChatRequest)  # of `read_chat`
    usage = bool(form.stream_options and form.stream_options.include_usage)
    reply = ChatReply(visit_of(request).id, form.model, service.loaded.fingerprint, usage)
    return await answer(service, request, asked, reply)


async def models(service: Service, request: Request) -> Response:
    """The models that the asker may name."""
    names = service.names.listed(visit_of(request).key)
    if "id" not in request.path_params:
        return JSONResponse({"object": "list", "data": [_model(service, name) for name in names]})
    name = request.path_params["id"]
    if name not in names:
        raise ApiError(404, f"model: got {name[:120]!r}, expected one of {', '.join(names)}", code="model_not_found")
    return JSONResponse(_model(service, name))


async def health(service: Service, request: Request) -> Response:
    """An answer while the process lives."""
    return JSONResponse({"status": "ok"})


async def ready(service: Service, request: Request) -> Response:
    """An answer once the model is loaded and while records can be written."""
    await asyncio.to_thread(service.check_ready)
    return JSONResponse({"status": "ready"})


async def metrics(service: Service, request: Request) -> Response:
    """The counts for Prometheus."""
    text = await asyncio.to_thread(service.metrics.text)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


ROUTES: tuple[tuple[str, str, Endpoint], ...] = (
    ("POST", "/v1/chat/completions", chat_completions),
    ("GET", "/v1/models", models),
    ("GET", "/v1/models/{id:path}", models),
    ("GET", "/health", health),
    ("GET", "/ready", ready),
    ("GET", "/metrics", metrics),
)


def make_app(service: Service, failed: Callable[[], None] = lambda: None) -> ASGIApp:
    """The application of a service, which it loads when it starts.

    Args:
        service: not started.
        failed: called where it cannot be loaded; `service.failure` says why.
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

    routes = [Route(path, bound(endpoint), methods=[method]) for method, path, endpoint in ROUTES]
    handlers: dict[Any, Any] = {ApiError: _told, SteerkitError: _told, HTTPException: _unknown_path}
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    return Door(app, service.options, Keys(service.options.keys), service.metrics)


def asker_of(request: Request) -> Asker:
    """The asker of a request."""
    visit = visit_of(request)
    return Asker(visit.key, visit.id, request.headers.get(HEADER), request.url.path)


async def _told(request: Request, error: Exception) -> Response:
    return error_response(ApiError.of(error))


async def _unknown_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # registered for it
    known = ", ".join(f"{method} {path}" for method, path, _ in ROUTES)
    said = f"{request.method} {request.url.path[:120]}: {error.detail}; there are {known}"
    return error_response(ApiError(error.status_code, said, code="not_found", headers=error.headers))


def _model(service: Service, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": service.loaded.began, "owned_by": "steerkit"}
