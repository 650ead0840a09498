"""Records in a word and a line, on a terminal and on a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from steerkit.report.out import json_text
from steerkit.report.text import call_text
from steerkit.report.tokens import visible

if TYPE_CHECKING:  # loaded when a command needs it
    from steerkit.audit import ApprovalRecord, ExecutionRecord, Record


def line_of(record: Record) -> tuple[str, str]:
    """A record in one word and one line."""
    from steerkit.audit import ApprovalRecord, ExecutionRecord, OtherRecord, TurnRecord, record_json

    if isinstance(record, (ApprovalRecord, ExecutionRecord)):
        return event_word(record), event_text(record)
    if isinstance(record, OtherRecord):
        return record.kind or "record", json_text(record_json(record))
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
