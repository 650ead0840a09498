"""`steerkit audit query | export`: finds records, and takes them out as tables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from steerkit.cli.audit.dates import moment
from steerkit.cli.audit.lines import print_records
from steerkit.cli.audit.options import JsonOption, StoreOption, opened
from steerkit.decisions import DECISIONS
from steerkit.errors import AuditError
from steerkit.report import print_json, say, say_line

Tool = Annotated[str | None, typer.Option(metavar="NAME", help="Name of a called tool.")]
Rule = Annotated[str | None, typer.Option(metavar="NAME", help="RULE or POLICY/RULE that decided, or that steered.")]
Verdict = Annotated[str | None, typer.Option(metavar="DECISION", help=f"One of {', '.join(DECISIONS)}.")]
FeatureOption = Annotated[
    str | None,
    typer.Option("--feature", metavar="NAME", help="Watched NAME or POLICY.NAME, or LAYER:INDEX of a traced feature."),
]
Status = Annotated[
    str | None,
    typer.Option(metavar="WORD", help="How a turn finished, an approval was decided, or an execution came out."),
]
Since = Annotated[
    str | None,
    typer.Option(metavar="DATE", help="Not before this time: 2026-01-31, 2026-01-31T12:00 (UTC), 7d, 12h, yesterday."),
]
Until = Annotated[str | None, typer.Option(metavar="DATE", help="Before this time, written in the same way.")]
Kind = Annotated[
    str | None,
    typer.Option(metavar="KIND", help="turn, approval, execution, run_opened, run_closed, redaction or retention."),
]
Meta = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Who asked: what a record's metadata says; may be given several times."),
]
Conversation = Annotated[
    str | None, typer.Option(metavar="ID", help="What the records of one conversation of the agent loop share.")
]


def query(
    tool: Tool = None,
    rule: Rule = None,
    verdict: Verdict = None,
    feature: FeatureOption = None,
    status: Status = None,
    since: Since = None,
    until: Until = None,
    kind: Kind = None,
    meta: Meta = None,
    conversation: Conversation = None,
    limit: Annotated[int, typer.Option(min=1, metavar="COUNT", help="How many, newest first.")] = 100,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Find the records that fit everything that is given; tool, rule and verdict of the same call."""
    from steerkit.audit import find

    asked = _query(tool, rule, verdict, feature, status, kind, conversation, since=since, until=until, meta=meta)
    log = opened(store)
    if not print_records(find(log, asked, limit, newest_first=True), json):
        _say_none(log, asked)


def export(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="FILE.jsonl, FILE.csv or FILE.parquet; - for standard output.")
    ],
    table: Annotated[str, typer.Option(metavar="NAME", help="records, calls or features.")] = "records",
    format: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="jsonl, csv or parquet (default: as the name ends; jsonl for -)."),
    ] = None,
    tool: Tool = None,
    rule: Rule = None,
    verdict: Verdict = None,
    feature: FeatureOption = None,
    status: Status = None,
    since: Since = None,
    until: Until = None,
    kind: Kind = None,
    meta: Meta = None,
    conversation: Conversation = None,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Write records, or their calls or feature values as flat rows, to a file: whole, or not at all.

    In CSV, a text that a spreadsheet would run as a formula gets an apostrophe before it.
    """
    from steerkit.audit import FORMATS, find
    from steerkit.audit import export as write

    asked = _query(tool, rule, verdict, feature, status, kind, conversation, since=since, until=until, meta=meta)
    form = format or ("jsonl" if file == "-" else Path(file).suffix.removeprefix(".").lower())
    if not form:
        raise AuditError(f"{file}: got no format; name it FILE.{', FILE.'.join(FORMATS)}, or say --format")
    log = opened(store)
    if next(find(log, asked, 1), None) is None:
        _say_none(log, asked)
    if file == "-":
        if form == "parquet" and sys.stdout.isatty():
            raise AuditError("-: Parquet is no text; expected a file, or a pipe")
        write(log, sys.stdout.buffer, asked, table=table, format=form)
        return
    count = write(log, Path(file), asked, table=table, format=form)
    if json:
        print_json({"rows": count, "file": file, "format": form, "table": table})
    else:
        say(f"ok: {count} rows in {file}")


def _say_none(log: Any, asked: Any) -> None:
    """On standard error: that no record fits. Raises AuditError where something was asked that no record ever had."""
    from steerkit.audit import unknown_names

    if wrong := unknown_names(log, asked):
        raise AuditError("; ".join(f"--{one}" for one in wrong))
    say_line("no record fits")


def _query(*given: str | None, since: str | None, until: str | None, meta: list[str] | None) -> Any:
    from steerkit.audit import Query

    tool, rule, verdict, feature, status, kind, conversation = given
    pairs = []
    for one in meta or ():
        key, equals, value = one.partition("=")
        if not equals or not key:
            raise AuditError(f"--meta: got {one!r}, expected KEY=VALUE, such as user=ann")
        pairs.append((key, value))
    bounds: dict[str, Any] = {
        "since": None if since is None else moment("--since", since),
        "until": None if until is None else moment("--until", until),
    }
    try:
        exact: dict[str, Any] = {"kind": kind, "conversation": conversation, "meta": tuple(pairs)}
        return Query(tool, rule, verdict, feature, status, **exact, **bounds)
    except AuditError as error:
        raise AuditError(f"--{error}") from None
