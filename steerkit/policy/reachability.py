"""Rules that load and still can never act, match or decide; and what is doubtful. `steerkit policy check` says both.

Decided here is what follows from the file alone: conditions whose bounds exclude each other, a rule that a stricter one
of the same policy always goes before, edits that change nothing. Whether two schemas or two places can ever agree is
not decided beyond that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product
from typing import Any, Final

from steerkit.decisions import Ruling, severity
from steerkit.policy.checks.json_schemas import lost_references, not_required, subschemas
from steerkit.policy.checks.references import schemas_of
from steerkit.policy.conditions import Gate, GuardCondition, children_of
from steerkit.policy.edits import Edit
from steerkit.policy.policy import GuardRule, Policy
from steerkit.policy.problems import Location, Problem
from steerkit.policy.quantities import split_quantity

_MOST: Final = 64
"""Alternatives of a condition that are looked through."""


def unreachable(policy: Policy) -> Iterator[Problem]:
    """Rules of a policy that can never act, match or decide, and steering that can never change anything."""
    for number, steering in enumerate(policy.steer):
        where: Location = ("steer", number)
        if isinstance(steering.when, Gate) and never_holds(steering.when):
            yield Problem((*where, "when"), "got a gate that can never open: its bounds exclude each other")
        for name, edit in steering.edit.items():
            if _changes_nothing(edit):
                yield Problem((*where, "edit", name), "got an edit that changes no value; expected one that does")
    yield from _in_guard(policy)


def _in_guard(policy: Policy) -> Iterator[Problem]:
    rules = policy.guard.rules if policy.guard else ()
    ungated = {rule.name for rule in policy.steer if rule.when is None}
    for number, one in enumerate(rules):
        where: Location = ("guard", "rules", number)
        if isinstance(one.when, GuardCondition) and never_holds(one.when):
            yield Problem((*where, "when"), "got a condition that can never hold: its bounds exclude each other")
        if one.with_ in ungated:
            text = f"got '{one.with_}', which acts anyway, so the reply would be the same again; give it when: retry"
            yield Problem((*where, "with"), text)
        if one.tripwire and (late := why_not_tripwire(one)):
            text = f"got true, but {late}, so the rule is never certain before the call is complete; leave it out"
            yield Problem((*where, "tripwire"), text)
        for location, schema in schemas_of(where, one.model_dump(exclude_none=True)):
            yield from lost_references(location, schema)
    yield from _undeciding(rules)


def _undeciding(rules: Sequence[GuardRule]) -> Iterator[Problem]:
    """Rules that another one goes before whenever they match: the first such rule of each."""
    said = [_criteria(rule) for rule in rules]
    first: dict[Any, dict[tuple[Ruling, bool], int]] = {}
    for number, (rule, criteria) in enumerate(zip(rules, said, strict=True)):
        alike = first.setdefault((rule.tool, *criteria), {})
        alike.setdefault((rule.then, rule.tripwire), number)
    for number, (rule, criteria) in enumerate(zip(rules, said, strict=True)):
        wider = product(("*", rule.tool), *((None, one) for one in criteria))  # what matches whenever it does
        before = [
            by
            for key in dict.fromkeys(wider)
            for (then, tripwire), by in first.get(key, {}).items()
            if _goes_before(then, tripwire, rule, earlier=by < number)
        ]
        if before:
            by = min(before)
            text = f"got a rule that never decides: '{rules[by].name}' (guard.rules[{by}]) matches whenever it does"
            yield Problem(("guard", "rules", number), f"{text} and goes before it")


def suspicious(policy: Policy) -> Iterator[Problem]:
    """What loads and works, and is probably not what was meant."""
    for number, rule in enumerate(policy.steer):
        if isinstance(rule.when, Gate):
            yield from _loose_bounds(("steer", number, "when"), rule.when)
    for number, one in enumerate(policy.guard.rules if policy.guard else ()):
        where = ("guard", "rules", number)
        if isinstance(one.when, GuardCondition):
            yield from _loose_bounds((*where, "when"), one.when)
        if one.when == "invalid_arguments" and one.then == "deny":
            yield Problem((*where, "then"), "invalid arguments are denied without a rule; only stop changes anything")
        data = one.model_dump(exclude_none=True)
        for location, schema in schemas_of(where, data):
            for inner, part in subschemas(location, schema):
                if "format" in part:
                    yield Problem((*inner, "format"), "a format is not checked; use pattern or enum to restrict text")
        for location, schema in _loosening(where, data):
            for inner in not_required(location, schema):
                text = f"also fits where there is no '{inner[-1]}', and then lets more through; add it to required"
                yield Problem(inner, text)


def why_not_tripwire(rule: GuardRule) -> str:
    """Why a rule cannot be certain before the call is complete; empty where it can."""
    if rule.arguments is not None:
        return "it reads the call's arguments"
    if rule.when == "invalid_arguments":
        return "arguments are checked at the end"
    if isinstance(rule.when, GuardCondition) and not is_monotone(rule.when):
        return "a later token can undo a condition with below or not"
    return ""


def is_monotone(evidence: GuardCondition) -> bool:
    """Whether what holds for a part of the reply must hold for the whole: `above` without `below` or `not`."""
    return evidence.not_ is None and evidence.below is None and all(is_monotone(part) for part in children_of(evidence))


def never_holds(condition: Gate | GuardCondition) -> bool:
    """Whether the bounds of a condition exclude each other under every alternative; False where that is not decided."""
    alternatives = list(islice(_alternatives(condition, condition.at or "any", True), _MOST + 1))
    return len(alternatives) <= _MOST and all(map(_excluded, alternatives))


_Literal = tuple[Any, str, bool]
"""A reading, its place, and whether it must hold or must not."""


def _alternatives(condition: Any, at: str, wanted: bool) -> Iterator[tuple[_Literal, ...]]:
    """What must hold and must not for a condition to be `wanted`: De Morgan's laws, multiplied out."""
    at = getattr(condition, "at", None) or at
    if condition.reads:
        yield ((condition, at, wanted),)
    elif condition.not_ is not None:
        yield from _alternatives(condition.not_, at, not wanted)
    elif (condition.all is not None) == wanted:
        inner = [list(islice(_alternatives(part, at, wanted), _MOST + 1)) for part in children_of(condition)]
        yield from (sum(choice, ()) for choice in product(*inner))
    else:
        for part in children_of(condition):
            yield from _alternatives(part, at, wanted)


def _excluded(literals: tuple[_Literal, ...]) -> bool:
    """Whether no value of some reading is within all the bounds that speak of it in one unit."""
    bounds: dict[tuple[Any, ...], list[tuple[float, bool, float, bool]]] = {}
    seen = set()
    for reading, at, wanted in literals:
        key = (reading.feature, reading.probe, at, getattr(reading, "max_over", None), reading.mean_over)
        for unit, interval in _intervals(reading, wanted):
            bounds.setdefault((*key, unit), []).append(interval)
            seen |= {(*key, unit)} if wanted else set()  # what must not hold does not where no token stands, too
    return any(_empty(bounds[key]) for key in seen)


def _intervals(reading: Any, wanted: bool) -> Iterator[tuple[str | None, tuple[float, bool, float, bool]]]:
    """By unit, the lowest and highest value, and whether each of them counts."""
    off = getattr(reading, "off_below", None)
    if not wanted and reading.above is not None and reading.below is not None:
        return  # on either side: not one interval
    if reading.above is not None:
        bound = reading.above if off is None or not wanted else off
        number, unit = split_quantity(bound)
        yield unit, ((number, off is not None, float("inf"), True) if wanted else (float("-inf"), True, number, True))
    if reading.below is not None:
        number, unit = split_quantity(reading.below)
        yield unit, ((float("-inf"), True, number, False) if wanted else (number, True, float("inf"), True))
    if reading.feature is not None:
        for unit in {split_quantity(bound)[1] for bound in (reading.above, reading.below) if bound is not None}:
            yield unit, (0.0, True, float("inf"), True)


def _empty(intervals: list[tuple[float, bool, float, bool]]) -> bool:
    low, low_counts = max(((low, counts) for low, counts, _, _ in intervals), key=lambda end: (end[0], not end[1]))
    high, high_counts = min(((high, counts) for _, _, high, counts in intervals), key=lambda end: end)
    return low > high or (low == high and not (low_counts and high_counts))


def _changes_nothing(edit: Edit) -> bool:
    if edit.clamp is not None or edit.ablate or edit.cap is not None:
        return False
    floor = 0.0 if edit.floor is None else split_quantity(edit.floor)[0]
    shift = 0.0 if edit.shift is None else split_quantity(edit.shift)[0]
    return edit.scale in (None, 1.0) and shift == 0 and floor <= 0


def _goes_before(then: Ruling, tripwire: bool, rule: GuardRule, *, earlier: bool) -> bool:
    """Whether a rule that matches whenever another does decides then."""
    if then != rule.then:
        return severity(then) > severity(rule.then)
    return earlier and (tripwire or not rule.tripwire)


def _criteria(rule: GuardRule) -> tuple[str | None, ...]:
    """What a rule asks for besides the tool, as text; in JSON, where `true` is not 1."""
    said = rule.model_dump(mode="json", include={"arguments", "when", "after", "without"})
    return tuple(None if value is None else json.dumps(value, sort_keys=True) for value in said.values())


def _loose_bounds(where: Location, condition: Any) -> Iterator[Problem]:
    for key in ("all", "any"):
        for number, part in enumerate(getattr(condition, key) or ()):
            yield from _loose_bounds((*where, key, number), part)
    if condition.not_ is not None:
        yield from _loose_bounds((*where, "not"), condition.not_)
    if condition.feature is None:
        return
    if condition.above is not None and condition.below is None and split_quantity(condition.above)[0] < 0:
        yield Problem((*where, "above"), f"got {condition.above}: a feature is never less than 0, so this always holds")
    off = getattr(condition, "off_below", None)
    if off is not None and split_quantity(off)[0] <= 0:
        yield Problem((*where, "off_below"), f"got {off}: a feature is never less than 0, so it never closes")


def _loosening(where: Location, rule: Mapping[str, Any]) -> Iterator[tuple[Location, Any]]:
    """The schemas of a rule by which a call gets through that would not otherwise."""
    found = dict(schemas_of(where, rule))
    lenient = rule["then"] == "allow"
    for location, schema in found.items():
        if lenient != ("without" in location):
            yield location, schema
