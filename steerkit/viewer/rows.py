"""Rows of the list: each record in a few words."""

from __future__ import annotations

from typing import Final, NamedTuple

from steerkit.audit import (
    ApprovalRecord,
    ExecutionRecord,
    Gone,
    OtherRecord,
    Record,
    Store,
    StoredRecord,
    TurnRecord,
    read_content,
    why_broken,
)
from steerkit.decisions import DECISIONS
from steerkit.errors import AuditError
from steerkit.report import call_text, event_text, ledger_text
from steerkit.types import Message

_MOST: Final = 280
"""Characters of a text in a row."""
_EVENTS: Final = {"approve": "approved", "refuse": "refused"}


class Row(NamedTuple):
    """A record in the list."""

    sequence: int
    id: str
    time: str
    """UTC, to the second."""
    kind: str
    decisions: tuple[str, ...]
    """Of a turn's verdicts, each once, the strictest first."""
    word: str
    """What the record is, where there is no verdict."""
    what: str
    """The calls, or what was said instead."""
    asked: str
    """The request that led to it."""
    rule: str
    """Rule behind the strictest verdict."""
    steered: int
    """Edits of steering rules."""
    session: str | None
    run: str | None
    broken: str | None
    """Reason why the record is not to be trusted."""


def row_of(store: Store, stored: StoredRecord) -> Row:
    """The row of a record, also of one that cannot be read or was changed: it says so."""
    broken = why_broken(store, stored, traces=False)
    try:
        record = read_content(stored)
    except AuditError as error:
        return _row(stored, "damaged", what=str(error), broken=broken or "it cannot be read")
    if isinstance(record, TurnRecord):
        return _turn_row(stored, record, broken)
    word, what = _event(record)
    session = record.conversation if isinstance(record, (ApprovalRecord, ExecutionRecord)) else None
    return _row(stored, record.kind or "record", word, what, session=session, run=record.run, broken=broken)


def time_of(stored: StoredRecord) -> str:
    """A record's time in UTC, to the second."""
    return stored.time[:19].replace("T", " ")


def last_request(turn: TurnRecord) -> str:
    """The newest text of a user in a turn's messages."""
    if isinstance(turn.messages, Gone):
        return turn.messages.word
    texts = (text_of(one) for one in reversed(turn.messages) if one.get("role") == "user")
    return next((text for text in texts if text), "")


def text_of(message: Message) -> str:
    """The text of a message, whose content may be parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return " ".join(str(one.get("text", "")) for one in parts if isinstance(one, dict))


def shortened(text: str, most: int = _MOST) -> str:
    """A text that is cut where it is long."""
    text = text.strip()
    return text if len(text) <= most else f"{text[: most - 1]}…"


def strictest_first(turn: TurnRecord) -> list[int]:
    """Places of a turn's verdicts, the strictest first."""
    rank = {name: row.severity for name, row in DECISIONS.items()}
    return sorted(range(len(turn.verdicts)), key=lambda at: -rank[turn.verdicts[at].decision])


def _turn_row(stored: StoredRecord, turn: TurnRecord, broken: str | None) -> Row:
    verdicts = [turn.verdicts[at] for at in strictest_first(turn)]
    calls = ", ".join(map(call_text, turn.calls))
    first = verdicts[0] if verdicts else None
    return _row(
        stored,
        turn.kind,
        word="" if verdicts else "answer" if turn.finish == "stop" else turn.finish,
        what=calls or turn.text,
        decisions=tuple(dict.fromkeys(verdict.decision for verdict in verdicts)),
        asked=last_request(turn),
        rule="" if first is None or first.decision == "none" else first.full_name,
        steered=len(turn.edits),
        session=turn.conversation,
        run=turn.run,
        broken=broken,
    )


def _event(record: Record) -> tuple[str, str]:
    if isinstance(record, ApprovalRecord):
        return _EVENTS[record.decision], event_text(record)
    if isinstance(record, ExecutionRecord):
        return f"ran: {record.status}", event_text(record)
    if isinstance(record, OtherRecord):
        return record.kind or "record", "of a kind that this version does not know"
    return record.kind.replace("_", " "), ledger_text(record)


def _row(
    stored: StoredRecord,
    kind: str,
    word: str = "",
    what: str = "",
    *,
    decisions: tuple[str, ...] = (),
    asked: str = "",
    rule: str = "",
    steered: int = 0,
    session: str | None = None,
    run: str | None = None,
    broken: str | None = None,
) -> Row:
    said, request = shortened(what), shortened(asked)
    place = (stored.sequence, stored.id, time_of(stored), kind)
    return Row(*place, decisions, word or kind, said, request, rule, steered, session, run, broken)
