"""Weighs what the features showed at a place: the largest value against a rule's bounds, joined by all, any and not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from steerkit.policy import Evidence, Policy, watch_key
from steerkit.types import NOWHERE, Call, Place, Reading, Span, Trace


class Finding(NamedTuple):
    """What a condition comes to."""

    holds: bool | None
    """None where it could not be decided."""
    readings: tuple[Reading, ...] = ()
    """The largest values it was decided on and where they stood."""
    missing: str | None = None
    """Why it could not be decided, if so."""


class Scope(NamedTuple):
    """What one call is weighed with."""

    policy: Policy
    trace: Trace
    call: Span | None
    """The call's tokens; None where it was not read from tokens."""


def scope_of(policy: Policy, trace: Trace, call: Call) -> Scope:
    """The scope of a call."""
    return Scope(policy, trace, None if call.span == NOWHERE else call.span)


def weigh(evidence: Evidence, scope: Scope, at: Place = "any") -> Finding:
    """Whether a condition holds; a reading at a place where no token stands does not.

    Nothing is known of a reading that is missing: what depends on it is undecided.
    """
    at = evidence.at or at
    if evidence.reads:
        return _reading(evidence, scope, at)
    if evidence.not_ is not None:
        inner = weigh(evidence.not_, scope, at)
        return inner if inner.holds is None else inner._replace(holds=not inner.holds)
    parts = [weigh(part, scope, at) for part in evidence.all or evidence.any or ()]
    decisive = evidence.all is None  # one that holds settles any, one that does not settles all
    for part in parts:
        if part.holds is decisive:
            return part
    missing = next((part for part in parts if part.holds is None), None)
    readings = tuple(reading for part in parts for reading in part.readings)
    return missing or Finding(not decisive, readings)


def _reading(evidence: Evidence, scope: Scope, at: Place) -> Finding:
    values = scope.trace.watched.get(watch_key(scope.policy, evidence.reads))
    if values is None:
        return Finding(None, (), f"'{evidence.reads}' was not traced")
    if not scope.trace.places:
        return Finding(None, (), "it is not known which tokens stand where")
    if scope.call is None and at.startswith("call"):
        return Finding(None, (), f"the call was not read from tokens, so nothing stands at '{at}'")
    steps = list(_steps(scope, at))
    start = scope.trace.start
    read = [step for step in steps if 0 <= step - start < len(values)]
    if len(read) < len(steps):  # the largest value may stand where nothing was read
        return Finding(None, (), f"{len(read)} of {len(steps)} tokens were read at '{at}'")
    here = {step: values[step - start] for step in steps}
    if any(math.isnan(value) for value in here.values()):
        return Finding(None, (), f"'{evidence.reads}' is not a number at '{at}'")
    if not here:
        return Finding(False)
    value, step = max((value, step) for step, value in _windowed(evidence, here))
    low = -math.inf if evidence.above is None else float(evidence.above)
    high = math.inf if evidence.below is None else float(evidence.below)
    bound = low if evidence.above is not None else high
    return Finding(low < value < high, (Reading(evidence.reads, value, bound, step),))


def _steps(scope: Scope, at: Place) -> Iterator[int]:
    """Steps at a place; at a place of the call, those of this call."""
    low, high = (scope.call.start, scope.call.end - 1) if at.startswith("call") and scope.call else (0, math.inf)
    for span in scope.trace.places.get(at, ()):
        yield from (step for step in range(*span) if low <= step < high)


def _windowed(evidence: Evidence, here: Mapping[int, float]) -> Iterator[tuple[int, float]]:
    """Each step's value, or its window's mean where there is one; steps elsewhere do not count."""
    size = evidence.mean_over
    if size is None:
        yield from here.items()
        return
    for step in here:
        some = [here[before] for before in range(step - size + 1, step + 1) if before in here]
        yield step, sum(some) / len(some)


def describe(readings: Sequence[Reading]) -> str:
    """Readings as a reason."""
    return "; ".join(f"'{one.name}' read {one.value:.4g}, the bound is {one.threshold:.4g}" for one in readings)
