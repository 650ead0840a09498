"""What a policy says: edits, quantities, what its parts owe each other, and its identity."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from pydantic import BaseModel, ValidationError

from steerkit.errors import PolicyError, SaeError
from steerkit.policy import (
    UNITS,
    Edit,
    Policy,
    dump,
    explain,
    fingerprint,
    loads,
    resolve,
    schema,
    split_quantity,
    watch_key,
)
from steerkit.sites import Feature
from tests.policy.example import GOOD
from tests.policy.strategies import policies


def test_edits_are_one_formula() -> None:
    """Each kind of edit is its four numbers."""
    inf = math.inf
    assert Edit(clamp=3).formula() == (0, 3, -inf, inf)
    assert Edit(ablate=True).formula() == (0, 0, -inf, inf)
    assert Edit(scale=2.0, shift=1).formula() == (2, 1, -inf, inf)
    assert Edit(cap=5, floor=1).formula() == (1, 0, 1, 5)


def test_quantities_are_resolved_once_and_for_all() -> None:
    """Multiples become raw by the feature's own statistic; resolving again changes nothing."""
    table = {"max": 10.0, "std": 2.0}
    raw = resolve(loads(GOOD), lambda feature, unit: table[unit] * feature.layer)
    assert raw.steer[1].when is not None
    assert (raw.steer[1].when.above, raw.steer[1].when.below) == (5.0, 20.0)
    assert raw.steer[1].edit["order"].formula() == (2.0, 2.0, 0.0, 30.0)
    assert raw.guard is not None
    assert raw.guard.rules[2].when.above == 6.0  # type: ignore[union-attr]
    assert resolve(raw, lambda feature, unit: 1 / 0) == raw


def test_missing_statistics_are_all_named() -> None:
    """Every quantity without a statistic is listed with its path."""

    def nothing(feature: Feature, unit: str) -> float:
        raise SaeError(f"no statistic '{unit}'")

    with pytest.raises(PolicyError) as caught:
        resolve(loads(GOOD), nothing)
    assert len(caught.value.problems) == 8
    assert caught.value.problems[0] == "policy 'payments' steer[1].when.above: no statistic 'max'"


def test_quantities_that_contradict_each_other_once_raw_are_refused() -> None:
    """Bounds in different units can only be compared when raw; statistics that are no numbers are refused too."""
    text = GOOD.replace("above: 0.5 max, below: 2 max", "above: 0.5 max, below: 3")
    assert resolve(loads(text), lambda feature, unit: 2.0).steer[1].when is not None
    with pytest.raises(PolicyError, match=r"policy 'payments' in raw activations: steer\[1\]\.when.*to be less than"):
        resolve(loads(text), lambda feature, unit: 10.0)
    with pytest.raises(PolicyError, match="finite"):
        resolve(loads(text), lambda feature, unit: math.nan)


@given(data=policies())
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_loading_what_was_dumped_gives_the_policy(data: dict[str, Any]) -> None:
    """load(dump(p)) == p whatever the fields say, and equal policies have equal fingerprints and explanations."""
    policy = Policy.model_validate(data)
    again = loads(dump(policy))
    assert again == policy
    assert fingerprint(again) == fingerprint(policy)
    assert explain(again) == explain(policy)
    assert dump(again) == dump(policy)
    assert fingerprint(policy.model_copy(update={"name": "another-name"})) != fingerprint(policy)


def test_drawn_policies_have_every_field() -> None:
    """Among the policies that are drawn each key of the format is said somewhere, so the law above is of them all."""
    missing = {(part, key) for part, keys in parts_of_the_format().items() for key in keys}

    @given(data=policies())
    @settings(deadline=None, max_examples=400, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def look(data: dict[str, Any]) -> None:
        missing.difference_update(said(Policy.model_validate(data)))

    look()
    assert missing == set()


def parts_of_the_format() -> dict[str, list[str]]:
    """By part, its keys; a gate's and a condition's are one list."""
    whole = schema()
    parts = {"Policy": whole, **whole["$defs"]}
    parts.pop("Condition")
    return {title: list(part["properties"]) for title, part in parts.items() if "properties" in part}


def said(part: Any) -> Iterator[tuple[str, str]]:
    """Part and key of everything that a policy says."""
    if isinstance(part, dict):
        part = tuple(part.values())
    if isinstance(part, tuple):
        for inner in part:
            yield from said(inner)
    elif isinstance(part, BaseModel):
        title = {"Condition": "Gate"}.get(type(part).__name__, type(part).__name__)
        for name in part.model_fields_set:
            yield title, type(part).model_fields[name].alias or name
            yield from said(getattr(part, name))


def test_equal_policies_have_one_zero() -> None:
    """A zero with a sign is the zero without: equal policies have one fingerprint; another number has another."""
    prints = {
        fingerprint(
            Policy.model_validate(
                {
                    "steerkit": 1,
                    "name": "x",
                    "features": {"f": {"layer": 0, "index": 1}},
                    "probes": {"p": {"bias": number, "weights": {"f": number}}},
                    "steer": [{"name": "r", "where": "any", "edit": {"f": {"clamp": number}}}],
                }
            )
        )
        for number in (0, 0.0, -0.0)
    }
    assert len(prints) == 1
    assert len(prints | {fingerprint(Policy(steerkit=1, name="x"))}) == 2


def test_a_policy_made_in_code_is_checked_too() -> None:
    """Without a file there is no line, but the same mistakes are refused."""
    with pytest.raises(ValidationError, match="which is no feature of this policy"):
        Policy.model_validate(
            {"steerkit": 1, "name": "x", "steer": [{"name": "r", "where": "any", "edit": {"f": {"clamp": 1}}}]}
        )


def test_quantities_are_numbers_or_multiples_of_a_known_statistic() -> None:
    """Every unit is read, signs and exponents too; anything else is refused."""
    for unit in UNITS:
        assert split_quantity(f"-1.5e1 {unit}") == (-15.0, unit)
    assert split_quantity(3.5) == (3.5, None)
    for wrong in ("3", "max", "3max", "3  max", "3 max ", "x max", "3 median", "\u0663 max x", "inf max", "1e999 max"):
        with pytest.raises(ValidationError):
            Edit(clamp=wrong)
    for also_wrong in (True, None, math.nan, math.inf, [1], 10**400):
        with pytest.raises(ValidationError):
            Edit(clamp=also_wrong)  # type: ignore[arg-type]
    assert Edit(clamp="3 max").clamp == "3 max"


def test_raw_formulas_need_raw_quantities() -> None:
    """An edit in multiples has no formula before it is resolved, never a wrong one."""
    for edit in (Edit(clamp="1 max"), Edit(shift="1 max"), Edit(cap="1 max"), Edit(floor="1 max")):
        with pytest.raises(ValueError, match="could not convert"):
            edit.formula()
    assert Edit(ablate=True).formula() == Edit(clamp=0).formula()


def steered(gate: int, *edited: int, probe: bool = False) -> dict[str, Any]:
    """A rule gated at one layer that edits at others."""
    features = {"gate": {"layer": gate, "index": 0}, **{f"e{n}": {"layer": n, "index": 1} for n in edited}}
    when = {"probe": "p", "above": 1} if probe else {"feature": "gate", "above": 1}
    rule = {"name": "r", "where": "any", "when": when, "edit": {f"e{n}": {"clamp": 0} for n in edited}}
    probes = {"p": {"weights": {"gate": 1.0}}} if probe else {}
    return {"steerkit": 1, "name": "x", "features": features, "probes": probes, "steer": [rule]}


@pytest.mark.parametrize("probe", [False, True])
def test_a_gate_above_its_edit_cannot_act_in_the_prompt(probe: bool) -> None:
    """A gate at the edit's layer or below it acts anywhere; one layer above the lowest edit only in the reply."""
    for gate, edited in ((1, (1,)), (0, (1, 5)), (1, (2, 1))):
        assert Policy.model_validate(steered(gate, *edited, probe=probe)).steer
    for gate, edited in ((2, (1,)), (3, (5, 2))):
        data = steered(gate, *edited, probe=probe)
        with pytest.raises(ValidationError, match=f"an edit at layer {min(edited)} behind a gate at layer {gate}"):
            Policy.model_validate(data)
        for place in ("reply", "reply.start", "text", "call.name", "call.arguments.x"):
            assert Policy.model_validate({**data, "steer": [{**data["steer"][0], "where": place}]}).steer


def two_rules(first: dict[str, Any], second: dict[str, Any], *, features: Any = None) -> Policy:
    """A policy of two rules that edit features `a` and `b`, by default one feature under two names."""
    rules = [
        {"name": n, "where": "any", "edit": {n: {"clamp": 0}}, **rule} for n, rule in (("a", first), ("b", second))
    ]
    one = {"layer": 0, "index": 1}
    return Policy.model_validate(
        {"steerkit": 1, "name": "x", "features": features or {"a": one, "b": one}, "steer": rules}
    )


def test_two_edits_of_a_feature_at_one_token_need_a_priority() -> None:
    """Rules that may meet on a feature are refused, named both; another feature, place or priority is fine."""
    with pytest.raises(ValidationError, match=r"layer 0 feature 1, which rule 'a' \(steer\[0\]\) edits at the same"):
        two_rules({}, {})
    with pytest.raises(ValidationError, match="which rule 'a'"):
        two_rules({"where": "reply"}, {"where": "call.name"})
    assert two_rules({}, {"priority": 1}).steer
    assert two_rules({"where": "user"}, {"where": "tool_result"}).steer
    assert two_rules({}, {}, features={"a": {"layer": 0, "index": 1}, "b": {"layer": 0, "index": 2}}).steer
    twice = {"a": {"clamp": 0}, "b": {"clamp": 1}}
    with pytest.raises(ValidationError, match="which 'a' names too"):
        two_rules({"edit": twice}, {"edit": {"b": {"clamp": 0}}, "priority": 1})


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        ({"when": {"feature": "a", "above": 1, "at": "user"}, "where": "reply"}, None),
        ({"when": {"feature": "a", "above": 1, "at": "user"}, "where": "tool_result"}, "can never act"),
        ({"when": {"feature": "a", "above": 1, "at": "user"}, "where": "tool_result", "for": "turn"}, None),
        ({"when": {"feature": "a", "above": 1, "at": "call"}, "where": "prompt", "for": "turn"}, "is over before"),
        ({"when": {"feature": "a", "above": 1, "at": "call.name"}, "where": "call.arguments"}, "holds for one token"),
        ({"when": {"feature": "a", "above": 1, "at": "call.name"}, "where": "call.arguments", "for": "9 tokens"}, None),
        ({"when": {"feature": "a", "below": 0}}, "a feature is never less than 0"),
        ({"when": "retry"}, "no guard rule names"),
    ],
)
def test_rules_that_can_never_act_are_refused(rule: dict[str, Any], error: str | None) -> None:
    """A gate that is never read where it counts, or a bound that nothing can cross, is a mistake; the others load."""
    features = {"a": {"layer": 0, "index": 1}, "b": {"layer": 0, "index": 2}}
    if error is None:
        assert two_rules(rule, {}, features=features).steer
        return
    with pytest.raises(ValidationError, match=error):
        two_rules(rule, {}, features=features)


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        ({"then": "retry"}, "expected 'with'"),
        ({"then": "deny", "with": "a"}, "expected 'with'"),
        ({"then": "retry", "with": "c"}, "which is no steering rule"),
        ({"then": "deny", "attempts": 2}, "got attempts"),
        ({"then": "hold", "tripwire": True}, "got tripwire"),
        ({"then": "hold", "when": "invalid_arguments"}, "can never decide"),
        ({"then": "deny", "when": {"feature": "a", "above": 1, "off_below": 0.5}}, "off_below"),
        ({"then": "retry", "with": "a", "attempts": 2}, None),
    ],
)
def test_guard_rules_say_only_what_fits_their_ruling(rule: dict[str, Any], error: str | None) -> None:
    """A field that means nothing beside its ruling is a mistake; what fits loads."""
    data = {
        "steerkit": 1,
        "name": "x",
        "features": {"a": {"layer": 0, "index": 1}},
        "steer": [{"name": "a", "where": "any", "edit": {"a": {"clamp": 0}}}],
        "guard": {"default": "allow", "rules": [{"name": "g", **rule}]},
    }
    if error is None:
        assert Policy.model_validate(data).guard
        return
    with pytest.raises(ValidationError, match=error):
        Policy.model_validate(data)


def test_policies_are_values() -> None:
    """They cannot be changed, equal content is equal, and every change of content changes the fingerprint."""
    policy = loads(GOOD)
    with pytest.raises(ValidationError, match="frozen"):
        policy.name = "other"
    reordered = "\n".join(["write_back: reconstruction", *GOOD.splitlines()[:-1]])
    assert fingerprint(loads(reordered)) == fingerprint(policy)
    changes = [
        ("clamp: 0", "clamp: 1"),
        ("bias: -2.1", "bias: -2.2"),
        ("then: hold", "then: deny"),
        ("top_k: 16", "top_k: 15"),
    ]
    prints = {fingerprint(loads(GOOD.replace(*change, 1))) for change in changes}
    assert len(prints | {fingerprint(policy)}) == 5
    assert fingerprint(policy).startswith("sha256:")


def test_policies_keep_their_readings_apart() -> None:
    """One name in two policies has two keys in a trace."""
    assert watch_key(loads(GOOD), "urge") == "payments.urge"
    assert watch_key(loads(GOOD.replace("name: payments", "name: mail", 1)), "urge") == "mail.urge"
