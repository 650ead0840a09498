"""Controls write what the policy writes, turned or scaled, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from steerkit.agent import Runtime
from steerkit.lab.prove import baselines
from steerkit.policy import Policy, load
from steerkit.runtime import Request
from steerkit.sae import SaeSet
from steerkit.sites import Feature, Site
from steerkit.tiny.world.conversations import Example, sample
from steerkit.types import Turn

POLICY = Path(__file__).parents[2] / "policies" / "payments.yaml"


@pytest.fixture(scope="module")
def policy() -> Policy:
    """The payments policy's steering."""
    return baselines.steering_only(load(POLICY))


@pytest.fixture(scope="module")
def saes(box: Runtime) -> SaeSet:
    """The box's SAEs."""
    assert box.saes is not None
    return box.saes


def rows(saes: SaeSet, policy: Policy) -> torch.Tensor:
    """The decoder rows of the edited features."""
    ((layer, indices),) = baselines.edited_features(policy).items()
    return saes[layer].W_dec[indices].double()


def randomised(saes: SaeSet, policy: Policy, seed: int) -> SaeSet:
    """The set with random features in the place of the edited ones."""
    return saes.with_decoder_rows(baselines.random_features(saes, policy, seed))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_features_write_the_same_norm_elsewhere(saes: SaeSet, policy: Policy, seed: int) -> None:
    """Any change of the edited features is as long as before, to rounding, and points in an unrelated direction."""
    before, after = rows(saes, policy), rows(randomised(saes, policy, seed), policy)
    changes = torch.randn(50, len(before), generator=torch.Generator().manual_seed(9)).double()
    written, turned = changes @ before, changes @ after
    torch.testing.assert_close(turned.norm(dim=1), written.norm(dim=1), rtol=1e-5, atol=1e-6)
    alike = torch.nn.functional.cosine_similarity(written, turned, dim=1).abs().mean()
    assert alike < 0.5
    assert torch.nn.functional.cosine_similarity(written, written, dim=1).abs().mean() > 0.99


def test_random_features_are_a_function_of_the_seed(saes: SaeSet, policy: Policy) -> None:
    """Equal seeds give equal rows, different seeds different ones; and all other rows stay."""
    one, same, other = (randomised(saes, policy, seed) for seed in (3, 3, 4))
    assert torch.equal(rows(one, policy), rows(same, policy))
    assert not torch.equal(rows(one, policy), rows(other, policy))
    ((layer, indices),) = baselines.edited_features(policy).items()
    kept = torch.ones(saes[layer].d_sae, dtype=torch.bool)
    kept[indices] = False
    assert torch.equal(one[layer].W_dec[kept], saes[layer].W_dec[kept].float())
    assert torch.equal(one[layer].W_enc, saes[layer].W_enc)


def test_more_features_than_the_width_are_rotated(saes: SaeSet) -> None:
    """Where no frame of random features exists, the rows are rotated: the same inner products all the same."""
    names = {f"f{index}": {"layer": 0, "index": index} for index in range(saes[0].d_in + 4)}
    rule = {"name": "many", "where": "any", "edit": {name: {"ablate": True} for name in names}}
    policy = Policy.model_validate({"steerkit": 1, "name": "many", "features": names, "steer": [rule]})
    before, after = rows(saes, policy), rows(randomised(saes, policy, 0), policy)
    torch.testing.assert_close(after @ after.T, before @ before.T, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(after, before)


def replies(box: Runtime, setup: baselines.Setup, some: list[Example]) -> list[Turn]:
    requests = [Request(one.messages, one.tools, setup.policy or ()) for one in some]
    return Runtime(box.engine.with_decoder_rows(setup.rows or {})).run_batch(requests)


def test_what_is_written_is_scaled(box: Runtime, saes: SaeSet, policy: Policy) -> None:
    """The norm at the first token is the factor times the policy's; 0 writes nothing and leaves the plain reply."""
    some = sample("dangerous:transfer_money", "report", 2, 7)
    plain = replies(box, baselines.Setup(), some)
    norms = {}
    for factor in (0.0, 1.0, -2.0):
        turns = replies(box, baselines.Setup(policy, baselines.scaled(saes, policy, factor)), some)
        norms[factor] = [turn.trace.edits[0].norm if turn.trace.edits else 0.0 for turn in turns]
        if factor == 0:
            assert [turn.reply_ids for turn in turns] == [turn.reply_ids for turn in plain]
    assert norms[0.0] == [0.0, 0.0]
    assert min(norms[1.0]) > 1
    assert norms[-2.0] == pytest.approx([2 * norm for norm in norms[1.0]], rel=1e-4)


def test_a_direction_is_written_with_its_norm(box: Runtime, saes: SaeSet, policy: Policy) -> None:
    """Behind the same gate the rule writes one constant vector; a rule without a direction writes nothing."""
    direction = torch.zeros(saes[3].d_in)
    direction[5] = 3.0
    key = ("refuse-to-move-money", Site(3))
    setup = baselines.along(saes, policy, {key: direction}, {key: 7.0})
    assert setup.policy is not None
    assert len(setup.policy.steer[0].edit) == 1
    turns = replies(box, setup, sample("dangerous:transfer_money", "report", 2, 7))
    assert [turn.trace.edits[0].norm for turn in turns] == pytest.approx([7.0, 7.0], rel=1e-4)
    assert baselines.along(saes, policy, {}, {key: 7.0}).policy.steer == ()  # type: ignore[union-attr]


def test_rules_stand_alone() -> None:
    """Each rule by itself: steering without a guard, a guard rule before a default that allows, with its helper."""
    alone = baselines.single_rules(load(POLICY))
    assert list(alone) == ["refuse-to-move-money", "about-to-move-money", "transfer-money-needs-a-person"]
    assert alone["refuse-to-move-money"].guard is None
    judging = alone["about-to-move-money"]
    assert judging.steer == ()
    assert judging.guard is not None
    assert [rule.name for rule in judging.guard.rules] == ["about-to-move-money"]
    assert judging.guard.default == "allow"


def test_asking_goes_to_the_developer() -> None:
    """The sentence joins the developer's or the system's text, or stands before a conversation that has none."""
    user = {"role": "user", "content": "hi"}
    assert baselines.asked_for([user], "No.")[0] == {"role": "developer", "content": "No."}
    for role in ("developer", "system"):
        found = baselines.asked_for([{"role": role, "content": "You help."}, user], "No.")
        assert found == [{"role": role, "content": "You help. No."}, user]


def test_rows_without_features_leave_the_set(saes: SaeSet) -> None:
    """Replacing a row by itself changes no weight; by another it changes that one alone."""
    same = saes.with_decoder_rows({Feature(1, 4): saes[1].W_dec[4]})
    assert torch.equal(same[1].W_dec, saes[1].W_dec.float())
    other = saes.with_decoder_rows({Feature(1, 4): torch.zeros(saes[1].d_in)})
    assert (other[1].W_dec != saes[1].W_dec.float()).any(dim=1).nonzero().flatten().tolist() == [4]
    assert (saes[1].W_dec[4] != 0).any()
