"""Resolves a policy: every multiple of a statistic becomes a raw activation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

from pydantic import ValidationError

from steerkit.errors import PolicyError, SaeError
from steerkit.policy.frozen import CHECKED
from steerkit.policy.policy import Policy
from steerkit.policy.problems import Location, Problem, conditions
from steerkit.policy.quantities import split_quantity
from steerkit.sites import Feature

Statistic: TypeAlias = Callable[[Feature, str], float]
"""A feature's statistic by unit (see `UNITS`), in raw activation. Raises SaeError: it is not known."""

_KEYS: Final = ("above", "below", "off_below", "clamp", "shift", "cap", "floor")
"""Keys of a leaf and of an edit that hold a quantity."""


def resolve(policy: Policy, statistic: Statistic) -> Policy:
    """A policy with every quantity raw; one that has only raw quantities is returned as it is.

    Raises:
        PolicyError: a statistic is not known, all of them at once; or the raw values contradict each other.
    """
    resolved, unknown, wrong = _resolved(policy, statistic)
    lines = [f"policy '{policy.name}' {one.path}: {one.text}" for one in unknown]
    lines += [f"policy '{policy.name}' in raw activations: {one.path}: {one.text}" for one in wrong]
    if lines:
        raise PolicyError(lines)
    return resolved


def resolve_problems(policy: Policy, statistic: Statistic) -> list[Problem]:
    """Problems that keep a policy from being resolved: unknown statistics, or else raw values that do not agree."""
    _, unknown, wrong = _resolved(policy, statistic)
    return unknown or wrong


def relative_quantities(policy: Policy) -> Iterator[tuple[Location, str, str]]:
    """Every quantity that is a multiple of a statistic, with its place and its feature's name."""
    for location, name, part, key in _quantities(policy.model_dump(exclude_none=True)):
        yield (*location, key), name, part[key]


def _resolved(policy: Policy, statistic: Statistic) -> tuple[Policy, list[Problem], list[Problem]]:
    """The policy with every quantity raw, or else unknown statistics, or else raw values that do not agree.

    Only values are checked again: names, places and schemas stay as they were checked.
    """
    data, unknown = policy.model_dump(exclude_none=True), []
    quantities = list(_quantities(data))
    for location, name, part, key in quantities:
        number, unit = split_quantity(part[key])
        try:
            part[key] = number * statistic(policy.features[name].feature, unit or "")
        except SaeError as error:
            unknown.append(Problem((*location, key), str(error)))
    if unknown or not quantities:
        return policy, unknown, []
    try:
        return Policy.model_validate(data, context=CHECKED), [], []
    except ValidationError as error:  # bounds that cross, a statistic that is no number
        wrong = [
            Problem(_known(entry["loc"], data), entry["msg"].removeprefix("Value error, "))
            for entry in error.errors(include_url=False)
            if not (entry["type"] == "literal_error" and isinstance(entry["input"], dict))  # of the field's other form
        ]
        return policy, [], wrong


def _known(location: Location, data: Any) -> Location:
    """A location without the names that pydantic adds and the data does not have."""
    kept: Location = ()
    for part in location:
        inside = isinstance(data, dict) and part in data
        if inside or (isinstance(data, (list, tuple)) and isinstance(part, int)):
            kept, data = (*kept, part), data[part]
    return kept


def _quantities(data: dict[str, Any]) -> Iterator[tuple[Location, str, dict[str, Any], str]]:
    """Place, feature, mapping and key of every multiple of a statistic; the mappings are the data's own."""
    guard = data.get("guard", {}).get("rules", ())
    rules: list[tuple[Location, Any]] = [(("steer", number), rule) for number, rule in enumerate(data["steer"])]
    rules += [(("guard", "rules", number), rule) for number, rule in enumerate(guard)]
    for where, rule in rules:
        parts: list[tuple[Location, str, Any]] = [
            (inner, part.get("feature", ""), part) for inner, part in conditions((*where, "when"), rule.get("when"))
        ]
        parts += [((*where, "edit", name), name, edit) for name, edit in rule.get("edit", {}).items()]
        for inner, name, part in parts:
            yield from ((inner, name, part, key) for key in _KEYS if isinstance(part.get(key), str))
