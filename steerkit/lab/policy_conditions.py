"""Every bound of a policy's gates and guard rules: what it reads, and at which place it is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from steerkit.policy import Condition, GuardCondition, Location, Policy, SteerRule, leaves_of
from steerkit.steer import Latent, weighted_sum
from steerkit.types import Place


class PlacedReading(NamedTuple):
    """One reading with its bounds."""

    location: Location
    """Place of the condition in the policy's data, such as `("steer", 0, "when", "all", 1)`."""
    rule: str
    reading: Condition | GuardCondition
    place: Place
    """Place at which a value decides."""
    gate: bool
    """Part of a gate; else it is evidence of the guard, which weighs the largest value at the place."""
    inverted: bool
    """Inside `not`."""


class Sum(NamedTuple):
    """The sum that a reading compares: a probe over features and directions, or a feature by itself."""

    name: str
    below: bool
    """The reading holds below its bound, not above."""
    weights: Mapping[Latent, float]
    bias: float


def sum_of(policy: Policy, reading: Condition | GuardCondition) -> Sum:
    """The sum that a reading of a policy compares. Raises PolicyError: a direction's file cannot be used."""
    return Sum(reading.reads, reading.above is None, *weighted_sum(policy, reading.reads))


def placed_readings(policy: Policy) -> list[PlacedReading]:
    """All readings of a policy, gates first."""
    found: list[PlacedReading] = []
    for number, rule in enumerate(policy.steer):
        if rule.when is None or rule.when == "retry":
            continue
        place = gate_place(policy, rule)
        for at, reading, inverted in _readings(("steer", number, "when"), rule.when):
            found.append(PlacedReading(at, rule.name, reading, place, True, inverted))
    for number, judge in enumerate(policy.guard.rules if policy.guard else ()):
        if judge.when is None or judge.when == "invalid_arguments":
            continue
        for at, reading, inverted in _readings(("guard", "rules", number, "when"), judge.when):
            place = _evidence_place(judge.when, at[4:])
            found.append(PlacedReading(at, judge.name, reading, place, False, inverted))
    return found


def gate_place(policy: Policy, rule: SteerRule) -> Place:
    """Place at which a gate's values decide: without memory, only where the rule writes."""
    assert rule.when is not None  # only asked of a rule with a gate
    assert rule.when != "retry"
    remembers = rule.hold_tokens != 1 or any(
        one.off_below is not None or one.max_over is not None or one.mean_over is not None
        for one in leaves_of(rule.when)
    )
    return rule.where if rule.when.at == "any" and not remembers and not policy.is_late(rule) else rule.when.at


def in_reply_alone(policy: Policy) -> bool:
    """True if it writes nothing before a prompt's last token, and neither rules nor its trace read anything there."""
    places = {rule.where for rule in policy.steer} | {one.place for one in placed_readings(policy)}
    places |= {policy.trace.at} if policy.trace.watch or policy.trace.top_k else set()
    return all(place.split(".")[0] in ("reply", "text", "call") for place in places)


def _readings(where: Location, condition: Any, inverted: bool = False) -> Iterator[tuple[Location, Any, bool]]:
    """The readings in a condition of either kind, with their places in the data and whether `not` turns them round."""
    if condition.reads:
        yield where, condition, inverted
    for key, parts in (("all", condition.all), ("any", condition.any)):
        for number, part in enumerate(parts or ()):
            yield from _readings((*where, key, number), part, inverted)
    if condition.not_ is not None:
        yield from _readings((*where, "not"), condition.not_, not inverted)


def _evidence_place(evidence: GuardCondition, path: Location) -> Place:
    """The place of the reading at a path inside a condition: the innermost `at` on the way, else any."""
    place: Place = evidence.at or "any"
    here = evidence
    steps = list(path)
    while steps:
        key = steps.pop(0)
        if key == "not":
            assert here.not_ is not None
            here = here.not_
        else:
            parts = here.all if key == "all" else here.any
            assert parts is not None
            here = parts[int(steps.pop(0))]
        place = here.at or place
    return place
