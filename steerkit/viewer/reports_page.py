"""Reports as pages: their list, and each in the viewer's frame, of the templates that make it a file."""

from __future__ import annotations

from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from steerkit.report import ReplayReport, page_of
from steerkit.viewer.pages import Pages


def reports_page(pages: Pages, request: Request) -> Response:
    """The reports, the newest first."""
    return pages.show(request, "reports.html", reports=pages.reports.all(), folder=str(pages.reports.folder))


def report_page(pages: Pages, request: Request) -> Response:
    """One report. Raises SettingError where there is none of that name."""
    name = request.path_params["name"]
    report = pages.reports.get(name)
    if isinstance(report, ReplayReport):
        base = request.scope.get("root_path", "")
        return RedirectResponse(f"{base}/r/{quote(report.record, safe='')}/beside?replay={quote(name)}", 303)
    shown = page_of(report)
    return pages.show(request, shown.template, frame="report_frame.html", report_name=name, **shown.values)
