"""Compares a recorded turn with the same turn made again: the first difference, and what may have caused it."""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from steerkit.audit.records.recorded import RecordedTurn, path_of
from steerkit.types import Trace

ABSENT: Final = "(absent)"
"""Stands for a value that one side does not have."""

_DECIDES: Final = ("decision", "rule", "policy", "shadowed")
"""Of a verdict, what it is; its readings and its reason are how it came to that."""
_MEASURED: Final = ("verdicts", "edits", "trace")
_ROUNDING: Final = 2e-3
"""What was measured is the same to float16, in which the strongest features are kept: the same sums over more tokens at
once are rounded otherwise."""
_CAUSES: Final = ("model", "saes", "policies", "libraries", "machine", "batch")
"""In the order in which they are likely to be the cause."""
_NO_CAUSE: Final = frozenset({"name", "mode", "content"})
"""A path, or what a fingerprint stands for."""

Key = str | int


class Difference(NamedTuple):
    """A place at which two turns differ."""

    path: str
    """Such as `reply_ids[3]` or `verdicts[0].decision`."""
    recorded: Any
    now: Any


class Comparison(NamedTuple):
    """What came of doing a turn again."""

    tokens: bool | None
    """Whether prompt and reply are the same; None where no tokens were made."""
    verdicts: bool
    """Whether every decision is the same, by the same rule."""
    difference: Difference | None
    """The first one, in the order prompt, reply, calls, verdicts, readings, edits, trace."""
    changed: tuple[Difference, ...]
    """How the turn came about then and now, the likeliest cause first."""

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return self.difference is None


def compare(recorded: RecordedTurn, body: Mapping[str, Any], trace: Trace | None) -> Comparison:
    """Hold a turn that was made again against its record.

    Args:
        recorded: the turn as it was.
        body: of the turn as it is now, as `body_of` makes it.
        trace: of the turn as it is now.
    """
    sections = ("prompt_ids", "reply_ids", "finish", "text", "calls")
    then, now = _verdicts(recorded.body["verdicts"]), _verdicts(body["verdicts"])
    tokens = all(list(recorded.body[name]) == list(body[name]) for name in ("prompt_ids", "reply_ids"))
    parts = [(name, recorded.body[name], body[name]) for name in sections]
    parts += [("verdicts", then, now), *_evidence(recorded, body, trace)]
    if "counterfactual" in recorded.body and not any(name.startswith("counterfactual") for name in recorded.missing):
        was, is_now = (_decided(side.get("counterfactual")) for side in (recorded.body, body))
        parts.append(("counterfactual", was, is_now))
    return Comparison(tokens, then == now, _first(parts, recorded.missing), tuple(changes(recorded.body, body)))


def compare_verdicts(
    recorded: RecordedTurn, verdicts: Sequence[Mapping[str, Any]], policies: Sequence[Mapping[str, Any]]
) -> Comparison:
    """Hold verdicts that were recomputed from a record against those that stand in it.

    Args:
        recorded: the turn as it was.
        verdicts: as a record would say them.
        policies: `name` and `fingerprint` of those that they were recomputed by.
    """
    then, now = _verdicts(recorded.body["verdicts"]), _verdicts(verdicts)
    parts = [("verdicts", then, now), ("verdicts", recorded.body["verdicts"], verdicts)]
    changed = tuple(changes(recorded.body, {"policies": policies}))
    return Comparison(None, then == now, _first(parts, recorded.missing), changed)


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
    """What differs in how two turns came about, as far as both say it."""
    for name in (name for name in _CAUSES if name in now):
        before, after = _shaping(name, then.get(name)), _shaping(name, now.get(name))
        if before is None or after is None:
            if name == "saes" and before != after:
                yield Difference("saes", *("none" if one is None else one["fingerprint"] for one in (before, after)))
            continue
        if name == "batch" and _is_exact(then, now):
            continue
        for key in before | after:
            one, other = before.get(key, ABSENT), after.get(key, ABSENT)
            told = (key in before and key in after) or name == "policies"  # what is not said has not changed
            if told and one != other:
                yield Difference(path_of([name, key]), one, other)


def first_difference(
    then: Any, now: Any, path: tuple[Key, ...], rounding: float = 0.0
) -> tuple[tuple[Key, ...], Any, Any] | None:
    """The first place at which two JSON values differ, depth first; None where they are equal.

    1 and 1.0 are one number, true is none. Numbers may differ by `rounding`, of their size and at least of 1.
    """
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        pairs = [(key, then.get(key, ABSENT), now.get(key, ABSENT)) for key in {**then, **now}]
        return next((found for key, a, b in pairs if (found := first_difference(a, b, (*path, key), rounding))), None)
    if isinstance(then, (list, tuple)) and isinstance(now, (list, tuple)):
        longest = max(len(then), len(now))
        for index in range(longest):
            a, b = (side[index] if index < len(side) else ABSENT for side in (then, now))
            if found := first_difference(a, b, (*path, index), rounding):
                return found
        return None
    same = then == now and isinstance(then, bool) == isinstance(now, bool)
    if rounding and _are_measured(then, now):
        same = math.isclose(then, now, rel_tol=rounding, abs_tol=rounding)
    return None if same else (path, then, now)


def _are_measured(then: Any, now: Any) -> bool:
    """Whether two numbers are no counts; canonical JSON writes 3.0 as 3, so one of them may look like an integer."""
    kinds = {type(then), type(now)}
    return float in kinds and kinds <= {float, int}


def _first(parts: Sequence[tuple[str, Any, Any]], missing: Collection[str]) -> Difference | None:
    for name, then, now in parts:
        if name in missing:
            continue
        rounding = _ROUNDING if name in _MEASURED else 0.0
        found = first_difference(_without(name, then, missing), _without(name, now, missing), (name,), rounding)
        if found is not None:
            return Difference(path_of(found[0]), found[1], found[2])
    return None


def _without(name: str, value: Any, missing: Collection[str]) -> Any:
    """A part without what was redacted of it: the reasons of verdicts."""
    if name != "verdicts":
        return value
    return [
        {key: item for key, item in one.items() if path_of([name, number, key]) not in missing}
        for number, one in enumerate(value)
    ]


def _verdicts(verdicts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{key: verdict[key] for key in _DECIDES} for verdict in verdicts]


def _decided(turn: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A counterfactual without what was measured of it."""
    return None if turn is None else {**turn, "verdicts": _verdicts(turn["verdicts"])}


def _evidence(recorded: RecordedTurn, body: Mapping[str, Any], trace: Trace | None) -> Iterator[tuple[str, Any, Any]]:
    """What the verdicts were decided on and what was edited, and the trace, where it is still there."""
    yield "verdicts", recorded.body["verdicts"], body["verdicts"]
    yield "edits", recorded.body["edits"], body["edits"]
    if recorded.trace is not None and trace is not None:
        yield "trace", _features(recorded.trace), _features(trace)


def _features(trace: Trace) -> dict[str, Any]:
    """A trace as JSON: the watched values, and how strong the strongest features of each site were."""
    top = {one.site.name: list(struct.unpack(f"<{one.count * one.k}e", one.value)) for one in trace.top}
    return {"watched": {name: list(values) for name, values in sorted(trace.watched.items())}, "top": top}


def _shaping(name: str, value: Any) -> dict[str, Any] | None:
    """One part of how a turn came about, flat."""
    if name == "policies":
        return {policy["name"]: policy["fingerprint"] for policy in value or ()}
    if not isinstance(value, Mapping):
        return None
    return {key: item for key, item in value.items() if key not in _NO_CAUSE}


def _is_exact(*turns: Mapping[str, Any]) -> bool:
    """Whether a turn does not depend on what it was made together with."""
    return all(one["model"]["device"] == "cpu" and one["model"]["dtype"] == "float32" for one in turns)
