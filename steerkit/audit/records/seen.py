"""What a store has seen: so that a name nobody ever used is told from one that no record fits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from steerkit.audit.log.schema import StoredRecord
from steerkit.audit.log.shapes import read_content
from steerkit.audit.log.store import Store
from steerkit.audit.log.trace_codec import unpack
from steerkit.audit.records.query import Query, nearest
from steerkit.errors import AuditError

STATES: Final = (
    "stop", "tool_call", "fabricated", "tripwire", "length",
    "approve", "refuse",
    "ok", "error", "timeout", "refused", "denied", "interrupted",
)  # fmt: skip
"""How a turn may finish, an approval be decided and an execution come out."""

_Names = Callable[[Store, StoredRecord, Mapping[str, Any]], Iterable[str]]
"""The names of one sort in a record and its content."""


def unseen(store: Store, query: Query) -> list[str]:
    """A line for each name of a query that no record of the store has, with the nearest one that some record has.

    A tool that was declared and a rule or feature of a recorded policy count as seen. Records that cannot be read are
    passed over.
    """
    feature = query.feature if query.feature is not None and ":" not in query.feature else None
    asked: dict[str, tuple[str | None, _Names]] = {
        "tool": (query.tool, _tools),
        "rule": (query.rule, _rules),
        "feature": (feature, _features),
        "status": (query.status, _states),
    }
    wanted = {name: (word, of) for name, (word, of) in asked.items() if word is not None}
    found: dict[str, set[str]] = {name: set() for name in (*wanted, "meta")}
    found["status"] = set(STATES)
    for record, content in _readable(store) if wanted or query.meta else ():
        for name, (_, of) in wanted.items():
            found[name].update(of(store, record, content))
        found["meta"].update(content.get("metadata") or ())
    words = [(name, str(word)) for name, (word, _) in wanted.items()] + [("meta", key) for key, _ in query.meta]
    return [
        f"{name}: no record of {store.path} has '{word}'{nearest(word, found[name]) or _all(found[name])}"
        for name, word in words
        if word not in found[name]
    ]


def _all(names: set[str]) -> str:
    return f"; it has {', '.join(sorted(names))}" if 0 < len(names) <= 13 else ""


def _readable(store: Store) -> Iterator[tuple[StoredRecord, dict[str, Any]]]:
    for record in store.records():
        try:
            yield record, read_content(record)
        except AuditError:
            continue


def _tools(store: Store, record: StoredRecord, content: Mapping[str, Any]) -> Iterator[str]:
    declared = content.get("tools")
    for one in [content.get("call"), *content.get("calls", ()), *(declared if isinstance(declared, list) else ())]:
        if isinstance(one, Mapping) and isinstance(one.get("name"), str):
            yield one["name"]


def _rules(store: Store, record: StoredRecord, content: Mapping[str, Any]) -> Iterator[str]:
    for one in [*content.get("verdicts", ()), *content.get("edits", ())]:
        yield from (one["rule"], f"{one['policy']}/{one['rule']}")
    for policy in content.get("policies", ()):
        said = policy.get("content", {})
        guard = said.get("guard") or {}
        for rule in [*_listed(said.get("steer")), *_listed(guard.get("rules") if isinstance(guard, Mapping) else ())]:
            yield from (str(rule.get("name")), f"{policy['name']}/{rule.get('name')}")


def _features(store: Store, record: StoredRecord, content: Mapping[str, Any]) -> Iterator[str]:
    for verdict in content.get("verdicts", ()):
        yield from (reading["name"] for reading in verdict["readings"])
    for policy in content.get("policies", ()):
        for key in ("features", "probes"):
            named = policy.get("content", {}).get(key)
            for name in named if isinstance(named, Mapping) else ():
                yield from (name, f"{policy['name']}.{name}")
    packed = store.trace_of(record) if content.get("kind") == "turn" else b""
    for name in unpack(packed).watched if packed else ():
        yield from (name, name.partition(".")[2])


def _states(store: Store, record: StoredRecord, content: Mapping[str, Any]) -> Iterator[str]:
    yield from (str(content[key]) for key in ("finish", "status") if key in content)


def _listed(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []
