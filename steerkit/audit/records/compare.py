"""A recorded turn against its replay: the first difference, and what may have caused it."""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from steerkit.audit.records.recorded import RecordedTurn
from steerkit.audit.schema import Counterfactual, PolicyIdentity, RunOpenedRecord, TurnRecord, as_json, path_of
from steerkit.types import Trace, Verdict

ABSENT: Final = "(absent)"
"""Stands for a value that one side does not have."""

_GENERATED: Final = ("prompt_ids", "reply_ids", "finish", "text", "calls")
_MEASURED: Final = ("verdicts", "edits", "trace")
_ROUNDING: Final = 2e-3
"""Tolerance of measured values: that of float16, which keeps the strongest features; longer batches round otherwise."""
_CAUSES: Final = ("model", "saes", "policies", "libraries", "machine", "batch")
"""In the order in which they are likely to be the cause."""

Key = str | int


class Difference(NamedTuple):
    """A place at which two turns differ."""

    path: str
    """Such as `reply_ids[3]` or `verdicts[0].decision`."""
    recorded: Any
    now: Any


class Comparison(NamedTuple):
    """Outcome of a replay."""

    tokens: bool | None
    """True if prompt and reply are the same; None where nothing was generated."""
    verdicts: bool
    """True if every decision is the same, by the same rule."""
    difference: Difference | None
    """The first one, in the order prompt, reply, calls, verdicts, readings, edits, trace."""
    changed: tuple[Difference, ...]
    """Differences in what shaped the turn then and now, the likeliest cause first."""

    @property
    def same(self) -> bool:
        """True if nothing differs."""
        return self.difference is None


def compare(recorded: RecordedTurn, again: TurnRecord, trace: Trace | None) -> Comparison:
    """Hold a turn that was replayed against its record.

    Args:
        recorded: the turn as it was.
        again: record of the turn as it is now, as `record_of` makes it.
        trace: of the turn as it is now.
    """
    record = recorded.record
    then, now = _decided(record.verdicts), _decided(again.verdicts)
    parts = [(name, as_json(getattr(record, name)), as_json(getattr(again, name))) for name in _GENERATED]
    tokens = all(was == is_now for _, was, is_now in parts[:2])
    parts += [("verdicts", then, now), *_evidence(recorded, again, trace)]
    if record.counterfactual is not None and not any(name.startswith("counterfactual") for name in recorded.missing):
        parts.append(("counterfactual", _unsteered(record.counterfactual), _unsteered(again.counterfactual)))
    return Comparison(tokens, then == now, _first(parts, recorded.missing), tuple(changes(record, again)))


def compare_verdicts(
    recorded: RecordedTurn, verdicts: Sequence[Verdict], policies: Sequence[PolicyIdentity]
) -> Comparison:
    """Hold verdicts that were recomputed from a record against those that stand in it.

    Args:
        recorded: the turn as it was.
        verdicts: as they are now.
        policies: those that they were recomputed by.
    """
    was = recorded.record
    then, now = _decided(was.verdicts), _decided(verdicts)
    parts = [("verdicts", then, now), ("verdicts", as_json(was.verdicts), as_json(verdicts))]
    changed = tuple(changes(was, replace(was, policies=tuple(policies))))
    return Comparison(None, then == now, _first(parts, recorded.missing), changed)


def changes(then: TurnRecord | RunOpenedRecord, now: TurnRecord | RunOpenedRecord) -> Iterator[Difference]:
    """Differences in what shaped two turns, as far as both records say it."""
    for name in _CAUSES:
        before, after = _shaping(then, name), _shaping(now, name)
        if before is None or after is None:
            if name == "saes" and before != after:
                yield Difference("saes", *("none" if one is None else one["fingerprint"] for one in (before, after)))
            continue
        if name == "batch" and _is_exact(then, now):
            continue
        for key in before | after:
            one, other = before.get(key, ABSENT), after.get(key, ABSENT)
            said = (key in before and key in after) or name == "policies"  # what is not said has not changed
            if said and one != other:
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
    """True if two numbers are no counts; canonical JSON writes 3.0 as 3, so one of them may look like an integer."""
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


def _decided(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Verdicts by what they decide; readings and reasons are how they came to that."""
    return [
        {"decision": one.decision, "rule": one.rule, "policy": one.policy, "shadowed": one.shadowed} for one in verdicts
    ]


def _unsteered(turn: Counterfactual | None) -> dict[str, Any] | None:
    """A counterfactual without what was measured of it."""
    if turn is None:
        return None
    decided = {**as_json(turn), "verdicts": _decided(turn.verdicts)}
    return {name: part for name, part in decided.items() if name != "layers"}


def _evidence(recorded: RecordedTurn, again: TurnRecord, trace: Trace | None) -> Iterator[tuple[str, Any, Any]]:
    """Readings of the verdicts, edits, and the trace where it is still there."""
    for name in ("verdicts", "edits"):
        yield name, as_json(getattr(recorded.record, name)), as_json(getattr(again, name))
    if recorded.trace is not None and trace is not None:
        yield "trace", _features(recorded.trace), _features(trace)


def _features(trace: Trace) -> dict[str, Any]:
    """A trace as JSON: the watched values, and how strong the strongest features of each site were."""
    top = {one.site.name: list(struct.unpack(f"<{one.count * one.k}e", one.value)) for one in trace.top}
    return {"watched": {name: list(values) for name, values in sorted(trace.watched.items())}, "top": top}


def _shaping(record: TurnRecord | RunOpenedRecord, name: str) -> dict[str, Any] | None:
    """One part of what shaped a turn, flat; None where the record does not say it."""
    if name == "policies":
        return {policy.name: policy.fingerprint for policy in record.policies}
    found = as_json(getattr(record, name, None))
    return None if found is None else {key: item for key, item in found.items() if key != "name"}


def _is_exact(*turns: TurnRecord | RunOpenedRecord) -> bool:
    """True where a turn does not depend on the batch that it was generated in."""
    return all(one.model.device == "cpu" and one.model.dtype == "float32" for one in turns)
