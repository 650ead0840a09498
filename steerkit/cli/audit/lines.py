"""Records as `steerkit audit list` and `query` show them: one line each.

On a terminal a line is cut to its width, with an ellipsis, and a narrow one has no ids: a record's number names it too.
In a pipe lines are not cut.
"""

from __future__ import annotations

import json as jsons
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from steerkit.errors import AuditError
from steerkit.report import console, line_of, print_json, visible

if TYPE_CHECKING:  # loaded when a command needs it
    from steerkit.audit import Record, StoredRecord

_NARROW: Final = 110
"""Columns below which a line has no space for an id."""
_LABEL: Final = 8
_LEDGER: Final = ("run", "counts", "of", "count", "before")
_EVENT: Final = ("turn", "call_id", "decision", "by", "note", "error", "status", "seconds")
"""Fields in the JSON that `list` prints of records that are no turns."""


def put(out: Console, text: str | Text) -> None:
    """One line: cut to a terminal's width, complete in a pipe."""
    if out.is_terminal:
        out.print(text, no_wrap=True, overflow="ellipsis", crop=True)
    else:
        out.print(text, soft_wrap=True)


def put_field(out: Console, label: str, text: str | Text) -> None:
    """A value under its label: folded beside it on a terminal, in one line in a pipe."""
    shown = Text(visible(text)) if isinstance(text, str) else text
    if not out.is_terminal:
        out.print(Text.assemble(f"{label:<{_LABEL}} ", shown), soft_wrap=True)
        return
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=_LABEL, no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(Text(label), shown)
    out.print(table)


def print_records(records: Iterable[StoredRecord], json: bool) -> int:
    """Print one line per record, for people or as JSON, also for one that cannot be read; returns their number."""
    from steerkit.audit import read_content

    out, count = console(), 0
    for stored in records:
        count += 1
        head = {"sequence": stored.sequence, "id": stored.id, "time": stored.time, "hash": stored.hash}
        try:
            record = read_content(stored)
            summary, (word, what) = summary_of(record), line_of(record)
        except AuditError as error:
            summary, word, what = {"kind": "damaged", "error": str(error)}, "damaged", str(error)
        if json:
            print_json({**head, **summary})
            continue
        id = "" if out.is_terminal and out.width < _NARROW else f"{stored.id}  "
        put(out, f"{stored.sequence:>5}  {id}{stored.time[:19]}  {word:<10}  {' '.join(what.splitlines())}")
    return count


def summary_of(record: Record) -> dict[str, Any]:
    """The JSON of a record that `list --json` prints."""
    from steerkit.audit import ApprovalRecord, ExecutionRecord, OtherRecord, TurnRecord, record_json
    from steerkit.audit import as_json as written

    if isinstance(record, OtherRecord):
        return {"kind": record.kind or "record", "body": record_json(record)}
    more = {} if record.metadata is None else {"metadata": written(record.metadata)}
    if isinstance(record, TurnRecord):
        decisions = [verdict.decision for verdict in record.verdicts]
        return {"kind": record.kind, "decisions": decisions, "calls": written(record.calls), **more}
    is_event = isinstance(record, (ApprovalRecord, ExecutionRecord))
    call = (
        {"call": {"name": record.call.name, "arguments": written(record.call.arguments)}}
        if isinstance(record, (ApprovalRecord, ExecutionRecord))
        else {}
    )
    found = {key: getattr(record, key) for key in (_EVENT if is_event else _LEDGER) if hasattr(record, key)}
    return {"kind": record.kind, **found, **call, **(more if is_event else {})}


def as_json(value: Any) -> str:
    """A value in one line."""
    return jsons.dumps(value, ensure_ascii=False)
