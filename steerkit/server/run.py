"""A server as a process: listens until it is told to end, and then finishes what it has begun."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from steerkit.errors import SettingError
from steerkit.hosts import listener
from steerkit.server.app import make_app
from steerkit.server.log import JsonLines, log
from steerkit.server.service import Service

_IDLE_SECONDS = 30
_MOST_HEADERS = 64 << 10
"""Bytes of a request's head."""


def serve(
    service: Service,
    *,
    listening: Callable[[str], None] = lambda url: None,
    ui: Callable[[Path, Callable[[], bool]], ASGIApp] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; then refuse what comes, and finish what runs.

    Args:
        service: not started.
        listening: told of the address once it is listened on; the model is loaded after that.
        ui: makes the pages at `/ui` from the store's path, and from what says that the server is to end.

    Raises:
        SettingError: the address cannot be listened on.
        SteerkitError: the model cannot be loaded.
    """
    options = service.options
    pages = None if ui is None else lambda path: ui(path, lambda: server.should_exit)
    server = _Server(make_app(service, lambda: setattr(server, "should_exit", True), pages), service)
    with listener(options.host, options.port, SettingError) as listening_on:
        host, port = listening_on.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        with _log_lines():
            log("listening", {"url": url, "model": service.names.model, "policies": list(service.names.policies)})
            listening(url)
            server.run([listening_on])
    if service.failure is not None:
        raise service.failure


class _Server(uvicorn.Server):
    def __init__(self, app: object, service: Service) -> None:
        super().__init__(
            uvicorn.Config(
                app,  # type: ignore[arg-type]  # uvicorn's own type of applications
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=_IDLE_SECONDS,
                timeout_graceful_shutdown=round(service.options.drain_seconds),
                h11_max_incomplete_event_size=_MOST_HEADERS,
                http="h11",
                ws="none",
                proxy_headers=False,
            )
        )


@contextmanager
def _log_lines() -> Iterator[None]:
    """Lines of JSON on standard error, ours and uvicorn's, for as long as it serves."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    loggers = {logging.getLogger("steerkit.server"): logging.INFO, logging.getLogger("uvicorn.error"): logging.WARNING}
    before = [(one, one.handlers, one.propagate, one.level) for one in loggers]
    for one, level in loggers.items():
        one.handlers, one.propagate = [handler], False
        one.setLevel(level)
    try:
        yield
    finally:
        for one, one.handlers, one.propagate, level in before:
            one.setLevel(level)
