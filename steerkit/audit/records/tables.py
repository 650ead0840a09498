"""Records as flat rows, for tables: one per record, one per call, or one per value of a feature.

`records`, a row per record: its place in the chain, `kind`, `run` and `number`, and `body`, its whole content as JSON.

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
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from steerkit.audit.log.schema import StoredRecord
from steerkit.audit.log.shapes import kind_of, read_content
from steerkit.audit.log.store import Store
from steerkit.audit.log.trace_codec import unpack
from steerkit.audit.records.recorded import redacted_paths
from steerkit.decisions import releases
from steerkit.types import Trace


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
    """Of the token, prompt and reply together, from 0."""
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


def record_rows(store: Store, record: StoredRecord) -> Iterator[dict[str, Any]]:
    """One row: the record's place in the chain, and its whole content as JSON, redactions in their places."""
    public = record.public
    read_content(record)
    yield {
        **_head(record),
        "kind": public.get("kind"),
        "run": public.get("run"),
        "number": public.get("number"),
        "previous": record.previous,
        "hash": record.hash,
        "body": _json(record.content),
        "redacted": redacted_paths(record),
    }


def call_rows(store: Store, record: StoredRecord) -> Iterator[dict[str, Any]]:
    """A row per call of a turn, one without a call for a turn that made none; none for other records."""
    if kind_of(record.public) != "turn":
        return
    content = read_content(record)
    gone = redacted_paths(record)
    turn = _turn(record, content, gone)
    pairs = list(zip(content["calls"], content["verdicts"], strict=True))
    said = [verdict["decision"] for _, verdict in pairs]
    for number, (call, verdict) in enumerate(pairs):
        at = f"calls[{number}]"
        yield turn | {
            "call": number,
            "tool": call.get("name"),
            "arguments": _unless(f"{at}.arguments" in gone, _json(call["arguments"]) if "arguments" in call else None),
            "malformed": _unless(f"{at}.malformed" in gone, call.get("malformed")),
            **{key: verdict[key] for key in ("decision", "rule", "policy", "shadowed")},
            "reason": _unless(f"verdicts[{number}].reason" in gone, verdict["reason"]),
            "released": "name" in call and releases(verdict["decision"], said),
        }
    if not pairs:
        yield turn


def feature_rows(store: Store, record: StoredRecord) -> Iterator[dict[str, Any]]:
    """A row per value in a turn's trace; none where it was redacted."""
    packed = store.trace_of(record)
    if not packed:
        return
    head = {"sequence": record.sequence, "record": record.id}
    for one in watched_and_top(unpack(packed)):
        site = {"site": one.site, "layer": one.layer, "index": one.index_in_layer}
        yield {**head, "position": one.position, "name": one.name, **site, "value": one.value}


TABLES: Final[Mapping[str, tuple[Rows, Mapping[str, str]]]] = {
    "records": (record_rows, RECORD_COLUMNS),
    "calls": (call_rows, CALL_COLUMNS),
    "features": (feature_rows, FEATURE_COLUMNS),
}
"""By name, how its rows are made and which columns of which type it has; a column may be empty (null)."""


def _turn(record: StoredRecord, content: Mapping[str, Any], gone: list[str]) -> dict[str, Any]:
    """What the rows of a turn have in common."""
    saes, unsteered = content["saes"], content.get("counterfactual")
    hidden = any(name.startswith("counterfactual.calls") for name in gone)
    return {
        **_head(record),
        "run": content.get("run"),
        "number": content.get("number"),
        "attempt": content["attempt"],
        "finish": content["finish"],
        "text": _unless("text" in gone, content["text"]),
        "unsteered_calls": _unless(hidden or unsteered is None, _json((unsteered or {}).get("calls"))),
        "edits": len(content["edits"]),
        "prompt_tokens": _unless("prompt_ids" in gone, len(content["prompt_ids"])),
        "reply_tokens": _unless("reply_ids" in gone, len(content["reply_ids"])),
        "seconds": content.get("seconds"),
        "model": content["model"]["name"],
        "model_fingerprint": content["model"]["fingerprint"],
        "saes_fingerprint": None if saes is None else saes["fingerprint"],
        "policies": [policy["name"] for policy in content["policies"]],
        "seed": str(content["sampling"].get("seed")),
        "metadata": _unless("metadata" in gone or "metadata" not in content, _json(content.get("metadata"))),
        "redacted": gone,
    }


def _head(record: StoredRecord) -> dict[str, Any]:
    return {"sequence": record.sequence, "record": record.id, "time": datetime.fromisoformat(record.time)}


def _unless(gone: bool, value: Any) -> Any:
    return None if gone else value


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
