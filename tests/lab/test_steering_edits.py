"""Edits that turn a decision: what is chosen, what it does, and when it is left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from steerkit.agent import Runtime
from steerkit.errors import SaeError
from steerkit.lab.find.attempt import STRENGTHS
from steerkit.lab.find.decisions import Decisions
from steerkit.lab.find.joint_edits import JointEdits
from steerkit.lab.find.search import Found, find
from steerkit.lab.find.steering_edits import SteeringEdits, find_steering_edits
from steerkit.lab.find.write_policy import found_policy, write_found
from steerkit.lab.material import Material, read_material
from steerkit.policy import load, read_direction
from steerkit.sites import Feature, Site
from steerkit.steer import check_against_saes
from tests.lab.planted_truth import BYSTANDER, CAUSE, Planted, cases, on_features, planted_over_layers


@pytest.fixture(scope="module")
def material(truth: Planted) -> Material:
    """The planted conversations; conditions on activations have tests of their own."""
    return on_features(truth.material())


@pytest.fixture(scope="module")
def found(truth: Planted, material: Material) -> Found:
    """What tells them apart."""
    return find(truth.loaded, truth.saes, material, "reply.start")


def deciding(truth: Planted, material: Material) -> Decisions:
    """The planted conversations where the reply begins."""
    return Decisions(truth.loaded, truth.saes, material, "reply.start")


def turned(truth: Planted, material: Material, found: Found, strength: float | None = None) -> SteeringEdits:
    """Edits that are there."""
    one = find_steering_edits(deciding(truth, material), found, strength=strength)
    assert one is not None
    return one


def test_the_cause_is_edited_and_the_bystander_is_not(truth: Planted, material: Material, found: Found) -> None:
    """At strength 1 the cause becomes what it is in the negatives, at 2 as far beyond; random directions do less."""
    one, two = (turned(truth, material, found, strength) for strength in (1.0, 2.0))
    assert one.sites == (CAUSE.site,)
    assert CAUSE in one.edits
    assert BYSTANDER not in one.edits
    usual = float(material.usual[CAUSE.site][CAUSE.index])
    there = float(material.values(CAUSE)[material.chosen[material.positive[material.chosen]]].mean())
    assert one.edits[CAUSE]["clamp"] == pytest.approx(usual)
    assert two.edits[CAUSE]["clamp"] == pytest.approx(2 * usual - there)
    assert one.score - two.edited > one.score - one.edited > 2 * abs(one.score - one.random)
    assert one.proven


def test_what_does_no_more_than_chance_does_not_steer(truth: Planted, material: Material, found: Found) -> None:
    """Edits of strength 0 change nothing that random directions would not, and no policy carries them."""
    real, none = (turned(truth, material, found, strength) for strength in (1.0, 0.0))
    (rule,) = found_policy(found, truth.saes, "real", real).steer
    assert rule.where == "reply.start"
    assert not none.proven
    assert not found_policy(found, truth.saes, "none", none).steer
    assert not found_policy(found, truth.saes, "plain").steer
    assert find_steering_edits(deciding(truth, material), replace(found, place="user")) is None
    assert find_steering_edits(deciding(truth, material), replace(found, features=(), probe=None)) is None


@pytest.mark.parametrize("flips", [1, 2])
def test_layers_are_edited_together_only_where_no_single_one_is_enough(flips: int) -> None:
    """Where it takes two layers, shifts over both turn every call and clamps of one turn none; where one is enough, one
    is edited. Controls turn none in either world: random directions, random rows and the opposite."""
    world = planted_over_layers(flips)
    material = on_features(world.material())
    found = find(world.loaded, world.saes, material, "reply.start")
    one = find_steering_edits(Decisions(world.loaded, world.saes, material, "reply.start"), found)
    assert one is not None
    assert one.proven
    assert (one.turned.hits, one.turned.count) == (20, 20)
    assert [share.hits for share in (one.controls.random, one.controls.rows, one.controls.opposite)] == [0, 0, 0]
    other = next(way for way in one.beaten if way.way == "clamps of one layer" or flips == 1)
    policy = found_policy(found, world.saes, "over-layers", one)
    assert check_against_saes(policy, world.saes).problems == ()
    (rule,) = policy.steer
    if flips == 2:
        assert (one.way, one.sites) == ("shifts over layers", (Site(1), Site(2)))
        assert {Feature(1, 0), Feature(2, 0)} <= set(one.edits)
        assert (other.way, other.turned.hits) == ("clamps of one layer", 0)
        assert {name: edit.shift for name, edit in rule.edit.items()} == {
            feature.handle: pytest.approx(edit["shift"], rel=1e-4) for feature, edit in one.edits.items()
        }
    else:
        assert (len(one.sites), len(other.sites)) == (1, 1)
    assert one.gated
    assert one.kept.value > 0.8 > 0.3 > one.kept_open.value
    assert one.worth >= other.worth
    assert [rule.when for rule in found_policy(found, world.saes, "free", replace(one, gated=False)).steer] == [None]


@pytest.mark.parametrize("features", [True, False])
def test_a_direction_is_written_where_no_features_do_as_well(
    features: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where shifts of features turn all calls they are written, as the difference of means turns none in this world;
    where no features are to be had, it is written, and goes to a file beside the policy. By how much the written way
    does better is said of each other."""
    if not features:
        monkeypatch.setattr("steerkit.lab.find.steering_edits.choose_clamps", lambda *_: None)
        monkeypatch.setattr(JointEdits, "shifts", lambda _: None)
    world = planted_over_layers(2)
    material = on_features(world.material())
    found = find(world.loaded, world.saes, material, "reply.start")
    one = find_steering_edits(Decisions(world.loaded, world.saes, material, "reply.start"), found)
    assert one is not None
    assert one.proven
    write_found(world.loaded, world.saes, found, one, tmp_path / "found.yaml")
    policy = load(tmp_path / "found.yaml")
    assert check_against_saes(policy, world.saes).problems == ()
    (rule,) = policy.steer
    assert f"({one.way}) stops {one.stopped.hits} of 20 held-out calls" in policy.description
    assert [share.hits for share in (one.controls.random, one.controls.rows, one.controls.opposite)] == [0, 0, 0]
    if features:
        assert (one.way, one.vectors, policy.directions) == ("shifts over layers", {}, {})
        leads = {other.way: other.lead for other in one.beaten if other.lead is not None}
        assert {way: lead.calls for way, lead in leads.items()} == {
            other.way: one.stopped.hits - other.stopped.hits for other in one.beaten
        }
        assert set(leads) == {"clamps of one layer", "difference of means"}
        assert max(lead.p for lead in leads.values()) < 0.01
        assert [path.name for path in tmp_path.iterdir()] == ["found.yaml"]
        return
    assert (one.way, one.sites, one.edits, one.beaten) == ("difference of means", (Site(1), Site(2)), {}, ())
    assert rule.edit["away"].add == one.strength
    direction = read_direction(tmp_path / "found.safetensors")
    assert direction.origin.place == rule.where == "reply.start"
    for site, vector in one.vectors.items():
        assert torch.equal(torch.tensor(direction.vectors[site]), vector)
    with pytest.raises(SaeError, match="already there"):
        write_found(world.loaded, world.saes, found, one, tmp_path / "found.yaml")


def test_without_benign_cost_there_is_no_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where any cost is allowed the rule acts everywhere; the control is the same world with its cost counted."""
    world = planted_over_layers(2)
    decisions = Decisions(world.loaded, world.saes, world.material(), "reply.start")
    gated = JointEdits(decisions, None, 8, 0).shifts()
    monkeypatch.setattr("steerkit.lab.find.joint_edits.KEPT", 0.0)
    free = JointEdits(decisions, None, 8, 0).shifts()
    assert gated is not None
    assert free is not None
    assert (gated.gated, free.gated) == (True, False)


@pytest.mark.parametrize(("area", "layers"), [(0.97, {1, 2}), (0.9, {2})])
def test_edits_begin_earlier_where_later_ones_are_not_enough(
    area: float, layers: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gate read up to layer 1 tells the sets apart a little worse than up to layer 2, from where on edits turn no
    call: they begin in layer 1. Where it tells them apart much worse, they do not."""
    world = planted_over_layers(2)
    areas = {Site(1): area, Site(2): 1.0}
    monkeypatch.setattr("steerkit.lab.find.joint_edits.gate_areas", lambda _, sites, **__: {s: areas[s] for s in sites})
    decisions = Decisions(world.loaded, world.saes, world.material(), "reply.start")
    found = JointEdits(decisions, None, 8, 0).shifts()
    assert found is not None
    assert {feature.site.layer for feature in found.edits} == layers


def read_in_the_box(box: Runtime, positive: str, negative: str) -> tuple[Material, Found]:
    """Forty conversations of the box's world, searched where the reply begins."""
    assert box.saes is not None
    sets = (cases(box.loaded, kind, 20) for kind in (positive, negative))
    material = read_material(box.loaded, box.saes, *sets)
    return material, find(box.loaded, box.saes, material, "reply.start", top=3, most=3)


def test_the_dose_that_is_chosen_turns_calls_it_was_not_chosen_on(box: Runtime) -> None:
    """Of the held-out requests for money no call is opened under the edits; under random directions all are."""
    assert box.saes is not None
    material, found = read_in_the_box(box, "dangerous:transfer_money", "benign")
    one = find_steering_edits(Decisions(box.loaded, box.saes, material, "reply.start"), found)
    assert one is not None
    assert one.strength in STRENGTHS
    assert (one.turned.hits, one.turned.count) == (10, 10)
    assert (one.turned_random.hits, one.turned_random.count) == (0, 30)
    assert one.edited < 0 < one.random


def test_a_condition_that_reads_too_late_is_fitted_anew(box: Runtime) -> None:
    """Orders are decided in layer 2: a condition of layer 3 would open a token late, so the edits have their own."""
    assert box.saes is not None
    material, found = read_in_the_box(box, "injected", "injected_clean")
    late = replace(found.features[0], feature=Feature(3, 0))
    found = replace(found, features=(late, *found.features[1:]), probe=None)
    one = find_steering_edits(Decisions(box.loaded, box.saes, material, "reply.start"), found)
    assert one is not None
    assert one.sites == (Site(2),)
    assert one.gate is not None
    assert all(feature.layer <= 2 for feature in one.gate.weights)
    policy = found_policy(found, box.saes, "orders", replace(one, p=0.0, edited=one.score - 1))
    assert check_against_saes(policy, box.saes).problems == ()
    assert [(rule.when.probe, rule.name) for rule in policy.steer] == [("gate", "found")]  # type: ignore[union-attr]
    early = replace(late, feature=Feature(1, 0))
    assert (
        getattr(
            find_steering_edits(
                Decisions(box.loaded, box.saes, material, "reply.start"), replace(found, features=(early,))
            ),
            "gate",
            0,
        )
        is None
    )
