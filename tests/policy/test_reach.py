"""Rules that load and can never act, match or decide, and what is doubtful: each with its neighbour that is fine."""

from __future__ import annotations

from typing import Any

import pytest

from steerkit.policy import Policy, suspicious, unreachable


def policy(*rules: dict[str, Any], steer: list[dict[str, Any]] | None = None) -> Policy:
    """A policy with guard rules and one steering rule that is fine."""
    fine = {"name": "s", "when": {"feature": "f", "above": 1}, "where": "reply", "edit": {"f": {"clamp": 0}}}
    return Policy.model_validate(
        {
            "steerkit": 1,
            "name": "x",
            "features": {"f": {"layer": 0, "index": 1}, "g": {"layer": 0, "index": 2}},
            "probes": {"p": {"weights": {"f": 1.0}}},
            "steer": steer or [fine],
            "guard": {"default": "deny", "rules": [{"name": f"r{n}", **rule} for n, rule in enumerate(rules)]},
        }
    )


def found(of: Any, *rules: dict[str, Any], **parts: Any) -> list[str]:
    return [f"{problem.path}: {problem.text}" for problem in of(policy(*rules, **parts))]


F1, F2 = {"feature": "f", "above": 1}, {"feature": "f", "above": 2}
LOW = {"feature": "f", "below": 1}


@pytest.mark.parametrize(
    ("when", "never"),
    [
        ({"all": [F2, LOW]}, True),
        ({"all": [F1, LOW]}, True),
        ({"all": [F1, {"feature": "f", "below": 2}]}, False),
        ({"all": [F2, {"not": F1}]}, True),
        ({"all": [F1, {"not": F2}]}, False),
        ({"any": [{"all": [F2, LOW]}, F1]}, False),
        ({"any": [{"all": [F2, LOW]}, {"not": {"any": [F1, {"not": F1}]}}]}, True),
        ({"all": [F2, {"feature": "g", "below": 1}]}, False),
        ({"all": [{**F2, "at": "user"}, {**LOW, "at": "reply"}]}, False),
        ({"all": [{**F2, "mean_over": 4}, LOW]}, False),
        ({"all": [{"feature": "f", "above": "2 max"}, LOW]}, False),
        ({"all": [{"feature": "f", "above": "2 max"}, {"feature": "f", "below": "1 max"}]}, True),
        ({"all": [{"probe": "p", "above": 2}, {"probe": "p", "below": 1}]}, True),
        ({"not": {"feature": "f", "above": -1}}, False),
        ({"all": [{"not": F1}, {"not": {"feature": "f", "below": 2}}]}, False),
    ],
)
def test_bounds_that_exclude_each_other_are_found(when: dict[str, Any], never: bool) -> None:
    """Of one reading at one place in one unit; elsewhere they do not. `not` may hold where no token stands at all."""
    said = found(unreachable, {"when": when, "then": "hold"})
    assert said == (
        ["guard.rules[0].when: got a condition that can never hold: its bounds exclude each other"] if never else []
    )


def test_gates_that_never_open_and_edits_that_change_nothing_are_found() -> None:
    """A latch that is open between its bounds is no contradiction; a floor of 0 under a feature changes nothing."""

    def steering(when: Any, edit: dict[str, Any]) -> list[str]:
        return found(unreachable, steer=[{"name": "s", "when": when, "where": "reply", "edit": {"g": edit}}])

    latched = {"feature": "f", "above": 2, "off_below": 1}
    assert steering({"all": [latched, {"feature": "f", "below": 2}]}, {"clamp": 0}) == []
    assert "can never open" in steering({"all": [latched, LOW]}, {"clamp": 0})[0]
    for edit in ({"scale": 1}, {"shift": 0}, {"floor": 0}, {"scale": 1, "floor": "-1 max"}):
        assert "steer[0].edit.g: got an edit that changes no value" in steering(F1, edit)[0]
    for edit in ({"scale": 1, "shift": 1}, {"floor": 1}, {"cap": 0}, {"ablate": True}, {"scale": 0}):
        assert steering(F1, edit) == []


A, B = {"tool": "a"}, {"tool": "b"}
EMAIL = {"properties": {"to": {"format": "email"}}}
ALWAYS = {"feature": "f", "above": "-1 max"}
AMOUNT = {"required": ["amount"], "properties": {"amount": {"minimum": 3}}}


@pytest.mark.parametrize(
    ("first", "second", "dead"),
    [
        ({"then": "deny"}, {"tool": "pay", "then": "hold"}, 1),
        ({"tool": "pay", "then": "hold"}, {"then": "deny"}, 0),
        ({"tool": "pay", "then": "deny"}, {"then": "hold"}, None),
        ({"then": "flag"}, {"tool": "pay", "then": "hold"}, None),
        ({"then": "hold"}, {"tool": "pay", "then": "hold"}, 1),
        ({"then": "deny"}, {"tool": "pay", "then": "deny", "tripwire": True}, None),
        ({"then": "stop"}, {"tool": "pay", "then": "deny", "tripwire": True}, 1),
        ({"arguments": AMOUNT, "then": "deny"}, {"arguments": AMOUNT, "when": F1, "then": "hold"}, 1),
        ({"arguments": AMOUNT, "then": "deny"}, {"when": F1, "then": "hold"}, None),
        ({"arguments": {"x-a": 1}, "then": "deny"}, {"arguments": {"x-a": True}, "then": "hold"}, None),
        ({"after": A, "then": "deny"}, {"after": A, "without": B, "then": "flag"}, 1),
        ({"after": A, "then": "deny"}, {"after": B, "then": "flag"}, None),
    ],
)
def test_a_rule_that_another_always_goes_before_is_found(
    first: dict[str, Any], second: dict[str, Any], dead: int | None
) -> None:
    """Where a rule with no more criteria is stricter, or as strict and earlier; and nowhere else."""
    said = found(unreachable, first, second)
    assert len(said) == (dead is not None)
    if dead is not None:
        assert said[0].startswith(f"guard.rules[{dead}]: got a rule that never decides: 'r{1 - dead}'")


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"arguments": {"$ref": "#/nope"}}, "arguments.$ref: got '#/nope', which leads nowhere"),
        ({"arguments": {"$ref": "#"}}, "which leads nowhere"),
        ({"after": {"tool": "a", "result": {"allOf": [{"$ref": "http://x/y"}]}}}, "after.result.allOf[0].$ref"),
        ({"arguments": {"$ref": "#/$defs/a", "$defs": {"a": {}}}}, None),
        ({"tripwire": True, "arguments": {}}, "it reads the call's arguments"),
        ({"tripwire": True, "when": LOW}, "a later token can undo"),
        ({"tripwire": True, "when": {"not": F1}}, "a later token can undo"),
        ({"tripwire": True, "when": F1}, None),
        ({"then": "retry", "with": "ungated"}, "with: got 'ungated', which acts anyway"),
        ({"then": "retry", "with": "s"}, None),
    ],
)
def test_what_a_guard_rule_says_in_vain_is_found(rule: dict[str, Any], says: str | None) -> None:
    """References that lead nowhere, tripwires that are never certain, retries that change nothing."""
    steer = [
        {"name": "ungated", "where": "reply", "edit": {"f": {"clamp": 0}}},
        {"name": "s", "when": F1, "where": "reply", "edit": {"g": {"clamp": 0}}},
    ]
    said = found(unreachable, {"then": "deny", **rule}, steer=steer)
    assert len(said) == (says is not None)
    assert (says or "") in "".join(said)


OPTIONAL = {"properties": {"amount": {"maximum": 3}}}


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"then": "allow", "arguments": OPTIONAL}, "arguments.properties.amount: also fits where there is no 'amount'"),
        ({"then": "allow", "arguments": {**OPTIONAL, "required": ["amount"]}}, None),
        ({"then": "deny", "arguments": OPTIONAL}, None),
        ({"then": "deny", "without": {"tool": "a", "result": OPTIONAL}}, "without.result.properties.amount"),
        ({"then": "allow", "without": {"tool": "a", "result": OPTIONAL}}, None),
        ({"then": "allow", "after": {"tool": "a", "result": OPTIONAL}}, "after.result.properties.amount"),
        ({"then": "deny", "arguments": EMAIL}, "to.format: a format is not checked"),
        ({"then": "deny", "when": "invalid_arguments"}, "only stop changes anything"),
        ({"then": "stop", "when": "invalid_arguments"}, None),
        ({"then": "deny", "when": {"feature": "f", "above": -1}}, "so this always holds"),
        ({"then": "deny", "when": {"any": [F1, {"not": ALWAYS}]}}, "when.any[1].not.above"),
        ({"then": "deny", "when": {"probe": "p", "above": -1}}, None),
    ],
)
def test_what_is_probably_not_meant_is_a_warning(rule: dict[str, Any], says: str | None) -> None:
    """Schemas that let more through than they seem to, bounds that say nothing; nothing of this is a mistake."""
    said = found(suspicious, rule)
    assert len(said) == (says is not None)
    assert (says or "") in "".join(said)
    assert found(unreachable, rule) == []


def test_a_latch_that_never_closes_is_a_warning() -> None:
    """A feature is never below 0; above it the latch closes."""
    for off, count in ((0, 1), ("-1 max", 1), (0.5, 0)):
        gate = {"feature": "f", "above": 1, "off_below": off}
        rule = {"name": "s", "when": gate, "where": "reply", "edit": {"g": {"clamp": 0}}}
        assert len(found(suspicious, steer=[rule])) == count
