"""Reports as pages: their list, and each in the viewer's frame, of the templates that make it a file."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from steerkit.report import page_of
from steerkit.viewer.pages import Pages


def reports_page(pages: Pages, request: Request) -> Response:
    """The reports, the newest first."""
    return pages.show(request, "reports.html", reports=pages.reports.all(), folder=str(pages.reports.folder))


def report_page(pages: Pages, request: Request) -> Response:
    """One report. Raises SettingError where there is none of that name."""
    name = request.path_params["name"]
    shown = page_of(pages.reports.get(name))
    return pages.show(request, shown.template, frame="report_frame.html", report_name=name, **shown.values)
