"""Says in plain sentences what a policy does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from steerkit.policy.conditions import Gate
from steerkit.policy.model import Earlier, Guard, GuardRule, Policy, SteerRule
from steerkit.policy.parts import Edit

_AT: Final = {
    "any": "at any token",
    "prompt": "in the prompt",
    "developer": "in the developer's text",
    "declaration": "in a tool's declaration",
    "user": "in the user's text",
    "tool_result": "in a tool's result",
    "reply": "in the reply",
    "reply.start": "where the reply's first token is made",
    "text": "in the reply's text",
    "call": "in a call",
    "call.open": "where a call's name begins",
    "call.name": "in a call's name",
    "call.arguments": "in a call's arguments",
}
_THEN: Final = {
    "allow": "is allowed",
    "flag": "is run and flagged",
    "hold": "waits for a person",
    "deny": "is denied",
    "stop": "is denied and ends the run",
}


def explain(policy: Policy) -> str:
    """What a policy does, a sentence a line."""
    lines = [f"{policy.name}{': ' + policy.description if policy.description else ''}"]
    if policy.model is not None:
        lines.append(f"It is for {policy.model} and is refused with any other model.")
    if policy.mode == "shadow":
        lines.append("It only records what it would do (mode: shadow) and changes nothing.")
    for name, feature in policy.features.items():
        label = f", {feature.label}" if feature.label else ""
        lines.append(f"Feature {name}: number {feature.index} of layer {feature.layer}{label}.")
    for name, probe in policy.probes.items():
        terms = " + ".join(f"{weight:g} x {part}" for part, weight in probe.weights.items())
        lines.append(f"Probe {name}: {probe.bias:g} + {terms}.")
    lines += [_steer(rule) for rule in policy.steer]
    if policy.steer and policy.write_back == "reconstruction":
        lines.append("Where it edits, the SAE's whole decoded output replaces the activation.")
    lines += _guard(policy.guard) if policy.guard else ["It judges no calls."]
    if policy.trace.watch:
        lines.append(f"Every token's {', '.join(policy.trace.watch)} is kept in the record.")
    if policy.trace.top_k:
        place = _place(policy.trace.at)
        lines.append(f"The {policy.trace.top_k} strongest features of every layer are kept {place}.")
    return "\n".join(lines)


def _place(place: str) -> str:
    return _AT.get(place) or f"in the value of the argument {place.removeprefix('call.arguments.')}"


def _steer(rule: SteerRule) -> str:
    edits = ", ".join(f"{name} is {_edit(edit)}" for name, edit in rule.edit.items())
    where, last = _place(rule.where), f" Priority {rule.priority}." if rule.priority else ""
    if isinstance(rule.when, Gate):
        held = {"token": "at that token", "turn": "from there to the end of the turn"}.get(rule.hold)
        span = held or f"for {rule.hold} from there"
        when = f"where {_condition(rule.when)} {_place(rule.when.at)}, {span}"
        return f"Steering {rule.name}: {when}, {where}: {edits}.{last}"
    when = "only in retries that name it, " if rule.when == "retry" else ""
    return f"Steering {rule.name}: {when}{where}: {edits}.{last}"


def _edit(edit: Edit) -> str:
    if edit.clamp is not None:
        return f"set to {_quantity(edit.clamp)}"
    if edit.ablate:
        return "set to 0"
    parts = [
        f"multiplied by {edit.scale:g}" if edit.scale is not None else "",
        f"raised by {_quantity(edit.shift)}" if edit.shift is not None else "",
        f"kept at or above {_quantity(edit.floor)}" if edit.floor is not None else "",
        f"kept at or below {_quantity(edit.cap)}" if edit.cap is not None else "",
    ]
    return " and ".join(part for part in parts if part)


def _condition(condition: Any) -> str:
    if condition.all or condition.any:
        word = " and " if condition.all else " or "
        parts = [_condition(part) for part in condition.all or condition.any]
        return parts[0] if len(parts) == 1 else f"({word.join(parts)})"
    if condition.not_ is not None:
        return f"not {_condition(condition.not_)}"
    over = condition.max_over or condition.mean_over
    what = (
        f"the {'mean' if condition.mean_over else 'largest'} {condition.reads} of {over} tokens"
        if over
        else (condition.reads)
    )
    bounds = [
        f"above {_quantity(condition.above)}" if condition.above is not None else "",
        f"below {_quantity(condition.below)}" if condition.below is not None else "",
    ]
    off = getattr(condition, "off_below", None)
    latch = f" (until it falls below {_quantity(off)})" if off is not None else ""
    return f"{what} is {' and '.join(bound for bound in bounds if bound)}{latch}"


def _guard(guard: Guard) -> Iterator[str]:
    yield f"Guard: a call that no rule matches {_THEN[guard.default]}."
    for rule in guard.rules:
        yield f"Guard {rule.name}: {_criteria(rule)} {_ruling(rule)}{': ' + rule.reason if rule.reason else ''}."


def _criteria(rule: GuardRule) -> str:
    parts = [f"a call of {rule.tool}" if rule.tool != "*" else "any call"]
    if rule.arguments is not None:
        parts.append(f"whose arguments fit {json.dumps(rule.arguments, ensure_ascii=False)}")
    if rule.when == "invalid_arguments":
        parts.append("whose arguments do not fit the tool's own schema")
    elif rule.when is not None:
        parts.append(f"where {_evidence(rule.when)}")
    if rule.after is not None:
        parts.append(f"after {_earlier(rule.after)}")
    if rule.without is not None:
        parts.append(f"without {_earlier(rule.without)} before it")
    return ", ".join(parts)


def _evidence(condition: Any) -> str:
    if condition.reads:
        return f"{_condition(condition)} {_place(condition.at or 'any')}"
    return f"{_condition(condition)}{' ' + _place(condition.at) if condition.at else ''}"


def _earlier(earlier: Earlier) -> str:
    what = f"a call of {earlier.tool}" if earlier.tool != "*" else "any call"
    if earlier.arguments is not None:
        what += f" whose arguments fit {json.dumps(earlier.arguments, ensure_ascii=False)}"
    if earlier.result is not None:
        what += f" whose result fits {json.dumps(earlier.result, ensure_ascii=False)}"
    return what


def _ruling(rule: GuardRule) -> str:
    if rule.then == "retry":
        times = rule.attempts or 1
        return (
            f"has the reply generated again under {rule.with_}, up to {times} time{'s' if times > 1 else ''}, "
            f"and is denied if it still matches"
        )
    early = ", in the middle of the call as soon as that is certain" if rule.tripwire or rule.then == "stop" else ""
    return f"{_THEN[rule.then]}{early}"


def _quantity(quantity: float | str) -> str:
    if not isinstance(quantity, str):
        return f"{quantity:g}"
    number, unit = quantity.split()
    return f"{number} times its {unit}"
