"""Policy files: what they say, every mistake they can hold, and what they compile to."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from steerkit import policy as room
from steerkit.errors import PolicyError, SaeError
from steerkit.policy import Edit, Policy, dump, fingerprint, load, loads, resolve
from steerkit.types import Feature

POLICIES = Path(__file__).parents[2] / "policies"
GOOD = """\
steerkit: 1
name: payments
description: what it is for
model: tiny
features:
  urge: {layer: 2, index: 417, label: about to move money}
  order: {layer: 1, index: 90}
probes:
  risk: {bias: -2.1, weights: {urge: 1.4, order: 0.8}}
steer:
  - name: damp
    when: {probe: risk, above: 0.5}
    where: reply.start
    edit: {urge: {clamp: 0}}
  - name: boost
    when: {feature: order, above: 0.5 max, below: 2 max}
    where: reply
    edit: {order: {scale: 2, shift: 1 std, cap: 3 max, floor: 0}}
guard:
  default: allow
  rules:
    - {name: schema, tool: "*", then: deny, when: invalid_arguments}
    - name: large
      tool: transfer_money
      arguments: {properties: {amount: {exclusiveMinimum: 100}}}
      then: hold
      reason: payments over 100 need a person
    - {name: seen, when: {feature: order, above: 3 std, at: prompt}, then: deny}
trace: {watch: [urge, risk], top_k: 16, at: call}
mode: shadow
write_back: reconstruction
"""


def test_every_field_is_read() -> None:
    """The example's values arrive, and what was not said has its default."""
    policy = loads(GOOD)
    assert policy.features["urge"].site == Feature(2, 417)
    assert policy.probes["risk"].weights == {"urge": 1.4, "order": 0.8}
    assert [rule.where for rule in policy.steer] == ["reply.start", "reply"]
    assert policy.guard is not None
    assert policy.guard.rules[1].reason == "payments over 100 need a person"
    assert (policy.mode, policy.write_back, policy.trace.top_k) == ("shadow", "reconstruction", 16)
    bare = loads("steerkit: 1\nname: x\n")
    assert (bare.mode, bare.write_back, bare.guard, bare.steer) == ("enforce", "delta", None, ())


def test_five_mistakes_are_all_named_with_line_and_path() -> None:
    """One reading finds every mistake, in the order of their lines."""
    text = GOOD.replace("layer: 1, index: 90", "layer: -1, index: 90").replace("where: reply.start", "where: start")
    text = (
        text.replace("default: allow", "default: block")
        .replace("then: hold", "than: hold")
        .replace("[urge, risk]", "[urge, risc]")
    )
    with pytest.raises(PolicyError) as caught:
        loads(text, "mail.yaml")
    assert caught.value.problems == [
        "mail.yaml:7 features.order.layer: got -1, expected greater than or equal to 0",
        "mail.yaml:13 steer[0].where: got 'start', expected 'any', 'prompt', 'reply' or 'reply.start'",
        "mail.yaml:20 guard.default: got 'block', expected 'allow', 'flag', 'hold' or 'deny'",
        "mail.yaml:23 guard.rules[1]: got no 'then', expected one",
        "mail.yaml:26 guard.rules[1].than: got an unknown key 'than'; did you mean 'then'?",
        "mail.yaml:29 trace.watch[1]: got 'risc', which is no feature or probe of this policy; did you mean 'risk'?",
    ]


MISTAKES = {
    "unknown feature": ("edit: {urge:", "edit: {urgee:", "got 'urgee', which is no feature.*did you mean 'urge'"),
    "unit": ("0.5 max", "0.5 mux", "got '0.5 mux'; expected a number, or a number and a unit"),
    "boolean quantity": ("clamp: 0", "clamp: true", "got True; expected a number"),
    "infinite": ("clamp: 0", "clamp: .inf", "expected a finite number"),
    "clamp and scale": ("{clamp: 0}", "{clamp: 0, scale: 2}", "expected clamp or ablate alone"),
    "empty edit": ("{clamp: 0}", "{}", "expected clamp, ablate, scale, shift, cap or floor"),
    "no bound": ("{probe: risk, above: 0.5}", "{probe: risk}", "expected above, below or both"),
    "two sources": ("{probe: risk,", "{probe: risk, feature: urge,", "exactly one of feature and probe"),
    "unit on a probe": ("{probe: risk, above: 0.5}", "{probe: risk, above: 1 max}", "a probe is a sum and has no unit"),
    "bounds crossed": ("below: 2 max", "below: 0.1 max", "to be less than below"),
    "cap below floor": ("floor: 0", "floor: 4 max", "to be at most cap"),
    "twice the name": ("name: boost", "name: damp", "got 'damp' a second time"),
    "same feature": ("order: {scale", "urge: {scale", "layer 2 feature 417, which rule 'damp' edits too"),
    "gate above edit": (
        "edit: {urge: {clamp: 0}}",
        "edit: {order: {clamp: 0}}",
        "a gate at layer 2 for an edit at layer 1",
    ),
    "probe named as feature": ("  risk: {bias", "  urge: {bias", "which is also a feature"),
    "no schema": ("{properties: {amount", "{type: 3, properties: {amount", "expected a JSON Schema"),
    "no default": ("  default: allow\n", "", "guard: got no 'default'"),
    "version": ("steerkit: 1", "steerkit: 2", "got 2, expected 1"),
    "top_k": ("top_k: 16", "top_k: 1000", "expected less than or equal to 256"),
    "key twice": ("mode: shadow", "mode: shadow\nmode: enforce", "got the key 'mode' a second time"),
    "alias": ("features:", "x: &a 1\ny: *a\nfeatures:", r"got a YAML alias"),
    "no YAML": ("features:", "features: [", "not YAML"),
    "no mapping": (GOOD, "- 1", "got no mapping"),
    "bad name": ("name: payments", "name: 'a b'", "name: got 'a b'"),
    "empty": (GOOD, "", "got no mapping"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_every_mistake_has_its_own_words(case: str) -> None:
    """The good file loads; with one thing wrong, the error says which and where."""
    right, wrong, error = MISTAKES[case]
    assert right in GOOD
    assert loads(GOOD).name == "payments"
    with pytest.raises(PolicyError, match=error):
        loads(GOOD.replace(right, wrong, 1))


def problems_of(text: str) -> list[str]:
    """The mistakes of a text; any other error goes through."""
    try:
        loads(text)
    except PolicyError as error:
        return error.problems or ["nothing was said"]
    return []


def test_broken_files_never_give_anything_but_their_errors() -> None:
    """Three hundred random cuts, swaps and insertions either load or name their mistakes."""
    rng = random.Random(0)
    failures = 0
    for _ in range(300):
        text = list(GOOD)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(text))
            match rng.randrange(3):
                case 0:
                    del text[at : at + rng.randint(1, 12)]
                case 1:
                    text.insert(at, rng.choice("{}[]:,-*&!|>'\"#\t\n 0x"))
                case _:
                    text[at] = rng.choice("{}[]:,abc09 \n")
        problems = problems_of("".join(text))
        failures += bool(problems)
        assert all(problem.startswith("<string>:") for problem in problems)
    assert failures > 150


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """Missing, a folder, not text, too large, too deep: one clear line each."""
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9")
    (tmp_path / "large.yaml").write_bytes(b"#" * (1 << 21))
    (tmp_path / "deep.yaml").write_text("a: " + "[" * 5000)
    cases = {
        "none.yaml": "no such file",
        "": "cannot be read",
        "latin.yaml": "not UTF-8",
        "large.yaml": "expected at most",
    }
    for name, error in {**cases, "deep.yaml": "too deep|not YAML|too deeply"}.items():
        with pytest.raises(PolicyError, match=error):
            load(tmp_path / name)


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
    assert len(caught.value.problems) == 5
    assert caught.value.problems[0] == "policy 'payments' steer[1].when.above: no statistic 'max'"


names = st.from_regex(r"[a-z][a-z0-9_]{0,6}", fullmatch=True)
numbers = st.floats(-1e6, 1e6) | st.integers(-100, 100)
quantities = numbers | st.builds(lambda n, u: f"{n} {u}", st.integers(0, 9), st.sampled_from(["max", "std", "q99"]))
edits = (
    st.fixed_dictionaries({"clamp": quantities}) | st.just({"ablate": True}) | st.fixed_dictionaries({"scale": numbers})
)


@st.composite
def policies(draw: st.DrawFn) -> dict[str, Any]:
    """Data of a policy that is right."""
    features = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    rules = [
        {"name": f"r{n}", "where": draw(st.sampled_from(["any", "prompt", "reply"])), "edit": {name: draw(edits)}}
        for n, name in enumerate(features)
    ]
    guard = {
        "default": draw(st.sampled_from(["allow", "deny"])),
        "rules": [{"name": "g", "then": "flag", "tool": draw(names)}],
    }
    return {
        "steerkit": 1,
        "name": draw(names),
        "description": draw(st.text(max_size=20)),
        "features": {name: {"layer": 0, "index": n} for n, name in enumerate(features)},
        "steer": rules,
        "guard": draw(st.none() | st.just(guard)),
        "trace": {"watch": features, "top_k": draw(st.integers(0, 256))},
    }


@given(data=policies())
@settings(deadline=None, max_examples=80)
def test_loading_what_was_dumped_gives_the_policy(data: dict[str, Any]) -> None:
    """load(dump(p)) == p, and equal policies have equal fingerprints."""
    policy = Policy.model_validate(data)
    again = loads(dump(policy))
    assert again == policy
    assert fingerprint(again) == fingerprint(policy)
    assert fingerprint(policy.model_copy(update={"name": "another-name"})) != fingerprint(policy)


def test_a_policy_made_in_code_is_checked_too() -> None:
    """Without a file there is no line, but the same mistakes are refused."""
    with pytest.raises(ValidationError, match="which is no feature of this policy"):
        Policy.model_validate(
            {"steerkit": 1, "name": "x", "steer": [{"name": "r", "where": "any", "edit": {"f": {"clamp": 1}}}]}
        )


def test_the_shipped_schema_is_the_models() -> None:
    """`policies/schema.json` is what `steerkit policy schema` prints, and takes the good file and not a bad one."""
    assert (POLICIES / "schema.json").read_text() == room.schema_text(), (
        "run: steerkit policy schema > policies/schema.json"
    )
    validator = jsonschema.Draft202012Validator(json.loads(room.schema_text()))
    assert validator.is_valid(yaml.safe_load(GOOD))
    assert not validator.is_valid({**yaml.safe_load(GOOD), "more": 1})


@pytest.mark.parametrize("path", sorted(POLICIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_policies_load_and_name_their_schema(path: Path) -> None:
    """Each shipped file is right by our reading and by its schema, and tells editors where that is."""
    assert load(path).name == path.stem
    assert path.read_text().startswith("# yaml-language-server: $schema=schema.json\n")
    jsonschema.validate(yaml.safe_load(path.read_text()), room.schema())
