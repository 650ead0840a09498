"""Lint of a loaded policy: rules that can never act, match or decide, and suspicious ones, for `steerkit policy check`.

Findings follow from the file alone: conditions whose bounds exclude each other, a rule that a stricter one of the same
policy always precedes, edits that change nothing. Two schemas or two places are compared no further.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product
from math import inf, nextafter
from typing import Any, Final

from steerkit.decisions import Ruling, severity
from steerkit.policy.checks import lost_references, not_required, schemas_of, subschemas
from steerkit.policy.conditions import Gate, GuardCondition, Literals, alternatives, children_of
from steerkit.policy.edits import Edit
from steerkit.policy.policy import GuardRule, Policy
from steerkit.policy.problems import Location, Problem, conditions
from steerkit.policy.quantities import split_quantity

_MOST: Final = 64
"""Most alternatives of a condition that are checked."""


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
    """Rules that another one precedes whenever they match, with the first such rule."""
    said = [_criteria(rule) for rule in rules]
    first: dict[Any, dict[tuple[Ruling, bool], int]] = {}
    for number, (rule, criteria) in enumerate(zip(rules, said, strict=True)):
        alike = first.setdefault((rule.tool, *criteria), {})
        alike.setdefault((rule.then, rule.tripwire), number)
    for number, (rule, criteria) in enumerate(zip(rules, said, strict=True)):
        wider = product(
            ("*", rule.tool), *((None, one) for one in criteria)
        )  # criteria of rules that match whenever it does
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
    """Parts of a policy that load and work, and probably do something else than was meant."""
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
    """Reason why a rule cannot be certain before the call is complete; empty if it can."""
    if rule.arguments is not None:
        return "it reads the call's arguments"
    if rule.when == "invalid_arguments":
        return "arguments are checked at the end"
    if isinstance(rule.when, GuardCondition) and not is_monotone(rule.when):
        return "a later token can undo a condition with below or not"
    return ""


def is_monotone(condition: GuardCondition) -> bool:
    """True if a condition that holds keeps holding with every further token: `above`, without `below` or `not`."""
    if condition.not_ is not None or condition.below is not None:
        return False
    return all(map(is_monotone, children_of(condition)))


def never_holds(condition: Gate | GuardCondition) -> bool:
    """True if the bounds of a condition exclude each other in every alternative; False if there are too many."""
    found = list(islice(alternatives(condition, "any", _MOST), _MOST + 1))
    return len(found) <= _MOST and all(map(_excluded, found))


def _excluded(literals: Literals) -> bool:
    """True if no value of some leaf is within all the bounds on it that have one unit."""
    bounds: dict[tuple[Any, ...], list[tuple[float, float]]] = {}
    seen = set()
    for leaf, at, wanted in literals:
        key = (leaf.feature, leaf.probe, at, getattr(leaf, "max_over", None), leaf.mean_over)
        for unit, interval in _intervals(leaf, wanted):
            bounds.setdefault((*key, unit), []).append(interval)
            seen |= {(*key, unit)} if wanted else set()  # what must not hold does not hold at a place without tokens
    lows_and_highs = (zip(*bounds[key], strict=True) for key in seen)
    return any(max(lows) > min(highs) for lows, highs in lows_and_highs)


def _intervals(leaf: Any, wanted: bool) -> Iterator[tuple[str | None, tuple[float, float]]]:
    """Unit, lowest and highest value with which a leaf holds as `wanted`; a feature is never less than 0."""
    off: Any = getattr(leaf, "off_below", None)
    if not wanted and leaf.above is not None and leaf.below is not None:
        return  # values on either side: not one interval
    for key, bound in (("above", leaf.above), ("below", leaf.below)):
        if bound is None:
            continue
        latched = key == "above" and wanted and off is not None  # open down to `off_below`, which counts
        number, unit = split_quantity(off if latched else bound)
        if (key == "above") == wanted:
            yield unit, (nextafter(number, inf) if wanted and not latched else number, inf)
        else:
            yield unit, (-inf, nextafter(number, -inf) if wanted else number)
        if leaf.feature is not None:
            yield split_quantity(bound)[1], (0.0, inf)


def _changes_nothing(edit: Edit) -> bool:
    if edit.clamp is not None or edit.ablate or edit.cap is not None:
        return False
    if edit.add is not None:
        return edit.add == 0
    floor = 0.0 if edit.floor is None else split_quantity(edit.floor)[0]
    shift = 0.0 if edit.shift is None else split_quantity(edit.shift)[0]
    return edit.scale in (None, 1.0) and shift == 0 and floor <= 0


def _goes_before(then: Ruling, tripwire: bool, rule: GuardRule, *, earlier: bool) -> bool:
    """True if a rule decides instead of another one whenever both match."""
    if then != rule.then:
        return severity(then) > severity(rule.then)
    return earlier and (tripwire or not rule.tripwire)


def _criteria(rule: GuardRule) -> tuple[str | None, ...]:
    """Criteria of a rule besides the tool, as JSON texts, in which `true` is not 1."""
    said = rule.model_dump(mode="json", include={"arguments", "when", "after", "without"})
    return tuple(None if value is None else json.dumps(value, sort_keys=True) for value in said.values())


def _loose_bounds(where: Location, condition: Gate | GuardCondition) -> Iterator[Problem]:
    for inner, part in conditions(where, condition.model_dump(exclude_none=True)):
        above, off = part.get("above"), part.get("off_below")
        if "feature" not in part:
            continue
        if above is not None and "below" not in part and split_quantity(above)[0] < 0:
            yield Problem((*inner, "above"), f"got {above}: a feature is never less than 0, so this always holds")
        if off is not None and split_quantity(off)[0] <= 0:
            yield Problem((*inner, "off_below"), f"got {off}: a feature is never less than 0, so it never closes")


def _loosening(where: Location, rule: Mapping[str, Any]) -> Iterator[tuple[Location, Any]]:
    """Schemas of a rule that let a call through when they fit."""
    found = dict(schemas_of(where, rule))
    lenient = rule["then"] == "allow"
    for location, schema in found.items():
        if lenient != ("without" in location):
            yield location, schema
