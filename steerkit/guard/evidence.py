"""Weighs what the features showed at a place: the largest value against a rule's bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from steerkit.policy import Evidence, Policy, watch_key
from steerkit.types import Reading, Trace


class Finding(NamedTuple):
    """What a condition comes to."""

    holds: bool
    reading: Reading | None
    """The largest value and where it stood; None if nothing could be read."""
    missing: str | None = None
    """Why it could not be decided, if so."""


def weigh(policy: Policy, evidence: Evidence, trace: Trace, steps: Sequence[int]) -> Finding:
    """Whether the largest value of the feature or probe over `steps` lies strictly within the condition's bounds."""
    values = trace.watched.get(watch_key(policy, evidence.reads))
    if values is None:
        return Finding(False, None, f"'{evidence.reads}' was not traced")
    here = [(values[step - trace.start], step) for step in steps if 0 <= step - trace.start < len(values)]
    if not here or len(here) < len(steps):  # the largest value may stand where nothing was read
        return Finding(False, None, f"{len(here)} of {len(steps)} tokens were read at '{evidence.at}'")
    if any(math.isnan(value) for value, _ in here):
        return Finding(False, None, f"'{evidence.reads}' is not a number at '{evidence.at}'")
    value, step = max(here)
    low = -math.inf if evidence.above is None else float(evidence.above)
    high = math.inf if evidence.below is None else float(evidence.below)
    bound = low if evidence.above is not None else high
    return Finding(low < value < high, Reading(evidence.reads, value, bound, step))
