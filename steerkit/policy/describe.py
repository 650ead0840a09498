"""Describes a policy in plain sentences."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any, Final

from steerkit.decisions import DECISIONS
from steerkit.policy.conditions import Gate, GuardCondition
from steerkit.policy.edits import Edit, Probe
from steerkit.policy.policy import Guard, GuardRule, Policy, PriorCall, SteerRule
from steerkit.policy.quantities import split_quantity
from steerkit.policy.reachability import why_not_tripwire

_AT: Final = {
    "any": "at any token",
    "prompt": "in the prompt",
    "developer": "in the developer's text",
    "declaration": "in a tool's declaration",
    "user": "in the user's text",
    "tool_result": "in a tool's result",
    "reply": "in the reply",
    "reply.start": "at the step that makes the reply's first token",
    "text": "in the reply's text",
    "call": "in a call",
    "call.open": "at the step that begins a call's name",
    "call.name": "in a call's name",
    "call.arguments": "in a call's arguments",
}
_UNDECLARED: Final = {
    "deny": "So is a call with an argument that its tool's schema does not list and does not speak of.",
    "flag": "An argument that its tool's schema does not list lets a call through and flags it.",
    "allow": "An argument that its tool's schema does not list is no reason to deny a call.",
}
_UNITS: Final = {
    "max": "its largest value",
    "mean": "its mean",
    "std": "its standard deviation",
    "q50": "its median",
    "q90": "its 90 % quantile",
    "q99": "its 99 % quantile",
    "q999": "its 99.9 % quantile",
}


def explain(policy: Policy) -> str:
    """Description of a policy, a sentence or two a line."""
    lines = [f"{policy.name}{': ' + policy.description if policy.description else ''}"]
    if policy.model is not None:
        lines.append(f"It is for {policy.model} and is refused with any other model.")
    if policy.mode == "shadow":
        lines.append("It only records what it would do (mode: shadow) and changes nothing.")
    lines += _features(policy)
    lines += [f"Probe {name} is {_sum(probe)}." for name, probe in policy.probes.items()]
    lines += [_steer(policy, rule) for rule in policy.steer]
    if policy.steer:
        lines.append(_WRITTEN[policy.write_back])
    lines += _guard(policy.guard) if policy.guard else ["It judges no calls."]
    lines += _trace(policy)
    return "\n".join(lines)


_WRITTEN: Final = {
    "delta": "An edit adds the change of the edited features to the activation and leaves the rest of it.",
    "reconstruction": "Where it edits, what the SAE decodes replaces the whole activation.",
}


def _features(policy: Policy) -> Iterator[str]:
    by_site = sorted(policy.features.items(), key=lambda item: item[1].feature)
    for site, group in groupby(by_site, key=lambda item: item[1].feature.site):
        names = (f"{name} ({one.index}{': ' + one.label if one.label else ''})" for name, one in group)
        yield f"Features of {site.name}, by name and number: {', '.join(names)}."


def _sum(probe: Probe) -> str:
    terms = [f"{'-' if weight < 0 else '+'} {abs(weight):g} x {name}" for name, weight in probe.weights.items()]
    return f"{probe.bias:g} {' '.join(terms)}"


def _steer(policy: Policy, rule: SteerRule) -> str:
    edits = "; ".join(f"{name} is {_edit(edit)}" for name, edit in rule.edit.items())
    priority = f" Its priority among the rules of this policy is {rule.priority}." if rule.priority else ""
    return f"Steering {rule.name} acts {_place(rule.where)}{_when(rule, policy.is_late(rule))}: {edits}.{priority}"


def _when(rule: SteerRule, late: bool) -> str:
    if rule.when == "retry":
        return ", but only in a retry that names it"
    if not isinstance(rule.when, Gate):
        return ""
    token, after = ("the token after one", "from the token after it") if late else ("a token", "from there")
    if rule.hold == "token" and not late and rule.when.at == "any":
        return f", if {_condition(rule.when)} there"
    seen = f"{'' if rule.when.at == 'any' else f' {_place(rule.when.at)}'} where {_condition(rule.when)}"
    if rule.hold == "token":
        return f", if it is {token}{seen}"
    span = "to the end of the turn" if rule.hold == "turn" else f"for {rule.hold}"
    return f", once there was a token{seen}, {after} {span}"


def _place(place: str) -> str:
    return _AT.get(place) or f"in the value of a call's argument {place.removeprefix('call.arguments.')}"


def _edit(edit: Edit) -> str:
    if edit.clamp is not None:
        return f"set to {_quantity(edit.clamp)}"
    if edit.ablate:
        return "set to 0"
    parts = [
        f"multiplied by {edit.scale:g}" if edit.scale is not None else "",
        f"changed by adding {_quantity(edit.shift)}" if edit.shift is not None else "",
        f"kept at or above {_quantity(edit.floor)}" if edit.floor is not None else "",
        f"kept at or below {_quantity(edit.cap)}" if edit.cap is not None else "",
    ]
    return ", then ".join(part for part in parts if part)


def _condition(condition: Any, at: str | None = None) -> str:
    """A condition in words; a guard rule's with the place `at` of the largest value."""
    if at is not None:
        at = condition.at or at
    if condition.all or condition.any:
        word = " and " if condition.all else " or "
        parts = [_condition(part, at) for part in condition.all or condition.any]
        return parts[0] if len(parts) == 1 else f"({word.join(parts)})"
    if condition.not_ is not None:
        return f"it is not so that {_condition(condition.not_, at)}"
    what = condition.reads
    for kind, size in (("mean", condition.mean_over), ("largest", getattr(condition, "max_over", None))):
        if size is not None:
            what = f"the {kind} {what} of {size} tokens"
    if at is not None:
        what = f"the largest value of {what} {_place(at)}"
    bounds = [
        f"above {_quantity(condition.above)}" if condition.above is not None else "",
        f"below {_quantity(condition.below)}" if condition.below is not None else "",
    ]
    off = getattr(condition, "off_below", None)
    latch = f" (and from then on until it is below {_quantity(off)})" if off is not None else ""
    return f"{what} is {' and '.join(bound for bound in bounds if bound)}{latch}"


def _guard(guard: Guard) -> Iterator[str]:
    yield (
        "The guard denies calls that are malformed, undeclared or do not fit their tool's schema, whatever the rules "
        "say. Of several rules that match, the strictest decides."
    )
    yield _UNDECLARED[guard.undeclared_arguments or "deny"]
    if guard.arguments:
        yield f"A call is denied where {_own(guard.arguments)} is not made of words or numbers of the user's own text."
    yield f"A call that no rule matches {DECISIONS[guard.default].becomes}."
    for rule in guard.rules:
        what = "any call" if rule.tool == "*" else f"a call of {rule.tool}"
        criteria = " and ".join(_criteria(rule))
        ruling = f"{DECISIONS[rule.then].does.format(what, rule.with_)}{', if ' if criteria else ''}{criteria}"
        yield f"Guard rule {rule.name} {ruling}.{_extra(rule)}{f' Its reason: {rule.reason}' if rule.reason else ''}"
    if any(rule.without for rule in guard.rules):
        yield (
            "Where a rule asks that a call does not come after another, calls that did not run (denied, refused, held) "
            "are passed over."
        )


def _own(arguments: Mapping[str, Any]) -> str:
    """The arguments that must be the user's own."""
    everyone = [f"its argument {name}" for name, said in arguments.items() if isinstance(said, str)]
    of_tools = [f"{name} of {tool}" for tool, said in arguments.items() if not isinstance(said, str) for name in said]
    return " or ".join((*everyone, *of_tools))


def _criteria(rule: GuardRule) -> Iterator[str]:
    if rule.arguments is not None:
        yield f"its arguments fit {_json(rule.arguments)}"
    if rule.after is not None:
        yield f"it comes after {_earlier(rule.after)}"
    if rule.without is not None:
        yield f"it does not come after {_earlier(rule.without)}"
    if rule.when == "invalid_arguments":
        yield "its arguments do not fit its tool's own schema"
    if isinstance(rule.when, GuardCondition):
        yield _condition(rule.when, "any")


def _extra(rule: GuardRule) -> str:
    """Effects of a rule besides its decision."""
    if rule.then == "retry":
        times = "once" if (rule.attempts or 1) == 1 else f"{rule.attempts} times"
        return f" It does so at most {times}; if it still matches, the call is denied."
    if (rule.tripwire or rule.then == "stop") and not why_not_tripwire(rule):
        return " It ends the reply in the middle of the call, as soon as it is certain to match."
    return ""


def _earlier(earlier: PriorCall) -> str:
    what = "any call" if earlier.tool == "*" else f"a call of {earlier.tool}"
    fits = [
        f"whose {key} fit{'s' if key == 'result' else ''} {_json(schema)}"
        for key, schema in (("arguments", earlier.arguments), ("result", earlier.result))
        if schema is not None
    ]
    return " ".join([what, " and ".join(fits)]) if fits else what


def _trace(policy: Policy) -> Iterator[str]:
    trace = policy.trace
    if trace.watch:
        yield f"The record keeps, at every token, the value of {', '.join(trace.watch)}."
    if trace.top_k:
        since = "the step before the first token" if trace.at == "call" else "the first token"
        span = f"from {since} {_place(trace.at)} to the last"
        yield f"The record keeps the {trace.top_k} strongest features of every layer, {span}."


def _json(schema: Any) -> str:
    return json.dumps(schema, ensure_ascii=False)


def _quantity(quantity: float | str) -> str:
    number, unit = split_quantity(quantity)
    return f"{number:g}" if unit is None else f"{number:g} times {_UNITS[unit]}"
