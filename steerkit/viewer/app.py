"""The viewer's application: its paths, and what answers them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from steerkit.audit import Store
from steerkit.errors import SteerkitError
from steerkit.viewer.beside_page import beside_page
from steerkit.viewer.decide_page import NOT_HERE, Deciding, decide, decide_page
from steerkit.viewer.door import LOCAL, Door
from steerkit.viewer.feature_page import feature_page
from steerkit.viewer.live import live
from steerkit.viewer.pages import FOLDER, Pages
from steerkit.viewer.policies_page import policies_page
from steerkit.viewer.records_page import records_page
from steerkit.viewer.reports import Reports
from steerkit.viewer.reports_page import report_page, reports_page
from steerkit.viewer.token_page import token_page
from steerkit.viewer.trust import NOTHING, Checker, Kept
from steerkit.viewer.turn_page import record_as_json, record_page


def make_viewer(
    path: str | Path,
    *,
    kept: Kept = NOTHING,
    reports: Path | None = None,
    deciding: Deciding = NOT_HERE,
    hosts: Collection[str] | None = LOCAL,
    ending: Callable[[], bool] = lambda: False,
) -> ASGIApp:
    """The viewer of a store as an application; it may be mounted in another one.

    Args:
        path: of the store, which must be there; it is only read, but for decisions.
        kept: checkpoints that the store is verified against.
        reports: folder of them; None takes `reports` beside the store.
        deciding: who may decide about held calls here.
        hosts: names that a `Host` header may have; None for any.
        ending: says that the server is to end.

    Raises:
        AuditError: the store cannot be opened.
    """
    store = Store(path, create=False)
    pages = Pages(store, Checker(store.path, kept), Reports(reports or store.path.parent / "reports"))
    routes = [Route(path, partial(answer, pages), methods=["GET"]) for path, answer in _PAGES.items()]
    routes.append(Route("/decide", partial(decide_page, deciding, pages), methods=["GET"]))
    routes.append(Route("/decide/{id:path}", partial(decide, deciding, pages), methods=["POST"]))
    routes.append(Route("/live", partial(_live, pages, ending)))
    routes += [Route(f"/static/{name}", partial(_static, name)) for name in ("view.js", "icon.svg")]
    routes.append(Route("/static/view.css", partial(_style, pages)))
    handlers: dict[Any, Any] = {
        SteerkitError: partial(_failed, pages),
        HTTPException: partial(_unknown, pages),
        Exception: partial(_surprised, pages),
    }
    return Door(Starlette(routes=routes, exception_handlers=handlers), hosts)


def _trust(pages: Pages, request: Request) -> Response:
    """How far the store may be trusted."""
    return pages.show(request, "trust.html", kept=pages.checker.kept)


_PAGES: Final[dict[str, Callable[[Pages, Request], Response]]] = {
    "/": records_page,
    "/r/{id}": record_page,
    "/r/{id}/json": record_as_json,
    "/r/{id}/t/{position:int}": token_page,
    "/r/{id}/beside": beside_page,
    "/policies": policies_page,
    "/f/{name:path}": feature_page,
    "/reports": reports_page,
    "/reports/{name}": report_page,
    "/trust": _trust,
}
"""What answers each path."""


def _live(pages: Pages, ending: Callable[[], bool], request: Request) -> Response:
    after = request.headers.get("last-event-id") or request.query_params.get("after", "")
    return live(pages.store, int(after) if after.isdecimal() and len(after) < 19 else 0, ending)


def _static(name: str, request: Request) -> Response:
    return FileResponse(FOLDER / "static" / name)


def _style(pages: Pages, request: Request) -> Response:
    return Response(pages.style, media_type="text/css")


async def _failed(pages: Pages, request: Request, error: Exception) -> Response:
    return pages.show(request, "error.html", 404, title="This cannot be shown", said=str(error))


async def _unknown(pages: Pages, request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # registered for it
    return pages.show(request, "error.html", error.status_code, title=error.detail, said="There is no such page.")


async def _surprised(pages: Pages, request: Request, error: Exception) -> Response:
    said = f"{type(error).__name__}; the terminal that the viewer runs in has the details."
    return pages.show(request, "error.html", 500, title="This page failed", said=said)
