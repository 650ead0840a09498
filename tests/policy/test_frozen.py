"""A policy is checked once and cannot change: its fingerprint is computed once and stays true."""

from __future__ import annotations

import copy
import hashlib
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from steerkit.errors import PolicyError
from steerkit.policy import Policy, fingerprint, loads, resolve
from steerkit.policy.checks import cross_problems
from steerkit.sites import Feature

TEXT = """\
steerkit: 1
name: x
features: {f: {layer: 0, index: 1}, g: {layer: 1, index: 2}}
probes: {p: {weights: {f: 1.0}}}
steer:
  - {name: s, when: {feature: f, above: %s}, where: reply, edit: {g: {clamp: 1}}}
guard:
  default: deny
  rules:
    - {name: r, arguments: {properties: {a: {enum: [1, 2]}}}, then: allow}
"""


@pytest.fixture
def policy() -> Policy:
    return loads(TEXT % "2 max")


def test_a_fingerprint_is_computed_once(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call hashes nothing; the control, another policy object, does."""
    hashed: list[bytes] = []
    sha256 = hashlib.sha256

    def counted(data: bytes = b"") -> Any:
        hashed.append(data)
        return sha256(data)

    monkeypatch.setattr(hashlib, "sha256", counted)
    first = fingerprint(policy)
    assert [fingerprint(policy), policy.fingerprint] == [first, first]
    assert len(hashed) == 1
    assert fingerprint(loads(TEXT % "2 max")) == first
    assert len(hashed) == 2


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, Policy.model_copy, lambda one: pickle.loads(pickle.dumps(one))],
    ids=["copy", "deepcopy", "model_copy", "pickle"],
)
def test_copies_are_equal_and_frozen(policy: Policy, copied: Callable[[Policy], Policy]) -> None:
    """With or without a fingerprint computed, a policy equals its copies, and they have its fingerprint."""
    before = copied(policy)
    first = fingerprint(policy)
    for one in (before, copied(policy)):
        assert one == policy
        assert fingerprint(one) == first
        with pytest.raises(TypeError, match="cannot be changed"):
            one.features["h"] = one.features["f"]


def test_a_changed_copy_has_another_fingerprint(policy: Policy) -> None:
    """The same holds for a copy of a copy; a copy with equal content has the same one."""
    first = fingerprint(policy)
    shadow = policy.model_copy(update={"mode": "shadow"})
    assert fingerprint(shadow) != first
    assert fingerprint(shadow.model_copy(update={"mode": "enforce"})) == first
    assert fingerprint(policy.without_gate("s")) != first
    assert fingerprint(policy.without_gate("none")) == first


def _schema(policy: Policy) -> Any:
    assert policy.guard is not None
    return policy.guard.rules[0].arguments


CHANGES: dict[str, Callable[[Policy], Any]] = {
    "a field": lambda policy: setattr(policy, "mode", "shadow"),
    "a feature": lambda policy: policy.features.pop("f"),
    "a weight": lambda policy: policy.probes["p"].weights.update(f=2.0),
    "an edit": lambda policy: policy.steer[0].edit.clear(),
    "a schema": lambda policy: _schema(policy).setdefault("type", "object"),
    "a list in a schema": lambda policy: _schema(policy)["properties"]["a"]["enum"].append(3),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_nothing_in_a_policy_can_be_changed(policy: Policy, change: Callable[[Policy], Any]) -> None:
    """Every way of changing one is refused, and its content stays."""
    content = policy.model_dump()
    with pytest.raises((TypeError, ValidationError), match=r"cannot be changed|frozen"):
        change(policy)
    assert policy.model_dump() == content


def test_a_policy_does_not_share_the_data_it_was_made_of() -> None:
    """A schema that the caller changes later does not change the policy."""
    schema: dict[str, Any] = {"required": ["a"]}
    rules = [{"name": "r", "arguments": schema, "then": "allow"}]
    policy = Policy.model_validate({"steerkit": 1, "name": "x", "guard": {"default": "deny", "rules": rules}})
    schema["required"].append("b")
    assert _schema(policy) == {"required": ["a"]}


@pytest.mark.parametrize("update", [{"mode": "shadwo"}, {"guard": {"default": "alow"}}, {"modes": "shadow"}])
def test_a_copy_validates_what_it_changes(policy: Policy, update: dict[str, Any]) -> None:
    """A wrong value or field is refused, as pydantic's own copy would not."""
    with pytest.raises(ValidationError):
        policy.model_copy(update=update)


def test_resolving_checks_values_alone(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and schemas are not checked again; a policy of raw quantities is its own resolution."""

    def statistic(feature: Feature, unit: str) -> float:
        return 3.0

    checked: list[Any] = []

    def counted(data: Any) -> list[Any]:
        checked.append(data)
        return cross_problems(data)

    monkeypatch.setattr("steerkit.policy.policy.cross_problems", counted)
    raw = resolve(policy, statistic)
    assert raw == loads(TEXT % "6")
    assert resolve(raw, statistic) is raw
    assert checked == []
    Policy.model_validate(raw.model_dump())
    assert len(checked) == 1  # the control
    with pytest.raises(PolicyError, match="expected a finite number"):
        resolve(policy, lambda feature, unit: float("inf"))
