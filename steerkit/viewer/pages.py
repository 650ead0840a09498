"""Pages from templates, with what every page of the viewer shows around them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import HTMLResponse

from steerkit.audit import Store
from steerkit.errors import AuditError
from steerkit.report import templates
from steerkit.viewer.reports import Reports
from steerkit.viewer.trust import Checker, Trust

FOLDER: Final = Path(__file__).parent
NAV: Final = (("/", "Records"), ("/decide", "Decide"), ("/policies", "Policies"), ("/reports", "Reports"))
"""Paths and names of the pages that every page leads to."""


class Pages:
    """The pages over one store.

    Args:
        store: open for reading.
        checker: that verifies it.
        reports: beside it.
    """

    def __init__(self, store: Store, checker: Checker, reports: Reports) -> None:
        self.store, self.checker, self.reports = store, checker, reports

    @cached_property
    def _templates(self) -> Any:
        return templates(FOLDER / "templates")

    def show(self, request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """A page of a template."""
        base = request.scope.get("root_path", "")
        here = request.url.path.removeprefix(base)
        around = {"frame": "frame.html", "base": base, "here": here, "nav": NAV}
        return HTMLResponse(self._render(template, self.checker.trust, **{**around, **values}), status)

    def file(self, template: str, **values: Any) -> str:
        """A page as a file that stands alone, of a store that is verified first."""
        return self._render(template, lambda newest: self.checker.now(), frame="file.html", base=None, **values)

    def _render(self, template: str, trust: Callable[[int], Trust], **values: Any) -> str:
        try:
            newest = self.store.newest
        except AuditError:
            newest = 0
        around = {"store": self.store.path.name, "path": str(self.store.path), "newest": newest}
        found: str = self._templates.get_template(template).render(**around, trust=trust(newest), **values)
        return found

    @cached_property
    def style(self) -> str:
        """The one style sheet: that of all pages of steerkit, and the viewer's."""
        found: str = self._templates.get_template("view.css").render()
        return found
