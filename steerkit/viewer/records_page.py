"""The list of records."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from steerkit.audit import Page, page
from steerkit.errors import AuditError
from steerkit.viewer.asked import FIELDS, MOST, Asked
from steerkit.viewer.pages import Pages
from steerkit.viewer.rows import row_of

_ROWS: Final = 50
_SECONDS: Final = 0.12
"""How long records are looked for before a page says how far it came."""
_TABS: Final = (
    ("", "All"),
    ("turn", "Turns"),
    ("approval", "Decisions"),
    ("execution", "Executions"),
    ("run_opened", "Runs"),
)


def records_page(pages: Pages, request: Request) -> Response:
    """The newest records that fit the filters in the address; where a filter is wrong, what is wrong with it."""
    asked, error = Asked.of(request.query_params.items()), ""
    found = Page((), 1)
    try:
        found = page(pages.store, asked.query(), _ROWS, before=asked.before, seconds=_SECONDS)
    except AuditError as wrong:
        error = str(wrong)
    return pages.show(
        request,
        "records.html",
        400 if error else 200,
        error=error,
        asked=asked,
        fields=FIELDS,
        most=MOST,
        tabs=_TABS,
        rows=[row_of(pages.store, one) for one in found.records],
        found=found,
    )
