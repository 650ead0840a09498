"""What `explain` says: true sentences, and another one for every field that changes."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from steerkit.policy import explain, loads, schema
from tests.policy.example import GOOD
from tests.policy.test_model import parts_of_the_format

CHANGES: dict[str, tuple[str, str]] = {
    "Policy.name": ("name: payments", "name: mail"),
    "Policy.description": ("what it is for", "what it is not for"),
    "Policy.model": ("model: tiny", "model: other"),
    "Policy.features": ("  order: {layer: 1", "  more: {layer: 1, index: 5}\n  order: {layer: 1"),
    "Policy.probes": ("probes:\n", "probes:\n  other: {weights: {urge: 1}}\n"),
    "Policy.steer": ("name: damp", "name: dampen"),
    "Policy.guard": ("name: seen", "name: was-seen"),
    "Policy.trace": ("trace: {watch: [urge, risk], top_k: 16, at: call}\n", ""),
    "Policy.mode": ("mode: shadow", "mode: enforce"),
    "Policy.write_back": ("write_back: reconstruction", "write_back: delta"),
    "NamedFeature.layer": ("layer: 1, index: 90", "layer: 0, index: 90"),
    "NamedFeature.site": ("layer: 1, index: 90", "site: mlp_out.1, index: 90"),
    "NamedFeature.index": ("index: 90", "index: 91"),
    "NamedFeature.label": ("about to move money", "about to move"),
    "Probe.bias": ("bias: -2.1", "bias: -2.2"),
    "Probe.weights": ("order: 0.8", "order: -0.8"),
    "SteerRule.name": ("name: boost", "name: booster"),
    "SteerRule.when": ("when: {probe: risk, above: 0.5}\n    ", ""),
    "SteerRule.for": ("for: turn", "for: 5 tokens"),
    "SteerRule.where": ("where: reply\n", "where: text\n"),
    "SteerRule.edit": ("edit: {urge: {ablate: true}}", "edit: {order: {ablate: true}}"),
    "SteerRule.priority": ("priority: 2", "priority: 3"),
    "Edit.clamp": ("clamp: 0", "clamp: -1 max"),
    "Edit.ablate": ("ablate: true", "cap: 1"),
    "Edit.scale": ("scale: 2", "scale: 3"),
    "Edit.shift": ("shift: 1 std", "shift: -1 std"),
    "Edit.cap": ("cap: 3 max", "cap: 3 q99"),
    "Edit.floor": ("floor: 0", "floor: 0.5 mean"),
    "Gate.feature": ("{feature: order, above: 0.5 max", "{feature: urge, above: 0.5 max"),
    "Gate.probe": ("when: {probe: risk, above: 0.5}", "when: {feature: order, above: 0.5}"),
    "Gate.above": ("above: 0.5}", "above: 0.6}"),
    "Gate.below": ("below: 2 max", "below: 2 q90"),
    "Gate.max_over": ("above: 0.5}", "above: 0.5, max_over: 3}"),
    "Gate.mean_over": ("mean_over: 4", "mean_over: 5"),
    "Gate.off_below": ("off_below: 1 std", "off_below: 2 std"),
    "Gate.all": ("all: [{feature: order", "any: [{feature: order"),
    "Gate.any": ("all: [{feature: order", "any: [{feature: order"),
    "Gate.not": ("{not: {probe: risk, below: -1, mean_over: 4}}", "{probe: risk, below: -1, mean_over: 4}"),
    "Gate.at": ("at: tool_result", "at: user"),
    "Guard.default": ("default: allow", "default: hold"),
    "Guard.arguments": ("default: allow", "default: allow\n  arguments: {to: from_user}"),
    "Guard.rules": ("    - {name: seen, when: {feature: order, above: 3 std, at: prompt}, then: deny}\n", ""),
    "GuardRule.name": ("name: large", "name: larger"),
    "GuardRule.tool": ("tool: transfer_money", "tool: send_money"),
    "GuardRule.arguments": ("exclusiveMinimum: 100", "exclusiveMinimum: 101"),
    "GuardRule.when": ("then: deny, when: invalid_arguments", "then: deny"),
    "GuardRule.after": ("after: {tool: read_file, result: {required: [text]}}\n      ", ""),
    "GuardRule.without": ("without: {tool: ask_person, arguments: {}}\n      ", ""),
    "GuardRule.then": ("then: hold", "then: flag"),
    "GuardRule.with": (
        "with: calm\n",
        "with: damp\n    - name: last\n      then: retry\n      with: calm\n",
    ),
    "GuardRule.attempts": ("attempts: 2", "attempts: 3"),
    "GuardRule.tripwire": ("tripwire: true", "tripwire: false"),
    "GuardRule.reason": ("reason: payments", "reason: all payments"),
    "PriorCall.tool": ("tool: read_file", "tool: read_page"),
    "PriorCall.arguments": ("tool: ask_person, arguments: {}", "tool: ask_person, arguments: {required: [what]}"),
    "PriorCall.result": ("result: {required: [text]}", "result: {required: [body]}"),
    "GuardCondition.feature": ("{feature: urge, above: 2 max, at", "{feature: order, above: 2 max, at"),
    "GuardCondition.probe": ("{probe: risk, above: 3,", "{feature: urge, above: 3,"),
    "GuardCondition.above": ("{feature: urge, above: 2 max, at", "{feature: urge, above: 2 std, at"),
    "GuardCondition.below": ("{feature: urge, above: 2 max, at", "{feature: urge, above: 2 max, below: 3 max, at"),
    "GuardCondition.mean_over": ("mean_over: 2}", "mean_over: 3}"),
    "GuardCondition.at": ("at: call.open", "at: call.name"),
    "GuardCondition.all": ("when: {any: [", "when: {all: ["),
    "GuardCondition.any": ("when: {any: [", "when: {all: ["),
    "GuardCondition.not": (
        "when: {feature: order, above: 3 std, at: prompt}",
        "when: {not: {feature: order, above: 3 std, at: prompt}}",
    ),
    "Guard.undeclared_arguments": ("default: allow", "default: allow\n  undeclared_arguments: flag"),
    "TraceSettings.watch": ("watch: [urge, risk]", "watch: [urge]"),
    "TraceSettings.top_k": ("top_k: 16", "top_k: 17"),
    "TraceSettings.at": ("at: call}\nmode", "at: text}\nmode"),
}


@pytest.mark.parametrize("field", CHANGES)
def test_another_field_is_another_sentence(field: str) -> None:
    """Changing what a field says changes what is explained; loading the same text again does not."""
    old, new = CHANGES[field]
    assert old in GOOD
    changed = GOOD.replace(old, new, 1)
    assert explain(loads(changed)) != explain(loads(GOOD)) == explain(loads(GOOD))


def test_every_field_has_a_change() -> None:
    """The table above leaves out no key of the format but its version, which has one value."""
    every = {f"{part}.{key}" for part, keys in parts_of_the_format().items() for key in keys}
    assert every - {"Policy.steerkit"} == set(CHANGES)


def one_rule(**rule: Any) -> str:
    """The sentence on a steering rule; features of layers 0 and 2."""
    data = {
        "steerkit": 1,
        "name": "x",
        "features": {"low": {"layer": 0, "index": 1}, "high": {"layer": 2, "index": 1}},
        "steer": [{"name": "r", "where": "reply", "edit": {"low": {"clamp": 1}}, **rule}],
    }
    (line,) = (line for line in explain(loads(yaml.safe_dump(data))).splitlines() if line.startswith("Steering"))
    return line


def test_when_a_rule_acts_is_said_as_it_is() -> None:
    """A gate at the same token, at another, for a while, and one that is late each have their own words."""
    low, high = {"feature": "low", "above": 1}, {"feature": "high", "above": 1}
    assert one_rule() == "Steering r acts in the reply: low is set to 1."
    assert one_rule(when=low) == "Steering r acts in the reply, if low is above 1 there: low is set to 1."
    assert one_rule(when=high) == (
        "Steering r acts in the reply, if it is the token after one where high is above 1: low is set to 1."
    )
    assert one_rule(when={**low, "at": "user"}, **{"for": "turn"}) == (
        "Steering r acts in the reply, once there was a token in the user's text where low is above 1, "
        "from there to the end of the turn: low is set to 1."
    )
    assert one_rule(when=high, **{"for": "9 tokens"}) == (
        "Steering r acts in the reply, once there was a token where high is above 1, "
        "from the token after it for 9 tokens: low is set to 1."
    )


def test_a_ruling_is_said_once_and_whole() -> None:
    """Who is judged, under which conditions, how, and what else happens; only what can be early is said to be."""
    said = explain(loads(GOOD)).splitlines()
    assert (
        'Guard rule large holds a call of transfer_money for a person, if its arguments fit {"properties": {"amount": '
        '{"exclusiveMinimum": 100}}}. Its reason: payments over 100 need a person'
    ) in said
    assert (
        "Guard rule send denies a call of send_email, if it comes after a call of read_file whose result fits "
        '{"required": ["text"]} and it does not come after a call of ask_person whose arguments fit {}. '
        "It ends the reply in the middle of the call, as soon as it is certain to match."
    ) in said
    stop = GOOD.replace("then: hold", "then: stop")
    (line,) = (line for line in explain(loads(stop)).splitlines() if line.startswith("Guard rule large"))
    assert "ends the run" in line
    assert "in the middle" not in line  # it reads the arguments


def test_every_place_unit_and_ruling_has_words() -> None:
    """No word of the format comes out as it is written in the file, where it is no name."""
    for then in schema()["$defs"]["GuardRule"]["properties"]["then"]["enum"]:
        more = ", with: calm" if then == "retry" else ""
        text = GOOD.replace("at: prompt}, then: deny}", f"at: prompt}}, then: {then}{more}}}")
        (line,) = (line for line in explain(loads(text)).splitlines() if line.startswith("Guard rule seen"))
        assert line.startswith("Guard rule seen ")
        assert "any call" in line
