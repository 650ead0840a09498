"""`steerkit audit query | export`: finds records, and takes them out as tables."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from steerkit.cli.audit.lines import print_records
from steerkit.cli.audit.options import JsonOption, StoreOption, opened
from steerkit.decisions import DECISIONS
from steerkit.errors import AuditError
from steerkit.report import print_json, say, say_line

Status = Annotated[
    str | None,
    typer.Option(metavar="WORD", help="How a turn finished, an approval was decided, or an execution came out."),
]
Since = Annotated[
    str | None,
    typer.Option(metavar="DATE", help="Not before this time: 2026-01-31, 2026-01-31T12:00 (UTC), 7d, 12h, yesterday."),
]
Meta = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Who asked: what a record's metadata says; may be given several times."),
]


def _query(
    tool: Annotated[str | None, typer.Option(metavar="NAME", help="Name of a called tool.")] = None,
    rule: Annotated[
        str | None, typer.Option(metavar="NAME", help="RULE or POLICY/RULE that decided, or that steered.")
    ] = None,
    verdict: Annotated[str | None, typer.Option(metavar="DECISION", help=f"One of {', '.join(DECISIONS)}.")] = None,
    feature: Annotated[
        str | None,
        typer.Option(
            "--feature", metavar="NAME", help="Watched NAME or POLICY.NAME, or LAYER:INDEX of a traced feature."
        ),
    ] = None,
    status: Status = None,
    since: Since = None,
    until: Annotated[
        str | None, typer.Option(metavar="DATE", help="Before this time, written in the same way.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="turn, approval, execution, run_opened, run_closed, redaction or retention."),
    ] = None,
    meta: Meta = None,
    conversation: Annotated[
        str | None, typer.Option(metavar="ID", help="What the records of one conversation of the agent loop share.")
    ] = None,
) -> Any:
    """The query that the options ask for."""
    from steerkit.audit import Query, moment

    pairs = []
    for one in meta or ():
        key, equals, value = one.partition("=")
        if not equals or not key:
            raise AuditError(f"--meta: got {one!r}, expected KEY=VALUE, such as user=ann")
        pairs.append((key, value))
    begin = None if since is None else moment("--since", since)
    end = None if until is None else moment("--until", until)
    try:
        return Query(tool, rule, verdict, feature, status, begin, end, kind, conversation, tuple(pairs))
    except AuditError as error:
        raise AuditError(f"--{error}") from None


def _asking(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of `_query` in the place of its `asked`, which it is given as a `Query`."""
    options, own = (inspect.signature(one, eval_str=True).parameters for one in (_query, command))
    listed = [
        option.replace(kind=option.kind.KEYWORD_ONLY)
        for name, one in own.items()
        for option in (options.values() if name == "asked" else [one])
    ]

    def asking(**given: Any) -> None:
        command(asked=_query(**{name: given.pop(name) for name in options}), **given)

    asking.__name__, asking.__doc__ = command.__name__, command.__doc__
    asking.__signature__ = inspect.Signature(listed)  # type: ignore[attr-defined]  # where the CLI library looks
    asking.__annotations__ = {one.name: one.annotation for one in listed}
    return asking


@_asking
def query(
    *,
    asked: Any,
    limit: Annotated[int, typer.Option(min=1, metavar="COUNT", help="How many, newest first.")] = 100,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Find the records that fit everything that is given; tool, rule and verdict of the same call."""
    from steerkit.audit import find

    log = opened(store)
    if not print_records(find(log, asked, limit, newest_first=True), json):
        _say_none(log, asked)


@_asking
def export(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="FILE.jsonl, FILE.csv or FILE.parquet; - for standard output.")
    ],
    table: Annotated[str, typer.Option(metavar="NAME", help="records, calls or features.")] = "records",
    format: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="jsonl, csv or parquet (default: as the name ends; jsonl for -)."),
    ] = None,
    *,
    asked: Any,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Write records, or their calls or feature values as flat rows, to a file: whole, or not at all.

    In CSV, a text that a spreadsheet would run as a formula gets an apostrophe before it.
    """
    from steerkit.audit import FORMATS, find
    from steerkit.audit import export as write

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
