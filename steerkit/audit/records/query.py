"""Queries for records: by tool, rule, verdict, feature, time and status."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from steerkit.audit.log.canonical import canonical
from steerkit.audit.log.reading import named_errors, read_content, read_public
from steerkit.audit.log.store import Store, says
from steerkit.audit.log.stored_record import StoredRecord
from steerkit.audit.log.trace_codec import unpack
from steerkit.audit.records.feature_values import values_of
from steerkit.audit.schema import DECISIONS, KINDS, ApprovalRecord, ExecutionRecord, Record, TurnRecord
from steerkit.errors import AuditError
from steerkit.types import Call, CallLike, Edit, Verdict


@dataclass(frozen=True, slots=True)
class Query:
    """A query; a record must fit everything that is given. Tool, rule and verdict must fit the same call."""

    tool: str | None = None
    """Name of a called tool: of turns, approvals and executions."""
    rule: str | None = None
    """Name of a rule, or POLICY/RULE: of verdicts, and of steering rules that changed something."""
    verdict: str | None = None
    """A decision of the guard."""
    feature: str | None = None
    """A watched feature or probe, as NAME or POLICY.NAME; or LAYER:INDEX of a feature that stands in the trace."""
    status: str | None = None
    """The finish of a turn, the decision of an approval or the status of an execution."""
    since: datetime | None = None
    """Not before."""
    until: datetime | None = None
    """Before."""
    kind: str | None = None
    """One of `KINDS`, such as `turn`, `approval` or `execution`."""
    conversation: str | None = None
    """Id that the records of one conversation of the agent loop share."""
    meta: tuple[tuple[str, str], ...] = ()
    """Keys and values of the records' `metadata`, all of which must be there; of a list, one item is enough."""
    above: float | None = None
    """The feature was higher than this, raw, at a token or in a verdict's reading; None where it need only be there."""
    run: str | None = None
    """Id of the run that a record belongs to."""

    def __post_init__(self) -> None:
        for name, asked, closed in (("verdict", self.verdict, DECISIONS), ("kind", self.kind, KINDS)):
            if asked is not None and asked not in closed:
                raise AuditError(f"{name}: got {asked!r}, expected one of {', '.join(closed)}{nearest(asked, closed)}")
        for name in ("tool", "rule", "feature", "status", "conversation", "run"):
            if getattr(self, name) == "":
                raise AuditError(f"{name}: got an empty text, expected a name")
        if self.above is not None and (self.feature is None or not math.isfinite(self.above)):
            raise AuditError(f"above: got {self.above} of {self.feature}, expected a finite number of a feature")
        for name, moment in (("since", self.since), ("until", self.until)):
            if moment is not None and moment.tzinfo is None:
                raise AuditError(f"{name}: got {moment}, expected a time with its zone")
        if self.since is not None and self.until is not None and self.since > self.until:
            raise AuditError(f"until: got {self.until}, expected a time after since, {self.since}")


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown word: `; did you mean '…'?`, or nothing where no known word is near."""
    found = difflib.get_close_matches(word.lower(), sorted(known), 1)
    return f"; did you mean '{found[0]}'?" if found else ""


def find(
    store: Store, query: Query, limit: int | None = None, *, newest_first: bool = False, after: int = 0
) -> Iterator[StoredRecord]:
    """The records after one that fit a query, in the order of their sequence; reads no further than `limit` needs."""
    found = 0
    for record in store.records(newest_first=newest_first, after=after, where=narrowed(query)):
        if found == limit:
            return
        if fits(store, record, query):
            found += 1
            yield record


def narrowed(query: Query) -> list[tuple[str, str | bytes | int]]:
    """Conditions in SQL that every record must fit that fits the query; they spare reading most of the others."""
    found: list[tuple[str, str | bytes | int]] = []
    for sign, moment in ((">=", query.since), ("<", query.until)):
        if moment is not None:
            found.append((f"time {sign} ?", moment.astimezone(UTC).isoformat(timespec="microseconds")))
    rule = None if query.rule is None else query.rule.rpartition("/")[2]
    words = {"name": query.tool, "rule": rule, "decision": query.verdict, "kind": query.kind}
    words |= {"conversation": query.conversation, "run": query.run}
    return [*found, *(says(**{key: word}) for key, word in words.items() if word is not None)]


def fits(store: Store, stored: StoredRecord, query: Query) -> bool:
    """True if a record fits a query, and where it cannot be read: it cannot be ruled out then."""
    with named_errors(stored):
        return _fits(store, stored, query)


def _fits(store: Store, stored: StoredRecord, query: Query) -> bool:
    try:
        record = read_public(stored)
    except AuditError:
        return True  # it cannot be ruled out, and whoever reads it says what is wrong
    if query.kind is not None and record.kind != query.kind:
        return False
    if query.conversation is not None and conversation_of(record) != query.conversation:
        return False
    if query.run is not None and record.run != query.run:
        return False
    if query.status is not None and query.status not in states_of(record):
        return False
    if query.meta and not _has_meta(read_content(stored).metadata, query.meta):
        return False
    judged = (query.tool, query.rule, query.verdict)
    if any(judged) and not any(_is_asked(query, call, verdict) for call, verdict in _pairs(record)):
        edited = query.rule is not None and not query.tool and not query.verdict
        edits = record.edits if edited and isinstance(record, TurnRecord) else ()
        if not any(_is_rule(query.rule, edit) for edit in edits):
            return False
    return query.feature is None or _shows(store, stored, record, query.feature, query.above)


def _has_meta(said: Mapping[str, Any] | None, asked: Iterable[tuple[str, str]]) -> bool:
    return said is not None and all(key in said and value in _as_asked(said[key]) for key, value in asked)


def _as_asked(value: Any) -> list[str]:
    """A value of metadata, or each item of a list, as one asks for it: numbers and truth values as JSON writes them."""
    items = value if isinstance(value, list) else [value]
    return [one if isinstance(one, str) else canonical(one).decode() for one in items]


def states_of(record: Record) -> set[str]:
    """The finish of a turn, the decision of an approval or the status of an execution."""
    if isinstance(record, TurnRecord):
        return {record.finish}
    if isinstance(record, ApprovalRecord):
        return {record.decision}
    return {record.status} if isinstance(record, ExecutionRecord) else set()


def conversation_of(record: Record) -> str | None:
    """The conversation that a record belongs to."""
    return record.conversation if isinstance(record, (TurnRecord, ApprovalRecord, ExecutionRecord)) else None


def _pairs(record: Record) -> Iterator[tuple[CallLike, Verdict | None]]:
    """Each call with its verdict; of an approval or an execution, its call alone."""
    if isinstance(record, (ApprovalRecord, ExecutionRecord)):
        yield record.call, None
    elif isinstance(record, TurnRecord):
        yield from zip(record.calls, record.verdicts, strict=True)


def _is_asked(query: Query, call: CallLike, verdict: Verdict | None) -> bool:
    if query.tool is not None and not (isinstance(call, Call) and call.name == query.tool):
        return False
    if query.verdict is not None and (verdict is None or verdict.decision != query.verdict):
        return False
    return query.rule is None or (verdict is not None and _is_rule(query.rule, verdict))


def _is_rule(asked: str | None, one: Verdict | Edit) -> bool:
    return asked in (one.rule, one.full_name)


def _shows(store: Store, stored: StoredRecord, record: Record, feature: str, above: float | None) -> bool:
    """True if a turn's verdicts read a feature, or its trace has it, so high."""
    verdicts = record.verdicts if isinstance(record, TurnRecord) else ()
    least = -math.inf if above is None else above
    if any(one.name == feature and one.value > least for verdict in verdicts for one in verdict.readings):
        return True
    packed = store.trace_of(stored)
    return bool(packed) and any(value > least for value in values_of(unpack(packed), feature).values())
