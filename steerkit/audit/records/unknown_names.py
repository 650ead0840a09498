"""Names in a query that no record has, so that a misspelled name is distinguished from one that no record fits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from steerkit.audit.log.reading import read_content
from steerkit.audit.log.store import Store
from steerkit.audit.log.stored_record import StoredRecord
from steerkit.audit.log.trace_codec import unpack
from steerkit.audit.records.query import Query, nearest, states_of
from steerkit.audit.schema import ApprovalRecord, ExecutionRecord, Record, RunOpenedRecord, TurnRecord
from steerkit.errors import AuditError
from steerkit.types import Call, Edit, Verdict

STATES: Final = (
    "stop", "tool_call", "fabricated", "tripwire", "length",
    "approve", "refuse",
    "ok", "error", "timeout", "refused", "denied", "interrupted",
)  # fmt: skip
"""Words for how a turn may finish, an approval be decided and an execution come out."""

_Names = Callable[[Store, StoredRecord, Record], Iterable[str]]
"""The names of one sort in a record."""


def unknown_names(store: Store, query: Query) -> list[str]:
    """A line for each name of a query that no record of the store has, with the nearest one that some record has.

    Declared tools, and rules and features of recorded policies, count as well. Records that cannot be read are skipped.
    """
    feature = query.feature if query.feature is not None and ":" not in query.feature else None
    asked: dict[str, tuple[str | None, _Names]] = {
        "tool": (query.tool, _tools),
        "rule": (query.rule, _rules),
        "feature": (feature, _features),
        "status": (query.status, lambda store, stored, record: states_of(record)),
    }
    wanted = {name: (word, of) for name, (word, of) in asked.items() if word is not None}
    found: dict[str, set[str]] = {name: set() for name in (*wanted, "meta")}
    found["status"] = set(STATES)
    for stored, record in _readable(store) if wanted or query.meta else ():
        for name, (_, of) in wanted.items():
            found[name].update(of(store, stored, record))
        found["meta"].update(record.metadata or ())
    words = [(name, str(word)) for name, (word, _) in wanted.items()] + [("meta", key) for key, _ in query.meta]
    return [
        f"{name}: no record of {store.path} has '{word}'{nearest(word, found[name]) or _all(found[name])}"
        for name, word in words
        if word not in found[name]
    ]


def _all(names: set[str]) -> str:
    return f"; it has {', '.join(sorted(names))}" if 0 < len(names) <= 13 else ""


def _readable(store: Store) -> Iterator[tuple[StoredRecord, Record]]:
    for stored in store.records():
        try:
            yield stored, read_content(stored)
        except AuditError:
            continue


def _tools(store: Store, stored: StoredRecord, record: Record) -> Iterator[str]:
    if isinstance(record, TurnRecord):
        yield from (call.name for call in record.calls if isinstance(call, Call))
        yield from (tool.name for tool in record.tools)
    elif isinstance(record, (ApprovalRecord, ExecutionRecord)):
        yield record.call.name


def _rules(store: Store, stored: StoredRecord, record: Record) -> Iterator[str]:
    said: list[Verdict | Edit] = [*record.verdicts, *record.edits] if isinstance(record, TurnRecord) else []
    for one in said:
        yield from (one.rule, one.full_name)
    for name, content in _policies(record):
        guard = content.get("guard")
        rules = guard.get("rules") if isinstance(guard, Mapping) else ()
        for rule in [*_listed(content.get("steer")), *_listed(rules)]:
            yield from (str(rule.get("name")), f"{name}/{rule.get('name')}")


def _features(store: Store, stored: StoredRecord, record: Record) -> Iterator[str]:
    for name, content in _policies(record):
        for key in ("features", "probes"):
            named = content.get(key)
            for one in named if isinstance(named, Mapping) else ():
                yield from (one, f"{name}.{one}")
    if not isinstance(record, TurnRecord):
        return
    for verdict in record.verdicts:
        yield from (reading.name for reading in verdict.readings)
    packed = store.trace_of(stored)
    for name in unpack(packed).watched if packed else ():
        yield from (name, name.partition(".")[2])


def _policies(record: Record) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Names and contents of the policies that a record has in full."""
    for policy in record.policies if isinstance(record, (TurnRecord, RunOpenedRecord)) else ():
        if policy.content is not None:
            yield policy.name, policy.content


def _listed(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []
