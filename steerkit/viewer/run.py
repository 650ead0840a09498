"""The viewer as a process of its own, for this machine alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import uvicorn

from steerkit.audit import Store
from steerkit.errors import SettingError
from steerkit.hosts import listener
from steerkit.viewer.app import make_viewer
from steerkit.viewer.decide_page import NOT_HERE, Deciding
from steerkit.viewer.pages import Pages
from steerkit.viewer.reports import Reports
from steerkit.viewer.trust import NOTHING, Checker, Kept
from steerkit.viewer.turn_page import turn_file

_HOST = "127.0.0.1"


def export(path: Path, reference: str, *, kept: Kept = NOTHING) -> str:
    """A turn as one HTML file that stands alone: no script, and nothing that leads elsewhere.

    Args:
        path: of the store.
        reference: id or number of its record.
        kept: checkpoints that the store is verified against.

    Raises:
        AuditError: the store cannot be opened, or has no such turn.
    """
    store = Store(path, create=False)
    try:
        return turn_file(Pages(store, Checker(path, kept), Reports(path.parent / "reports")), reference)
    finally:
        store.close()


def view(
    path: Path,
    port: int,
    *,
    kept: Kept = NOTHING,
    reports: Path | None = None,
    deciding: Deciding = NOT_HERE,
    listening: Callable[[str], None] = lambda url: None,
) -> None:
    """Show a store until SIGINT or SIGTERM.

    Args:
        path: of the store, which must be there.
        port: 0 takes a free one.
        kept: checkpoints that the store is verified against.
        reports: folder of them; None takes `reports` beside the store.
        deciding: whether held calls may be decided on here.
        listening: told of the address once it is listened on.

    Raises:
        AuditError: the store cannot be opened.
        SettingError: the port cannot be listened on.
    """
    app = make_viewer(path, kept=kept, reports=reports, deciding=deciding, ending=lambda: server.should_exit)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=1, ws="none"
    )
    server = uvicorn.Server(config)
    with listener(_HOST, port, SettingError) as listening_on:
        listening(f"http://{_HOST}:{listening_on.getsockname()[1]}")
        server.run([listening_on])
