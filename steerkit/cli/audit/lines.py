"""Records as `steerkit audit list` and `query` show them: one line each.

On a terminal a line is cut to its width, with an ellipsis, and a narrow one has no ids: a record's number names it too.
In a pipe lines are not cut.
"""

from __future__ import annotations

import json as jsons
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from steerkit.errors import AuditError
from steerkit.report import call_text, console, print_json, visible

if TYPE_CHECKING:  # loaded when a command needs it
    from steerkit.audit import ApprovalRecord, ExecutionRecord, Record, StoredRecord

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


def line_of(record: Record) -> tuple[str, str]:
    """A record in one word and one line."""
    from steerkit.audit import ApprovalRecord, ExecutionRecord, OtherRecord, TurnRecord, record_json

    if isinstance(record, (ApprovalRecord, ExecutionRecord)):
        return event_word(record), event_text(record)
    if isinstance(record, OtherRecord):
        return record.kind or "record", as_json(record_json(record))
    if not isinstance(record, TurnRecord):
        return record.kind, ledger_text(record)
    calls = ", ".join(map(call_text, record.calls)) or record.text
    word = "fabricated" if record.finish == "fabricated" else "text"
    return ",".join(verdict.decision for verdict in record.verdicts) or word, calls


def event_text(event: ApprovalRecord | ExecutionRecord) -> str:
    """An approval or an execution, in one line."""
    from steerkit.audit import ExecutionRecord

    call = call_text(event.call)
    if isinstance(event, ExecutionRecord):
        return f"{call}  in {event.seconds:.3g} s"
    why = event.error or event.note
    return call + visible(f"  by {event.by or 'somebody'}{f': {why}' if why else ''}")


def ledger_text(record: Record) -> str:
    """A record of no call, in one line: a run's opening and closing, a redaction, a tombstone."""
    return visible(_ledger_text(record))


def _ledger_text(record: Record) -> str:
    from steerkit.audit import RedactionRecord, RetentionRecord, RunClosedRecord, RunOpenedRecord

    match record:
        case RunOpenedRecord():
            return f"run {record.run} on {record.model.name}"
        case RunClosedRecord():
            said = ", ".join(f"{count} {name}" for name, count in record.counts.items() if isinstance(count, int))
            return f"run {record.run}: {said}"
        case RedactionRecord():
            return f"of record {record.of}: {', '.join(record.fields)}"
        case RetentionRecord():
            return f"{record.count} records from before {record.before[:19]}"
    return record.kind


def event_word(event: ApprovalRecord | ExecutionRecord) -> str:
    """The outcome of an approval or an execution, in one word."""
    from steerkit.audit import ExecutionRecord

    if isinstance(event, ExecutionRecord):
        return f"run:{event.status}"
    return "approved" if event.decision == "approve" else "refused"


def meta_text(metadata: Mapping[str, Any]) -> str:
    """A record's metadata in the form that `--meta` takes."""
    from steerkit.audit import Gone

    if isinstance(metadata, Gone):
        return metadata.word
    listed = {key: value if isinstance(value, list) else [value] for key, value in metadata.items()}
    return "  ".join(f"{key}={','.join(map(str, values))}" for key, values in listed.items())


def as_json(value: Any) -> str:
    """A value in one line."""
    return jsons.dumps(value, ensure_ascii=False)
