"""Files of reports, read and checked: one JSON value, or one a line."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias

from steerkit.errors import SettingError
from steerkit.files import parse_json, shown
from steerkit.report.filed.evaluation import EvaluationReport
from steerkit.report.filed.feature import FeatureReport
from steerkit.report.filed.found import FoundReport
from steerkit.report.filed.replay import ReplayReport
from steerkit.report.out import json_text

FiledReport: TypeAlias = EvaluationReport | FoundReport | FeatureReport | ReplayReport
"""A report of one of the kinds that are kept as files."""
_KINDS: Final[Mapping[str, type[FiledReport]]] = {
    "evaluation": EvaluationReport,
    "find": FoundReport,
    "feature": FeatureReport,
    "replay": ReplayReport,
}
_EXPECTED: Final = "what `eval`, `features find`, `features show` or `audit replay` writes with --json"
_MOST: Final = 32 << 20
"""Bytes of a file."""


def as_report(content: Mapping[str, Any]) -> FiledReport:
    """What a command says as JSON, as its report."""
    return _checked(json_text(content), "report")


def read_reports(path: Path) -> list[FiledReport]:
    """The reports in a file.

    Raises:
        SettingError: it cannot be read, or is not what a command wrote.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST + 1)
    except OSError as reason:
        raise SettingError(f"{path}: cannot be read ({reason.strerror or reason}); expected {_EXPECTED}") from None
    if len(data) > _MOST:
        raise SettingError(f"{path}: larger than {_MOST >> 20} MiB; expected {_EXPECTED}")
    lines = data.split(b"\n") if data.startswith(b'{"') else []  # a value a line; those over several begin with a break
    values = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if len(values) < 2:
        return [_checked(data, str(path))]
    return [_checked(line, f"{path}:{number}") for number, line in values]


def _checked(data: str | bytes, where: str) -> FiledReport:
    from pydantic import ValidationError

    content = parse_json(data, where, SettingError, _EXPECTED)
    kind = content.get("report") if isinstance(content, dict) else None
    if kind not in _KINDS:
        raise SettingError(f"{where}: report: got {shown(kind)}, expected {_EXPECTED}")
    try:
        found: FiledReport = _adapter(kind).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"]))
        raise SettingError(f"{where}: {at}: {first['msg']}; expected {_EXPECTED}") from None
    return found


@cache
def _adapter(kind: str) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(_KINDS[kind])
