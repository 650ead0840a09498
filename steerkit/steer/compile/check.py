"""Checks of a policy against the SAEs and the tools that it is meant for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from steerkit.errors import PolicyError, SaeError
from steerkit.policy import (
    GuardCondition,
    Policy,
    Problem,
    relative_quantities,
    resolve,
    resolve_problems,
    split_quantity,
)
from steerkit.sae import DENSE, SaeSet, summarize
from steerkit.sites import Feature, Site
from steerkit.steer.compile.plan import compile_plan
from steerkit.types import Place, Tool

_ARGUMENT = "call.arguments."


class Checked(NamedTuple):
    """The result of a check."""

    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...] = ()


def check_against_saes(policy: Policy, saes: SaeSet) -> Checked:
    """Features, layers and statistics that the set does not have, gates that cannot be built, and dense layers."""
    problems = [*_features(policy, saes), *_units(policy, saes)]
    problems = problems or resolve_problems(policy, saes.statistic)
    problems = problems or list(_gates(resolve(policy, saes.statistic), saes))
    return Checked(tuple(problems), (*_dense(policy, saes), *_dead(policy, saes)))


def check_against_tools(policy: Policy, tools: Sequence[Tool]) -> Iterator[Problem]:
    """Tools that no one declared, and arguments that their tool does not have."""
    known = {tool.name: tool for tool in tools}
    for number, rule in enumerate(policy.guard.rules if policy.guard else ()):
        where: tuple[Any, ...] = ("guard", "rules", number)
        for key, part in {"": rule, "after": rule.after, "without": rule.without}.items():
            if part is None:
                continue
            inner = (*where, key) if key else where
            if part.tool != "*" and part.tool not in known:
                yield Problem((*inner, "tool"), f"got '{part.tool}', which no one declared; {_close(part.tool, known)}")
            else:
                meant = tools if part.tool == "*" else [known[part.tool]]
                yield from _arguments((*inner, "arguments"), part.arguments, meant)
        if isinstance(rule.when, GuardCondition) and (rule.tool == "*" or rule.tool in known):
            meant = tools if rule.tool == "*" else [known[rule.tool]]
            yield from _places((*where, "when"), rule.when, meant)
    yield from _sources((policy.guard.arguments or {}) if policy.guard else {}, known)
    for number, steering in enumerate(policy.steer):
        yield from _place(("steer", number, "where"), steering.where, tools)
        yield from _places(("steer", number, "when"), steering.when, tools)
    yield from _place(("trace", "at"), policy.trace.at, tools)


def _sources(arguments: Mapping[str, Any], known: Mapping[str, Tool]) -> Iterator[Problem]:
    """Arguments whose source a guard says and no tool has, and tools that no one declared."""
    for name, said in arguments.items():
        where: tuple[Any, ...] = ("guard", "arguments", name)
        if isinstance(said, str):
            yield from _argument(where, name, list(known.values()))
        elif name not in known:
            yield Problem(where, f"got '{name}', which no one declared; {_close(name, known)}")
        else:
            for argument in said:
                yield from _argument((*where, argument), argument, [known[name]])


def _arguments(where: tuple[Any, ...], schema: Mapping[str, Any] | None, tools: Sequence[Tool]) -> Iterator[Problem]:
    """Arguments that a schema speaks of and none of the tools has."""
    for name in (schema or {}).get("properties", {}):
        yield from _argument((*where, "properties", name), name, tools)
    for number, name in enumerate((schema or {}).get("required", ())):
        if name not in (schema or {}).get("properties", {}):
            yield from _argument((*where, "required", number), name, tools)


def _places(where: tuple[Any, ...], condition: Any, tools: Sequence[Tool]) -> Iterator[Problem]:
    """Places of a condition that are values of arguments which none of the tools has."""
    if condition is None or isinstance(condition, str):
        return
    yield from _place((*where, "at"), getattr(condition, "at", None) or "any", tools)
    for key in ("all", "any"):
        for number, part in enumerate(getattr(condition, key) or ()):
            yield from _places((*where, key, number), part, tools)
    yield from _places((*where, "not"), condition.not_, tools)


def _place(where: tuple[Any, ...], place: Place, tools: Sequence[Tool]) -> Iterator[Problem]:
    if place.startswith(_ARGUMENT):
        yield from _argument(where, place.removeprefix(_ARGUMENT), tools)


def _argument(where: tuple[Any, ...], name: str, tools: Sequence[Tool]) -> Iterator[Problem]:
    has = dict.fromkeys(argument for tool in tools for argument in tool.parameters.get("properties", {}))
    if name not in has:
        who = tools[0].name if len(tools) == 1 else "the declared tools"
        yield Problem(where, f"got '{name}', which is no argument of {who}; {_close(name, has)}")


def _close(name: str, known: Mapping[str, Any]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"expected one of {', '.join(known) or 'none: there are none'}"


def _features(policy: Policy, saes: SaeSet) -> Iterator[Problem]:
    for name, feature in policy.features.items():
        try:
            saes.check(feature.feature)
        except SaeError as error:
            yield Problem(("features", name, "index" if feature.feature.site in saes else "layer"), str(error))


def _units(policy: Policy, saes: SaeSet) -> Iterator[Problem]:
    for location, name, quantity in relative_quantities(policy):
        feature = policy.features[name].feature
        if _has(saes, feature):
            try:
                saes.statistic(feature, split_quantity(quantity)[1] or "")
            except SaeError as error:
                yield Problem(location, f"got {quantity!r}; {error}")


def _gates(policy: Policy, saes: SaeSet) -> Iterator[Problem]:
    """Gates that cannot be built, each rule by itself so that it can be named."""
    for number, rule in enumerate(policy.steer):
        try:
            compile_plan([[policy.model_copy(update={"steer": (rule,)})]], saes)
        except PolicyError as error:
            yield from (Problem(("steer", number, "when"), text) for text in error.problems)


def _has(saes: SaeSet, feature: Feature) -> bool:
    return feature.site in saes and feature.index < saes[feature.site].d_sae


def _dense(policy: Policy, saes: SaeSet) -> Iterator[Problem]:
    """Features of layers that are too dense, by the training's last mean L0, else by the calibration's densities."""
    l0 = {row.site: row.l0 for row in summarize(saes)}
    for site in sorted({feature.feature.site for feature in policy.features.values()} & set(saes)):
        size = saes[site].d_sae
        active = _calibrated(saes, site) if l0[site] is None else l0[site]
        if active is None or active <= DENSE * size:
            continue
        for name, feature in policy.features.items():
            if feature.feature.site == site:
                text = (
                    f"{site.name} is too dense to trust a single feature: on average {active:.0f} of its {size} "
                    f"features are active at a token, more than a quarter"
                )
                yield Problem(("features", name, "layer"), text)


def _calibrated(saes: SaeSet, site: Site) -> float | None:
    """Mean number of active features per token by the set's statistics; None where it has none."""
    try:
        return sum(saes.statistic(Feature(site, index), "density") for index in range(saes[site].d_sae))
    except SaeError:
        return None


def _dead(policy: Policy, saes: SaeSet) -> Iterator[Problem]:
    """Multiples of a statistic that is 0."""
    for location, name, quantity in relative_quantities(policy):
        feature, (number, unit) = policy.features[name].feature, split_quantity(quantity)
        try:
            nothing = _has(saes, feature) and number != 0 and saes.statistic(feature, unit or "") == 0
        except SaeError:
            continue
        if nothing:
            yield Problem(
                location, f"got {quantity!r}, which is 0: so is the {unit} of '{name}' in the calibration set"
            )
