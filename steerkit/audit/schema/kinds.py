"""Kinds of records: which class a record's JSON is read as, and how it is written again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from steerkit.audit.schema.codec import as_json, read, wrong
from steerkit.audit.schema.records import (
    ApprovalRecord,
    ExecutionRecord,
    OtherRecord,
    Record,
    RedactionRecord,
    RetentionRecord,
    RunClosedRecord,
    RunOpenedRecord,
    Stamps,
    TurnRecord,
)
from steerkit.errors import AuditError

R = TypeVar("R", bound=Record)
RECORDS: Final[Mapping[str, type[Record]]] = {
    one.kind: one
    for one in (
        TurnRecord,
        ApprovalRecord,
        ExecutionRecord,
        RunOpenedRecord,
        RunClosedRecord,
        RedactionRecord,
        RetentionRecord,
    )
}
"""By kind."""
KINDS: Final = tuple(RECORDS)
"""Kinds of records."""


@dataclass(frozen=True, slots=True)
class _Judged:
    decision: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Accounted(Stamps):
    """Fields of a record of any kind and version that verification reads."""

    kind: str | None = None
    committed: Mapping[str, str] = field(default_factory=dict)
    verdicts: tuple[_Judged, ...] = ()


def accounted(body: Any) -> Accounted:
    """Stamps, commitments and decisions of a record, which verification reads. Raises AuditError."""
    return read(Accounted, body)


def kind_of(body: Mapping[str, Any]) -> str:
    """A record's kind; the oldest turns do not say it."""
    return str(body.get("kind") or ("turn" if "calls" in body else "record"))


def read_record(body: Any, *, dense: bool = False) -> Record:
    """A typed record from its JSON.

    Args:
        body: the complete content, or its public part: then private fields hold stand-ins.
        dense: every key must be there that such turns have today; else a turn that lacks one has it empty.

    Raises:
        AuditError: a value is not of the shape that its field has, or, but for a turn, one is not there.
    """
    if not isinstance(body, dict):
        raise wrong(body, (), "an object")
    known = RECORDS.get(kind_of(body))
    return read(OtherRecord, body) if known is None else _checked(read_as(known, body, dense=dense))


def read_as(kind: type[R], body: Mapping[str, Any], *, dense: bool = False) -> R:
    """A record of this kind from its JSON. Raises AuditError."""
    return read(kind, {key: value for key, value in body.items() if key != "kind"}, dense=dense)


def _checked(record: Record) -> Record:
    if isinstance(record, TurnRecord) and len(record.calls) != len(record.verdicts):
        raise AuditError(f"verdicts: got {len(record.verdicts)}, expected one for each of {len(record.calls)} calls")
    return record


def record_json(record: Record) -> dict[str, Any]:
    """A record's JSON, as it is hashed and stored."""
    found: dict[str, Any] = as_json(record)
    return found if isinstance(record, OtherRecord) else {"kind": record.kind, **found}
