"""Turns relative quantities into raw activations, once the features' statistics are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from pydantic import ValidationError

from steerkit.errors import PolicyError, SaeError
from steerkit.policy.parts import split_quantity
from steerkit.policy.policy import Policy
from steerkit.policy.problems import Location, Problem
from steerkit.types import Feature

Statistic: TypeAlias = Callable[[Feature, str], float]
"""A feature's statistic by unit (`max`, `mean`, `std`, `q50`, `q90`, `q99`, `q999`), in raw activation."""


def resolve(policy: Policy, statistic: Statistic) -> Policy:
    """The same policy with every quantity raw; resolving twice is resolving once.

    Raises:
        PolicyError: a statistic is not known, all of them at once; or the raw values contradict each other.
    """
    data, unknown = _raw(policy, statistic)
    if unknown:
        raise PolicyError([f"policy '{policy.name}' {problem.path}: {problem.text}" for problem in unknown])
    wrong = _wrong(data)
    if wrong:
        lines = [f"policy '{policy.name}' in raw activations: {problem.path}: {problem.text}" for problem in wrong]
        raise PolicyError(lines)
    return Policy.model_validate(data)


def wrong_when_raw(policy: Policy, statistic: Statistic) -> list[Problem]:
    """What keeps a policy from being resolved: statistics that are not known, or else raw values that do not agree."""
    data, unknown = _raw(policy, statistic)
    return unknown or _wrong(data)


def in_multiples(policy: Policy) -> Iterator[tuple[Location, str, str]]:
    """Every quantity that is given in multiples of a statistic, with its place and its feature's name."""
    for location, name, part, key in _quantities(policy.model_dump(exclude_none=True)):
        yield (*location, key), name, part[key]


def _raw(policy: Policy, statistic: Statistic) -> tuple[dict[str, Any], list[Problem]]:
    """The policy's data with every quantity raw, and where that could not be."""
    data, unknown = policy.model_dump(exclude_none=True), []
    for location, name, part, key in _quantities(data):
        number, unit = split_quantity(part[key])
        try:
            part[key] = number * statistic(policy.features[name].feature, unit or "")
        except SaeError as error:
            unknown.append(Problem((*location, key), str(error)))
    return data, unknown


def _wrong(data: dict[str, Any]) -> list[Problem]:
    """What was right in multiples need not be in raw values: bounds that cross, a statistic that is no number."""
    try:
        Policy.model_validate(data)
    except ValidationError as error:
        return [
            Problem(_known(entry["loc"], data), entry["msg"].removeprefix("Value error, "))
            for entry in error.errors(include_url=False)
            if not (entry["type"] == "literal_error" and isinstance(entry["input"], dict))  # of the field's other form
        ]
    return []


def _known(location: Location, data: Any) -> Location:
    """The parts of a location that stand in the data; pydantic adds names of its own to some."""
    kept: Location = ()
    for part in location:
        inside = isinstance(data, dict) and part in data
        if inside or (isinstance(data, (list, tuple)) and isinstance(part, int)):
            kept, data = (*kept, part), data[part]
    return kept


def _quantities(data: dict[str, Any]) -> Iterator[tuple[Location, str, dict[str, Any], str]]:
    """Place, feature, mapping and key of every quantity in multiples; the mappings are the data's own."""
    for number, rule in enumerate(data["steer"]):
        yield from _in_condition(("steer", number, "when"), rule.get("when"))
        for name, edit in rule["edit"].items():
            yield from _texts(("steer", number, "edit", name), name, edit, ("clamp", "shift", "cap", "floor"))
    for number, rule in enumerate(data.get("guard", {}).get("rules", ())):
        yield from _in_condition(("guard", "rules", number, "when"), rule.get("when"))


def _in_condition(where: Location, condition: Any) -> Iterator[tuple[Location, str, dict[str, Any], str]]:
    if not isinstance(condition, dict):
        return
    if "feature" in condition:
        yield from _texts(where, condition["feature"], condition, ("above", "below", "off_below"))
    for key in ("all", "any"):
        for number, part in enumerate(condition.get(key, ())):
            yield from _in_condition((*where, key, number), part)
    yield from _in_condition((*where, "not"), condition.get("not"))


def _texts(
    where: Location, name: str, part: dict[str, Any], keys: tuple[str, ...]
) -> Iterator[tuple[Location, str, dict[str, Any], str]]:
    yield from ((where, name, part, key) for key in keys if isinstance(part.get(key), str))
