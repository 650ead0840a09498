"""Edits that turn a decision: what is chosen, what it does, and when it is left out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from steerkit.agent import Runtime
from steerkit.lab.find.attempt import STRENGTHS
from steerkit.lab.find.decisions import Decisions
from steerkit.lab.find.search import Found, find
from steerkit.lab.find.steering_edits import SteeringEdits, find_steering_edits
from steerkit.lab.find.write_policy import found_policy
from steerkit.lab.material import Material, read_material
from steerkit.sites import Feature, Site
from steerkit.steer import check_against_saes
from tests.lab.planted_truth import BYSTANDER, CAUSE, Planted, cases


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
