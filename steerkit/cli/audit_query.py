"""`steerkit audit query | export`: finds records, and takes them out as tables."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from steerkit.cli.audit_lines import print_records
from steerkit.cli.audit_store import JsonOption, StoreOption, opened
from steerkit.errors import AuditError

Tool = Annotated[str | None, typer.Option(help="Name of a called tool.")]
Rule = Annotated[str | None, typer.Option(help="RULE or POLICY/RULE that decided, or that steered.")]
Verdict = Annotated[str | None, typer.Option(help="allow, flag, retry, hold, deny, stop or none.")]
FeatureOption = Annotated[
    str | None, typer.Option("--feature", help="Watched NAME or POLICY.NAME, or LAYER:INDEX of a traced feature.")
]
Status = Annotated[
    str | None, typer.Option(help="How a turn finished, an approval was decided, or an execution came out.")
]
Since = Annotated[str | None, typer.Option(help="Not before this time, such as 2026-01-31 or 2026-01-31T12:00 (UTC).")]
Until = Annotated[str | None, typer.Option(help="Before this time.")]
Kind = Annotated[str | None, typer.Option(help="turn, approval, execution, run_opened, …")]


def query(
    tool: Tool = None,
    rule: Rule = None,
    verdict: Verdict = None,
    feature: FeatureOption = None,
    status: Status = None,
    since: Since = None,
    until: Until = None,
    kind: Kind = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 100,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Find the records that fit everything that is given; tool, rule and verdict of the same call."""
    from steerkit.audit import find

    asked = _query(tool, rule, verdict, feature, status, since, until, kind)
    print_records(find(opened(store), asked, limit, newest_first=True), json)


def export(
    file: Annotated[Path, typer.Argument(help="Where to: FILE.jsonl or FILE.parquet.")],
    table: Annotated[str, typer.Option(help="records, calls or features.")] = "records",
    format: Annotated[str | None, typer.Option(help="jsonl or parquet (default: as the file's name ends).")] = None,
    tool: Tool = None,
    rule: Rule = None,
    verdict: Verdict = None,
    feature: FeatureOption = None,
    status: Status = None,
    since: Since = None,
    until: Until = None,
    kind: Kind = None,
    store: StoreOption = None,
) -> None:
    """Write records, or their calls or feature values as flat rows, to a file: whole, or not at all."""
    from steerkit.audit import export as write

    asked = _query(tool, rule, verdict, feature, status, since, until, kind)
    count = write(opened(store), file, asked, table=table, format=format or file.suffix.removeprefix("."))
    typer.echo(f"ok: {count} rows in {file}")


def moment(option: str, text: str) -> datetime:
    """A time that a user gave; without a zone it is UTC."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise AuditError(f"{option}: got {text!r}, expected a date such as 2026-01-31") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _query(*given: str | None) -> Any:
    from steerkit.audit import Query

    tool, rule, verdict, feature, status, since, until, kind = given
    bounds = {
        "since": moment("--since", since) if since else None,
        "until": moment("--until", until) if until else None,
    }
    return Query(tool, rule, verdict, feature, status, kind=kind, **bounds)
