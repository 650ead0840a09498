"""What rules did is read off the recorder: beside a reading token by token, rule by rule, with whole SAEs."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor

from steerkit.policy import Policy
from steerkit.sae import Kind, SaeSet
from steerkit.sites import Site
from steerkit.steer import Plan, Recorder, attach, compile_plan
from steerkit.steer.compile.plan import Rule
from steerkit.steer.record import edits as acted
from steerkit.testing import planted_policy, planted_saes, small_model

MODEL = small_model()
IDS = torch.tensor([[(31 * row + 7 * place) % 1000 for place in range(23)] for row in range(4)])
LENGTHS = (23, 20, 23, 9)
"""Of the sequences; what is missing is padding on the left."""
GATE = {"feature": "gate", "above": 0.0}


def rule(name: str, edit: dict[str, Any], **parts: Any) -> dict[str, Any]:
    """One at every token, unless said otherwise."""
    return {"name": name, "where": "any", "edit": edit, **parts}


def policies(write_back: str) -> list[tuple[Policy, ...]]:
    """Rules that edit one feature both, before each other or not, in two layers, behind gates, and in shadow."""
    features = {"gate": (0, 3), "a": (1, 11), "b": (1, 20), "c": (2, 5), "d": (1, 30)}
    loud, quiet = {"clamp": 2.0}, {"shift": 0.01}
    two = [
        rule("first", {"a": loud, "b": quiet}, when=GATE, priority=1),
        rule("second", {"a": quiet, "c": {"scale": 3.0}, "d": {"floor": 0.02}}),
    ]
    one = planted_policy("one", features, steer=two, write_back=write_back)
    other = planted_policy("other", features, steer=[rule("rare", {"a": loud}, when={**GATE, "above": 0.004})])
    seen = planted_policy("seen", features, mode="shadow", steer=[rule("would", {"a": quiet, "b": loud})])
    return [(one,), (other, one), (), (seen, other)]


def became(rule: Rule, feature: Any, f: float) -> float:
    """By the rule's formula."""
    scale, shift, floor, ceiling = rule.edits[feature]
    return min(max(scale * f + shift, floor), ceiling)


def added(plan: Plan, saes: SaeSet, recorder: Recorder, site: Site, b: int, column: int, number: int) -> Tensor:
    """What one rule added to one activation."""
    sae, rule = saes[site], plan.rules[number - 1]
    y = recorder.raw(site)[b, column]
    features = sae.encode(y[None])[0]
    opened = recorder.opened()[site][b, column]
    change = torch.zeros(sae.d_sae)
    for feature in (one for one in rule.edits if one.site == site):
        before = [
            one
            for place, one in enumerate(plan.rules, start=1)
            if opened[place] and one.row == rule.row and one.writes and feature in one.edits and one.rank < rule.rank
        ]
        if not (rule.writes and before):
            f = float(features[feature.index])
            change[feature.index] = became(rule, feature, f) - f
    if rule.reconstructs:
        return sae.decode((features + change)[None])[0] - y
    return change @ sae.W_dec


@pytest.mark.parametrize("at_once", [1 << 22, 300])
@pytest.mark.parametrize("write_back", ["delta", "reconstruction"])
@pytest.mark.parametrize("kind", ["relu", "topk", "jumprelu", "gated"])
def test_edits_are_what_each_rule_added(
    kind: str, write_back: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each request the rules that changed something, the tokens where they did and the longest change."""
    monkeypatch.setattr(acted, "_NUMBERS_AT_ONCE", at_once)
    saes = planted_saes(MODEL, kind=cast(Kind, kind))
    held = policies(write_back)
    plan = compile_plan(held, saes)
    mask = torch.arange(23) >= 23 - torch.tensor(LENGTHS).unsqueeze(1)
    with torch.no_grad(), attach(MODEL, plan, rows=[plan.row(one) for one in held]) as attached:
        recorder = attached.recorder
        MODEL(input_ids=IDS, attention_mask=mask.long())
    places = [recorder.columns(b) for b in range(4)]
    did = acted.read_edits(recorder, plan, places)
    found = [one.edits for one in did]
    opened_at: list[dict[str, int]] = [{} for _ in held]
    expected: list[dict[tuple[str, str, int], tuple[tuple[int, ...], float]]] = [{} for _ in held]
    for site, opened in recorder.opened().items():
        for b, columns in enumerate(places):
            for number, one in enumerate(plan.rules, start=1):
                norms = {
                    position: float(added(plan, saes, recorder, site, b, int(column), number).norm())
                    for position, column in enumerate(columns)
                    if opened[b, column, number]
                }
                if norms:
                    name = f"{one.policy}/{one.name}"
                    opened_at[b][name] = max(opened_at[b].get(name, 0), len(norms))
                changed = {position: norm for position, norm in norms.items() if norm > 0}
                if changed:
                    expected[b][one.policy, one.name, site] = tuple(changed), max(changed.values())
    for edits, those in zip(found, expected, strict=True):
        assert {(edit.policy, edit.rule, edit.site): edit.positions for edit in edits} == {
            key: positions for key, (positions, _) in those.items()
        }
        for edit in edits:
            assert edit.norm == pytest.approx(those[edit.policy, edit.rule, edit.site][1], rel=1e-4, abs=1e-6)
    assert [one.opened for one in did] == opened_at
    assert not found[2]
    assert {edit.rule for edit in found[3]} == {"would", "rare"}
    counts = {edit.rule: len(edit.positions) for edit in found[1] if edit.layer == 1}
    assert 0 < counts["rare"] <= counts["first"] < counts["second"] == LENGTHS[1]


def test_a_rule_may_open_and_change_nothing() -> None:
    """A floor below every activation: its gate was open at each token, and there is no edit."""
    saes = planted_saes(MODEL)
    quiet = planted_policy("p", {"a": (1, 11)}, steer=[rule("low", {"a": {"floor": 0.0}})])
    plan = compile_plan([(quiet,)], saes)
    with torch.no_grad(), attach(MODEL, plan, rows=[plan.row((quiet,))]) as attached:
        MODEL(input_ids=IDS[:1])
    (did,) = acted.read_edits(attached.recorder, plan, [attached.recorder.columns(0)])
    assert (did.edits, did.opened) == ([], {"p/low": IDS.shape[1]})
