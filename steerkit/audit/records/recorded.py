"""Reads turns back from a store, whole: what a replay needs, or one line that says what of it is missing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from steerkit.audit.log.commitments import TRACE
from steerkit.audit.log.run_log import OPENED
from steerkit.audit.log.schema import StoredRecord
from steerkit.audit.log.shapes import kind_of, read_content
from steerkit.audit.log.store import Store
from steerkit.audit.log.trace_codec import unpack
from steerkit.audit.records.opening import opening_of, policies_of
from steerkit.errors import AuditError
from steerkit.types import Trace

_NEEDED: Final = frozenset({"messages", "tools", "prompt_ids", "reply_ids", "calls"})
"""Contents without which nothing can be done again."""
_TOLD: Final = ("model.template", "libraries", "machine", "batch")
"""What older records do not say of how a turn came about."""


@dataclass(frozen=True, slots=True)
class RecordedTurn:
    """A turn as its record and its run's opening together say it."""

    id: str
    body: Mapping[str, Any]
    """The record's content, with the policies' content and the libraries' versions that its run was opened with."""
    trace: Trace | None
    """None where it was redacted."""
    missing: tuple[str, ...]
    """What the record does not say, as it is older or was redacted."""


def read_turn(store: Store, record: StoredRecord) -> RecordedTurn:
    """A turn from its record.

    Raises:
        AuditError: the record is of no turn, or content without which nothing can be done again was redacted.
    """
    content = read_content(record, whole=True)
    if kind_of(content) != "turn":
        raise AuditError(f"{store.path}: record {record.id} is a {content.get('kind')}; expected a turn, or a run's id")
    gone = redacted_paths(record)
    if lost := sorted({name.split(".")[0].split("[")[0] for name in gone} & _NEEDED):
        raise AuditError(
            f"{store.path}: record {record.id}: its {', '.join(lost)} were redacted, so it cannot be replayed"
        )
    opening = opening_of(store, record)
    content["policies"] = policies_of(store, record)
    for key in ("libraries", "machine"):
        if key not in content and opening is not None and key in opening.public:
            content[key] = opening.public[key]
    packed = store.trace_of(record)
    missing = [*(name for name in _TOLD if not _has(content, name)), *gone]
    if not packed and TRACE in record.public.get("committed", {}):
        missing.append("trace")
    trace = unpack(packed) if packed else None
    return RecordedTurn(record.id, content, trace, tuple(missing))


def turns_of(store: Store, reference: str) -> list[StoredRecord]:
    """The turn with this id, number or beginning of an id; or all turns of the run with it, in order.

    Raises:
        AuditError: there is neither, or there are several.
    """
    run = _run_of(store, reference)
    if run is None:
        record = store.get(reference)
        if record.public.get("kind") != OPENED:
            return [record]
        run = record.public["run"]
    with store.file.told("read"):
        rows = store.database.execute(
            "SELECT id FROM records WHERE instr(body, ?) AND instr(body, ?) ORDER BY sequence",
            (f'"run":"{run}"'.encode(), b'"kind":"turn"'),
        ).fetchall()
    return [store.get(id) for (id,) in rows]


def _run_of(store: Store, reference: str) -> str | None:
    """The run whose id begins so; None where none does."""
    if len(reference) < 4 or not reference.isalnum() or reference.isdecimal():
        return None
    with store.file.told("read"):
        rows = store.database.execute(
            "SELECT body FROM records WHERE instr(body, ?) AND instr(body, ?) LIMIT 2",
            (f'"run":"{reference}'.encode(), f'"kind":"{OPENED}"'.encode()),
        ).fetchall()
    if len(rows) > 1:
        raise AuditError(f"{store.path}: several runs begin with '{reference}'; give more of the id")
    return StoredRecord(0, "", "", "", "", rows[0][0]).public["run"] if rows else None


def redacted_paths(record: StoredRecord) -> list[str]:
    """Paths of the contents that were redacted, such as `calls[0].arguments`; without the trace."""
    found = []
    for name in record.public.get("committed", {}):
        content = record.contents.get(name)
        if name != TRACE and (content is None or content.is_redacted):
            found.append(path_of(int(key) if key.isdecimal() else key for key in name.split("/")[1:]))
    return found


def path_of(keys: Iterable[str | int]) -> str:
    """A path as people write one: `calls[0].arguments.to`; a key that is no plain word stands in quotes."""
    found = ""
    for key in keys:
        if isinstance(key, int):
            found += f"[{key}]"
        elif key.isidentifier():
            found += f".{key}" if found else key
        else:
            found += f"[{json.dumps(key, ensure_ascii=False)}]"
    return found


def _has(content: Mapping[str, Any], name: str) -> bool:
    value: Any = content
    for key in name.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return False
        value = value[key]
    return True
