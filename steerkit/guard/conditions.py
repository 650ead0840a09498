"""Evaluates the condition of a guard rule on a trace: the largest value at a place, against the rule's bounds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from steerkit.policy import GuardCondition, Policy, watch_key
from steerkit.types import NOWHERE, Call, Place, Reading, Span, Trace


class Outcome(NamedTuple):
    """Truth of a condition, in three values, and the values that decided."""

    holds: bool | None
    """None if it cannot be decided."""
    readings: tuple[Reading, ...] = ()
    """The largest values that decided, and their tokens."""
    missing: str | None = None
    """The value that is missing, where the condition cannot be decided."""


class Scope(NamedTuple):
    """Everything that a condition is evaluated on, for one call."""

    policy: Policy
    trace: Trace
    call: Span | None
    """The call's tokens; None if it was not parsed from tokens."""


def scope_of(policy: Policy, trace: Trace, call: Call) -> Scope:
    """The scope of a call."""
    return Scope(policy, trace, None if call.span == NOWHERE else call.span)


def evaluate(condition: GuardCondition, scope: Scope, at: Place = "any") -> Outcome:
    """The outcome of a condition; a leaf at a place without tokens does not hold.

    A value that is missing leaves every condition undecided that depends on it.
    """
    at = condition.at or at
    if condition.reads:
        return _leaf(condition, scope, at)
    if condition.not_ is not None:
        inner = evaluate(condition.not_, scope, at)
        return inner if inner.holds is None else inner._replace(holds=not inner.holds)
    parts = [evaluate(part, scope, at) for part in condition.all or condition.any or ()]
    decisive = condition.all is None  # one that holds decides any, one that does not decides all
    for part in parts:
        if part.holds is decisive:
            return part
    missing = next((part for part in parts if part.holds is None), None)
    readings = tuple(reading for part in parts for reading in part.readings)
    return missing or Outcome(not decisive, readings)


def _leaf(leaf: GuardCondition, scope: Scope, at: Place) -> Outcome:
    """A feature or probe against its bounds."""
    values = scope.trace.watched.get(watch_key(scope.policy, leaf.reads))
    if values is None:
        return Outcome(None, (), f"'{leaf.reads}' was not traced")
    if not scope.trace.places:
        return Outcome(None, (), "it is not known which tokens stand where")
    if scope.call is None and at.startswith("call"):
        return Outcome(None, (), f"the call was not read from tokens, so nothing stands at '{at}'")
    steps = list(_steps(scope, at))
    start = scope.trace.start
    read = [step for step in steps if 0 <= step - start < len(values)]
    if len(read) < len(steps):  # the largest value may stand where nothing was read
        return Outcome(None, (), f"{len(read)} of {len(steps)} tokens were read at '{at}'")
    here = {step: values[step - start] for step in steps}
    if any(math.isnan(value) for value in here.values()):
        return Outcome(None, (), f"'{leaf.reads}' is not a number at '{at}'")
    if not here:
        return Outcome(False)
    value, step = max((value, step) for step, value in windowed(here, leaf.mean_over).items())
    low = -math.inf if leaf.above is None else float(leaf.above)
    high = math.inf if leaf.below is None else float(leaf.below)
    bound = low if leaf.above is not None else high
    return Outcome(low < value < high, (Reading(leaf.reads, value, bound, step),))


def _steps(scope: Scope, at: Place) -> Iterator[int]:
    """Steps at a place; at a place of the call, those of this call."""
    low, high = (scope.call.start, scope.call.end - 1) if at.startswith("call") and scope.call else (0, math.inf)
    for span in scope.trace.places.get(at, ()):
        yield from (step for step in range(*span) if low <= step < high)


def windowed(here: Mapping[int, float], mean_over: int | None, max_over: int | None = None) -> dict[int, float]:
    """By step, its value, or the mean or the largest of its last so many steps; those elsewhere do not count."""
    size = mean_over or max_over
    if size is None:
        return dict(here)
    found = {}
    for step in here:
        window = [here[before] for before in range(step - size + 1, step + 1) if before in here]
        found[step] = max(window) if max_over else sum(window) / len(window)
    return found


def describe(readings: Sequence[Reading]) -> str:
    """The reason of a verdict that these readings decided."""
    return "; ".join(f"'{one.name}' read {one.value:.4g}, the bound is {one.threshold:.4g}" for one in readings)
