"""Reports as pages: each a template with its variables, in the frame of whoever shows it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from steerkit.errors import SaeError, SettingError
from steerkit.files import write_text_atomic
from steerkit.report.evaluation_page import evaluation_values
from steerkit.report.filed import EvaluationReport, FiledReport, FoundReport, ReplayReport, as_report
from steerkit.report.found_page import found_values
from steerkit.report.page import page


class ReportPage(NamedTuple):
    """What is shown of a report; the template extends its variable `frame`, and leads to pages below `base`."""

    template: str
    values: Mapping[str, Any]


def page_of(report: FiledReport) -> ReportPage:
    """The page of a report. Raises SettingError for a replay, which is shown beside its turn."""
    if isinstance(report, EvaluationReport):
        return ReportPage("evaluation.html", evaluation_values(report))
    if isinstance(report, FoundReport):
        return ReportPage("found.html", found_values(report))
    if isinstance(report, ReplayReport):
        raise SettingError(f"{report.title}: a replay has no page of its own; `steerkit view` shows it beside its turn")
    return ReportPage("feature.html", {"view": report})


def as_file(report: FiledReport) -> str:
    """A report as a page that stands alone: it fetches nothing, runs no script and leads nowhere."""
    shown = page_of(report)
    return page(shown.template, **shown.values)


def report_page(content: Mapping[str, Any]) -> str:
    """What a command says as JSON, as a page that stands alone."""
    return as_file(as_report(content))


def write_page(path: Path, content: Mapping[str, Any]) -> None:
    """Write that page to a file, or nothing. Raises SaeError where it cannot be written."""
    write_text_atomic(path, report_page(content), SaeError)
