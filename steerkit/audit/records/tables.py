"""Records as flat rows, for tables: one per record, one per call, or one per value of a feature.

`records`, a row per record: its place in the chain, `kind`, `run` and `number`, and `body`, its content as JSON.

`calls`, a row per call, and one for a turn without any: what the turn said (`text`, `finish`, `edits`, which counts
the steering rules that changed something, `unsteered_calls` and `metadata` as JSON, `model`, `seed` and so on), and of
the call its place in the turn from 0 (`call`), `tool`, `arguments` as JSON, or `malformed`, and `decision`, `rule`,
`policy`, `reason`, `shadowed` and `released`.

`features`, a row per feature or probe and token of a trace: `position`, the `name` of a watched one, the `layer` and
`index` of a feature, and its `value`.

Every table has `sequence` and `record` (the id) to join by; `time` is UTC. What was redacted is empty, and `redacted`
names it. A seed and arguments are text, as integers in them may be of any size.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from steerkit.audit.log.reading import read_content
from steerkit.audit.log.store import Store
from steerkit.audit.log.stored_record import StoredRecord
from steerkit.audit.log.trace_codec import unpack
from steerkit.audit.records.recorded import redacted_paths
from steerkit.audit.schema import Gone, TurnRecord, as_json
from steerkit.decisions import releases
from steerkit.types import Call, CallLike, MalformedCall, Trace


class Value(NamedTuple):
    """A feature or probe at one token."""

    name: str | None
    """POLICY.NAME of a watched one; None of one that is there for its strength."""
    site: str | None
    """Hook point and layer."""
    layer: int | None
    """None of a probe."""
    index_in_layer: int | None
    position: int
    """Position of the token, prompt and reply together, from 0."""
    value: float
    """Raw activation, or weighted sum, before any edit."""


RECORD_COLUMNS: Final = {
    "sequence": "int64",
    "record": "string",
    "time": "time",
    "kind": "string",
    "run": "string",
    "number": "int64",
    "previous": "string",
    "hash": "string",
    "body": "string",
    "redacted": "strings",
}
CALL_COLUMNS: Final = {
    "sequence": "int64",
    "record": "string",
    "time": "time",
    "run": "string",
    "number": "int64",
    "attempt": "int64",
    "finish": "string",
    "text": "string",
    "call": "int64",
    "tool": "string",
    "arguments": "string",
    "malformed": "string",
    "decision": "string",
    "rule": "string",
    "policy": "string",
    "reason": "string",
    "shadowed": "string",
    "released": "bool",
    "unsteered_calls": "string",
    "edits": "int64",
    "prompt_tokens": "int64",
    "reply_tokens": "int64",
    "seconds": "double",
    "model": "string",
    "model_fingerprint": "string",
    "saes_fingerprint": "string",
    "policies": "strings",
    "seed": "string",
    "metadata": "string",
    "redacted": "strings",
}
FEATURE_COLUMNS: Final = {
    "sequence": "int64",
    "record": "string",
    "position": "int64",
    "name": "string",
    "site": "string",
    "layer": "int64",
    "index": "int64",
    "value": "double",
}

Rows = Callable[[Store, StoredRecord], Iterator[dict[str, Any]]]
"""The rows of one record."""


def watched_and_top(trace: Trace) -> Iterator[Value]:
    """Every value in a trace: the watched ones, then each site's strongest above 0."""
    for name, values in trace.watched.items():
        one = trace.features.get(name)
        site, layer, index = (None, None, None) if one is None else (str(one.site), one.layer, one.index)
        for position, value in enumerate(values, start=trace.start):
            yield Value(name, site, layer, index, position, value)
    for top in trace.top:
        total = top.count * top.k
        pairs = zip(struct.unpack(f"<{total}H", top.index), struct.unpack(f"<{total}e", top.value), strict=True)
        for number, (index, value) in enumerate(pairs):
            if value > 0:
                yield Value(None, str(top.site), top.layer, index, top.start + number // top.k, value)


def record_rows(store: Store, stored: StoredRecord) -> Iterator[dict[str, Any]]:
    """One row: the record's place in the chain, and its complete content as JSON, redactions in their places."""
    record = read_content(stored)
    yield {
        **_head(stored),
        "kind": record.kind or None,
        "run": record.run,
        "number": record.number,
        "previous": stored.previous,
        "hash": stored.hash,
        "body": _json(stored.content),
        "redacted": redacted_paths(stored),
    }


def call_rows(store: Store, stored: StoredRecord) -> Iterator[dict[str, Any]]:
    """A row per call of a turn, one without a call for a turn that made none; none for other records."""
    record = read_content(stored)
    if not isinstance(record, TurnRecord):
        return
    turn = _turn(stored, record)
    pairs = list(zip(record.calls, record.verdicts, strict=True))
    said = [verdict.decision for verdict in record.verdicts]
    for number, (call, verdict) in enumerate(pairs):
        is_call = isinstance(call, Call)
        yield turn | {
            "call": number,
            "tool": call.name if isinstance(call, Call) else None,
            "arguments": _json_unless_gone(call.arguments) if isinstance(call, Call) else None,
            "malformed": _unless_gone(call.error) if isinstance(call, MalformedCall) else None,
            "decision": verdict.decision,
            "rule": verdict.rule,
            "policy": verdict.policy,
            "shadowed": verdict.shadowed,
            "reason": _unless_gone(verdict.reason),
            "released": is_call and releases(verdict.decision, said),
        }
    if not pairs:
        yield turn


def feature_rows(store: Store, stored: StoredRecord) -> Iterator[dict[str, Any]]:
    """A row per value in a turn's trace; none where it was redacted."""
    packed = store.trace_of(stored)
    if not packed:
        return
    head = {"sequence": stored.sequence, "record": stored.id}
    for one in watched_and_top(unpack(packed)):
        site = {"site": one.site, "layer": one.layer, "index": one.index_in_layer}
        yield {**head, "position": one.position, "name": one.name, **site, "value": one.value}


TABLES: Final[Mapping[str, tuple[Rows, Mapping[str, str]]]] = {
    "records": (record_rows, RECORD_COLUMNS),
    "calls": (call_rows, CALL_COLUMNS),
    "features": (feature_rows, FEATURE_COLUMNS),
}
"""By name, the function that makes its rows, and its columns with their types; a column may be empty (null)."""


def _turn(stored: StoredRecord, turn: TurnRecord) -> dict[str, Any]:
    """Columns that the rows of a turn have in common."""
    unsteered = turn.counterfactual
    hidden = unsteered is not None and any(_is_gone(call) for call in unsteered.calls)
    return {
        **_head(stored),
        "run": turn.run,
        "number": turn.number,
        "attempt": turn.attempt,
        "finish": turn.finish,
        "text": _unless_gone(turn.text),
        "unsteered_calls": None if unsteered is None or hidden else _json(as_json(unsteered.calls)),
        "edits": len(turn.edits),
        "prompt_tokens": _length_unless_gone(turn.prompt_ids),
        "reply_tokens": _length_unless_gone(turn.reply_ids),
        "seconds": turn.seconds,
        "model": turn.model.name,
        "model_fingerprint": turn.model.fingerprint,
        "saes_fingerprint": None if turn.saes is None else turn.saes.fingerprint,
        "policies": [policy.name for policy in turn.policies],
        "seed": str(turn.sampling.seed),
        "metadata": None if turn.metadata is None else _json_unless_gone(turn.metadata),
        "redacted": redacted_paths(stored),
    }


def _head(stored: StoredRecord) -> dict[str, Any]:
    return {"sequence": stored.sequence, "record": stored.id, "time": datetime.fromisoformat(stored.time)}


def _is_gone(call: CallLike) -> bool:
    return isinstance(call.arguments if isinstance(call, Call) else call.error, Gone)


def _unless_gone(text: str) -> str | None:
    return None if isinstance(text, Gone) else text


def _json_unless_gone(value: Mapping[str, Any]) -> str | None:
    return None if isinstance(value, Gone) else _json(value)


def _length_unless_gone(ids: Sequence[int]) -> int | None:
    return None if isinstance(ids, Gone) else len(ids)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
