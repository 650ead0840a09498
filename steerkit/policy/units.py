"""Turns relative quantities into raw activations, once the features' statistics are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from pydantic import ValidationError

from steerkit.errors import PolicyError, SaeError
from steerkit.policy.model import Policy
from steerkit.policy.parts import split_quantity
from steerkit.policy.plain import dotted
from steerkit.types import Feature

Statistic: TypeAlias = Callable[[Feature, str], float]
"""A feature's statistic by unit (`max`, `mean`, `std`, `q50`, `q90`, `q99`, `q999`), in raw activation."""


def resolve(policy: Policy, statistic: Statistic) -> Policy:
    """The same policy with every quantity raw; resolving twice is resolving once.

    Raises:
        PolicyError: a statistic is not known, all of them at once; or the raw values contradict each other.
    """
    problems: list[str] = []

    def raw(part: dict[str, Any], keys: tuple[str, ...], name: str | None, path: str) -> dict[str, Any]:
        changed = dict(part)
        for key in keys:
            if isinstance(part.get(key), str) and name is not None:
                number, unit = split_quantity(part[key])
                try:
                    changed[key] = number * statistic(policy.features[name].site, unit or "")
                except SaeError as error:
                    problems.append(f"policy '{policy.name}' {path}.{key}: {error}")
        return changed

    def condition(part: dict[str, Any], path: str) -> dict[str, Any]:
        changed = raw(part, ("above", "below", "off_below"), part.get("feature"), path)
        for key in ("all", "any"):
            if key in changed:
                changed[key] = [condition(item, f"{path}.{key}[{number}]") for number, item in enumerate(changed[key])]
        if "not" in changed:
            changed["not"] = condition(changed["not"], f"{path}.not")
        return changed

    data = policy.model_dump(exclude_none=True)
    for number, rule in enumerate(data["steer"]):
        path = f"steer[{number}]"
        if isinstance(rule.get("when"), dict):
            rule["when"] = condition(rule["when"], f"{path}.when")
        for name, edit in rule["edit"].items():
            rule["edit"][name] = raw(edit, ("clamp", "shift", "cap", "floor"), name, f"{path}.edit.{name}")
    for number, rule in enumerate(data.get("guard", {}).get("rules", ())):
        if isinstance(rule.get("when"), dict):
            rule["when"] = condition(rule["when"], f"guard.rules[{number}].when")
    if problems:
        raise PolicyError(problems)
    try:
        return Policy.model_validate(data)
    except ValidationError as error:
        # What was right in multiples need not be in raw values: bounds that cross, a statistic that is no number.
        wrong = [f"{dotted(entry['loc'])}: {entry['msg']}" for entry in error.errors(include_url=False)]
        raise PolicyError([f"policy '{policy.name}' in raw activations: {line}" for line in wrong]) from None
