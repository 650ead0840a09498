"""What is wrong with a policy once the SAEs and the tools that it is meant for are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from steerkit.errors import PolicyError, SaeError
from steerkit.policy import Policy, Problem, resolve, split_quantity
from steerkit.sae import SaeSet, summarize
from steerkit.steer.plan import compile_plan
from steerkit.types import Feature, Tool


class Checked(NamedTuple):
    """What a check found."""

    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...] = ()


def check_against_saes(policy: Policy, saes: SaeSet) -> Checked:
    """Features, layers and statistics that the set does not have, gates that cannot be built, and dense layers."""
    problems = [*_features(policy, saes), *_units(policy, saes)]
    if not problems:
        try:
            compile_plan([[resolve(policy, saes.statistic)]], saes)
        except PolicyError as error:
            problems += [Problem((), text) for text in error.problems]
    return Checked(tuple(problems), tuple(_dense(policy, saes)))


def check_against_tools(policy: Policy, tools: Sequence[Tool]) -> Iterator[Problem]:
    """Tools that no one declared, and arguments that their tool does not have."""
    known = {tool.name: tool for tool in tools}
    for number, rule in enumerate(policy.guard.rules if policy.guard else ()):
        where = ("guard", "rules", number)
        named = {"tool": rule, "after": rule.after, "without": rule.without}
        for key, part in named.items():
            location = (*where, "tool") if key == "tool" else (*where, key, "tool")
            if part is not None and part.tool != "*" and part.tool not in known:
                close = get_close_matches(part.tool, known, n=1)
                hint = f"did you mean '{close[0]}'?" if close else f"declared: {', '.join(known) or 'none'}"
                yield Problem(location, f"got '{part.tool}', which no one declared; {hint}")
        if rule.tool in known and rule.arguments is not None:
            yield from _arguments((*where, "arguments", "properties"), rule.arguments, known[rule.tool])


def _arguments(where: tuple[Any, ...], schema: dict[str, Any], tool: Tool) -> Iterator[Problem]:
    has = tool.parameters.get("properties", {})
    wanted = schema.get("properties", {})
    for name in wanted if isinstance(wanted, dict) else ():
        if name not in has:
            yield Problem((*where, name), f"got '{name}'; {tool.name} has {', '.join(has) or 'no arguments'}")


def _features(policy: Policy, saes: SaeSet) -> Iterator[Problem]:
    for name, feature in policy.features.items():
        try:
            saes.check(feature.site)
        except SaeError as error:
            yield Problem(("features", name, "index" if feature.layer in saes else "layer"), str(error))


def _units(policy: Policy, saes: SaeSet) -> Iterator[Problem]:
    for location, name, quantity in _quantities(policy):
        unit = split_quantity(quantity)[1]
        feature = policy.features[name].site
        if unit is not None and _has(saes, feature):
            try:
                saes.statistic(feature, unit)
            except SaeError as error:
                yield Problem(location, f"got {quantity!r}; {error}")


def _has(saes: SaeSet, feature: Feature) -> bool:
    return feature.layer in saes and feature.index < saes[feature.layer].d_sae


def _quantities(policy: Policy) -> Iterator[tuple[tuple[Any, ...], str, str]]:
    """Every quantity of a feature that is given in multiples, with its place and the feature's name."""
    data = policy.model_dump(exclude_none=True)
    for number, rule in enumerate(data["steer"]):
        yield from _in_condition(("steer", number, "when"), rule.get("when"))
        for name, edit in rule["edit"].items():
            for key, value in edit.items():
                if isinstance(value, str):
                    yield ("steer", number, "edit", name, key), name, value
    for number, rule in enumerate(data.get("guard", {}).get("rules", ())):
        yield from _in_condition(("guard", "rules", number, "when"), rule.get("when"))


def _in_condition(where: tuple[Any, ...], condition: Any) -> Iterator[tuple[tuple[Any, ...], str, str]]:
    if not isinstance(condition, dict):
        return
    for key in ("above", "below", "off_below"):
        if isinstance(condition.get(key), str) and "feature" in condition:
            yield (*where, key), condition["feature"], condition[key]
    for key in ("all", "any"):
        for number, part in enumerate(condition.get(key, ())):
            yield from _in_condition((*where, key, number), part)
    yield from _in_condition((*where, "not"), condition.get("not"))


def _dense(policy: Policy, saes: SaeSet) -> Iterator[Problem]:
    dense = {row.layer: row for row in summarize(saes) if row.dense}
    for name, feature in policy.features.items():
        if feature.layer in dense:
            row = dense[feature.layer]
            text = (
                f"layer {feature.layer} is too dense to trust a single feature: {row.l0:.0f} of its "
                f"{saes[feature.layer].d_sae} features are active at a token"
            )
            yield Problem(("features", name, "layer"), text)
