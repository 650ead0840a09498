"""Checks between the parts of a policy, on plain data that may be wrong elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from steerkit.policy.checks.conflicts import conflicts, steering_problems
from steerkit.policy.checks.json_schemas import schema_problems
from steerkit.policy.problems import Location, Problem, conditions, get, items, table


def cross_problems(data: Mapping[str, Any]) -> list[Problem]:
    """Every disagreement between the parts of a policy's data."""
    features, directions, probes = (table(data, key) for key in ("features", "directions", "probes"))
    written, parts = {**features, **directions}, "feature or direction" if directions else "feature"
    rules, guard_rules = items(data, "steer"), items(table(data, "guard"), "rules")
    found = [
        Problem(("probes", name), f"got '{name}', which is also a feature; expected another name")
        for name in probes
        if name in features
    ]
    found += [
        Problem(("directions", name), f"got '{name}', which is also a feature or probe; expected another name")
        for name in directions
        if name in features or name in probes
    ]
    for name, probe in probes.items():
        for part in table(probe, "weights"):
            found += _unknown(("probes", name, "weights", part), part, written, parts)
    for number, rule in enumerate(rules):
        found += _condition_problems(("steer", number, "when"), get(rule, "when"), features, probes)
        for name, edit in table(rule, "edit").items():
            found += _unknown(("steer", number, "edit", name), name, written, parts)
            found += _of_the_wrong_kind(("steer", number, "edit", name), edit, directed=name in directions)
        found += steering_problems(("steer", number), rule, data)
    found += conflicts(rules, data)
    for number, rule in enumerate(guard_rules):
        found += _condition_problems(("guard", "rules", number, "when"), get(rule, "when"), features, probes)
        for location, schema in schemas_of(("guard", "rules", number), rule):
            found += schema_problems(location, schema)
        if get(rule, "name") == "default":
            found.append(Problem(("guard", "rules", number, "name"), "got 'default', which verdicts say of no rule"))
    found += _retry_problems(rules, guard_rules)
    for number, name in enumerate(items(table(data, "trace"), "watch")):
        found += _unknown(("trace", "watch", number), name, {**features, **probes}, "feature or probe")
    found += _twice(("steer",), rules)
    found += _twice(("guard", "rules"), guard_rules)
    return list(dict.fromkeys(found))


def schemas_of(where: Location, rule: Any) -> Iterator[tuple[Location, Mapping[str, Any]]]:
    """Every schema in a guard rule, with its place."""
    parts = {"": rule, "after": get(rule, "after"), "without": get(rule, "without")}
    for key, part in parts.items():
        for name in ("arguments", "result") if key else ("arguments",):
            schema = get(part, name)
            if isinstance(schema, Mapping):
                yield (*where, *([key] if key else []), name), schema


def _of_the_wrong_kind(where: Location, edit: Any, *, directed: bool) -> Iterator[Problem]:
    """An edit of a direction that is not `add`, or `add` of a feature."""
    said = [key for key, value in edit.items() if value is not None] if isinstance(edit, Mapping) else []
    if directed and said and "add" not in said:
        text = f"got {' and '.join(map(str, said))} of a direction, which has no value to change"
        yield Problem(where, f"{text}; expected add, how many times it is added")
    if not directed and "add" in said:
        yield Problem(where, "got add of a feature, expected shift; add is for directions")


def _retry_problems(rules: Sequence[Any], guard_rules: Sequence[Any]) -> Iterator[Problem]:
    """Retries without their steering rule, and steering rules for retries that no guard rule names."""
    names = {name: None for rule in rules if isinstance(name := get(rule, "name"), str)}
    for number, rule in enumerate(guard_rules):
        yield from _unknown(("guard", "rules", number, "with"), get(rule, "with"), names, "steering rule")
    named = {with_ for rule in guard_rules if isinstance(with_ := get(rule, "with"), str)}
    for number, rule in enumerate(rules):
        if get(rule, "when") == "retry" and get(rule, "name") not in named:
            text = "got a rule for retries that no guard rule names with 'with', so it can never act"
            yield Problem(("steer", number, "when"), text)


def _condition_problems(
    where: Location, condition: Any, features: Mapping[str, Any], probes: Mapping[str, Any]
) -> Iterator[Problem]:
    for inner, part in conditions(where, condition):
        for key, known in (("feature", features), ("probe", probes)):
            if key in part:
                yield from _unknown((*inner, key), part[key], known, key)


def _unknown(where: Location, name: Any, known: Mapping[str, Any], kind: str) -> list[Problem]:
    if not isinstance(name, str) or name in known:
        return []
    close = get_close_matches(name, known, n=1)
    hint = (
        f"did you mean '{close[0]}'?"
        if close
        else f"expected one of {', '.join(sorted(known)) or 'none: there are none'}"
    )
    return [Problem(where, f"got '{name[:80]}', which is no {kind} of this policy; {hint}")]


def _twice(where: Location, rules: Sequence[Any]) -> Iterator[Problem]:
    seen: set[str] = set()
    for number, rule in enumerate(rules):
        name = get(rule, "name")
        if isinstance(name, str) and name in seen:
            yield Problem((*where, number, "name"), f"got '{name}' a second time; expected a name of its own")
        elif isinstance(name, str):
            seen.add(name)
