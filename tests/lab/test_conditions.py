"""A condition is on features or on raw activations, whichever tells the sets apart better, and is written as such."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from steerkit.agent import Runtime
from steerkit.engine import Sampling
from steerkit.errors import SaeError
from steerkit.lab.activations import collect
from steerkit.lab.cases import Case, place_maxima
from steerkit.lab.find.decisions import Decisions
from steerkit.lab.find.joint_edits import JointEdits
from steerkit.lab.find.probes import FoundProbe, gate_areas, raw_probe
from steerkit.lab.find.search import FoundFeature, find
from steerkit.lab.find.steering_edits import find_steering_edits
from steerkit.lab.find.write_policy import directions_beside, found_policy, write_found
from steerkit.lab.material import Material, read_material
from steerkit.lab.ranking import split
from steerkit.lab.two_sample import auroc
from steerkit.policy import load, read_direction
from steerkit.runtime import PolicyLike, Request
from steerkit.sites import Site
from steerkit.steer import check_against_saes
from steerkit.tiny.world.conversations import Example, sample
from steerkit.types import Turn
from tests.lab.planted_truth import Planted, cases, planted_over_layers

KINDS = ("dangerous:transfer_money", "benign")


def drawn(features: float, activations: float, sites: Sequence[int] = (0,)) -> Material:
    """Random values of 80 conversations a set; by so much one feature and one dimension of the last site differ."""
    generator = torch.Generator().manual_seed(0)
    positive = torch.arange(160) < 80
    table = {Site(layer): torch.rand(160, 12, generator=generator) for layer in sites}
    read = {Site(layer): torch.randn(160, 16, generator=generator) for layer in sites}
    table[Site(sites[-1])][:, 4] += features * positive
    read[Site(sites[-1])][:, 3] += activations * positive
    prompts = [Case((number,), (), (0,)) for number in range(160)]
    return Material(prompts, positive, *split(range(160), positive, 0.5, 0), table, {}, activations=read)


@pytest.mark.parametrize(
    ("features", "activations", "taken"),
    [(0.0, 12.0, "raw"), (0.4, 12.0, "raw"), (2.0, 12.0, "features"), (2.0, 0.0, "features"), (0.0, 0.0, None)],
)
def test_what_tells_better_is_taken(truth: Planted, features: float, activations: float, taken: str | None) -> None:
    """Activations where features say nothing or less; features where both say all, and where activations say nothing;
    neither where there is nothing to tell."""
    material = drawn(features, activations)
    found = find(truth.loaded, truth.saes, material, "reply.start")
    assert found.raw is not None
    assert bool(found.features) is (features > 0)
    if taken is None:
        assert found.condition is None
        with pytest.raises(SaeError, match="no policy to write"):
            found_policy(found, truth.saes, "nothing")
        return
    condition = found.condition
    assert condition is not None
    assert condition is (found.raw if taken == "raw" else found.on_features)
    held, scores = material.held, [found.raw.sums]
    scores += [found.on_features.scores(material)] if found.on_features is not None else []
    areas = auroc(torch.stack(scores, dim=1)[held], material.positive[held]).tolist()
    assert found.raw.measured.auroc == pytest.approx(areas[0])
    assert found.raw.gain == pytest.approx(areas[0] - (areas[1] if len(areas) > 1 else 0.5))
    assert found.raw.beats is (taken == "raw")
    assert torch.equal(condition.opens(material), condition.scores(material) > condition.measured.bound)
    assert ("raw activations of attn_out.0" in condition.described) is (taken == "raw")


def test_a_gate_may_be_on_activations_as_well() -> None:
    """Up to the site whose activations tell the sets apart a gate can; without them, the control, none can."""
    material = drawn(0.0, 6.0, (0, 1))
    areas = gate_areas(material, [Site(0), Site(1)], most=1)
    blind = gate_areas(replace(material, activations={}), [Site(0), Site(1)], most=1)
    assert areas[Site(1)] > 0.95 > 0.7 > areas[Site(0)]
    assert max(blind.values()) < 0.7


def test_activations_are_read_as_a_policy_reads_them(truth: Planted) -> None:
    """Of many steps the probe is fitted on the mean and compares the largest sum, of one step these are the same."""
    for steps in (1, 5):
        some = [
            case._replace(steps=tuple(range(3 + number % 3, 3 + number % 3 + steps)))
            for number, case in enumerate([*truth.positives[:12], *truth.negatives[:12]])
        ]
        positive = torch.arange(24) < 12
        read = place_maxima(truth.loaded, truth.saes, some)
        material = Material(some, positive, *split(range(24), positive, 0.5, 0), {}, {}, activations=read.activations)
        probe = raw_probe(truth.loaded, material, [Site(0), Site(2)])
        assert probe is not None
        assert probe.sites == (Site(0), Site(2))
        sums = []
        for number, case in enumerate(some):
            x = collect(truth.loaded.model, [case.read], [0, 2])[:, list(case.steps)]
            mean = torch.stack([read.activations[Site(layer)][number] for layer in (0, 2)])
            torch.testing.assert_close(mean, x.mean(dim=1), rtol=1e-4, atol=1e-5)
            sums.append(probe.bias + (x[0] @ probe.vectors[Site(0)] + x[1] @ probe.vectors[Site(2)]).amax())
        torch.testing.assert_close(probe.sums, torch.stack(sums), rtol=1e-3, atol=1e-3)


def blind(material: Material) -> Material:
    """The same conversations, as features that are never active see them."""
    return replace(material, table={site: torch.zeros_like(values) for site, values in material.table.items()})


@pytest.fixture(scope="module")
def money(box: Runtime) -> Material:
    """Requests for money and other conversations of the box's world, read where the reply begins."""
    assert box.saes is not None
    return read_material(box.loaded, box.saes, *(cases(box.loaded, kind, 20) for kind in KINDS))


def taken(runtime: Runtime, material: Material, policy: PolicyLike, tokens: int, count: int) -> list[Turn]:
    """The turns of the held-out conversations under a policy, in their order."""
    known: dict[tuple[int, ...], Example] = {}
    for kind in KINDS:
        some = sample(kind, "select", count)
        known |= {case.prompt: one for case, one in zip(cases(runtime.loaded, kind, count), some, strict=True)}
    asked = [known[material.cases[row].prompt] for row in material.held.tolist()]
    sampling = Sampling(max_new_tokens=tokens)
    return runtime.run_batch([Request(one.messages, one.tools, policy, sampling) for one in asked])


@pytest.mark.parametrize("sees", [True, False])
def test_a_written_condition_opens_as_it_was_measured(
    box: Runtime, money: Material, sees: bool, tmp_path: Path
) -> None:
    """Where no feature is ever active the guard is by activations, whose weights lie beside it; where features tell the
    sets apart, the control, it is by these, without a file. Both hold on held-out conversations what they were said
    to."""
    assert box.saes is not None
    material = money if sees else blind(money)
    found = find(box.loaded, box.saes, material, "reply.start", top=3, most=3)
    condition = found.condition
    assert isinstance(condition, FoundProbe | FoundFeature)
    assert (condition is found.raw) is not sees
    path = tmp_path / "money.yaml"
    files = write_found(box.loaded, box.saes, found, None, path)
    policy = load(path)
    assert check_against_saes(policy, box.saes).problems == ()
    assert (bool(policy.features), bool(policy.directions), bool(files)) == (sees, not sees, not sees)
    if not sees:
        assert found.raw is not None
        assert files == directions_beside(path, steering=False)
        (file,) = files.values()
        origin = read_direction(file).origin
        assert (origin.method, origin.place) == ("probe on raw activations", "reply.start")
        assert {Site.of(site) for site in read_direction(file).vectors} == set(box.saes)
        assert "a probe on raw activations of attn_out.0 to attn_out.3 at reply.start" in policy.description
        with pytest.raises(SaeError, match="already there"):
            write_found(box.loaded, box.saes, found, None, tmp_path / "money.yaml")
    opens = condition.opens(material)[material.held].tolist()
    turns = taken(box, material, policy, 40, 20)
    judged = [(one, t.verdicts[0].shadowed == "hold") for one, t in zip(opens, turns, strict=True) if t.verdicts]
    assert [one for one, _ in judged] == [other for _, other in judged]
    assert 9 <= sum(one for one, _ in judged) <= len(judged) - 5


def test_edits_act_behind_a_gate_on_activations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where activations tell the sets apart better than features, edits that need a gate have one on the activations
    of the layers up to the first edited one, in a file of its own. Run by the policy, they stop the calls that they
    were said to, and keep the others."""
    monkeypatch.setattr("steerkit.lab.find.steering_edits.choose_clamps", lambda *_: None)
    monkeypatch.setattr(JointEdits, "difference", lambda _: None)
    world = planted_over_layers(2)
    material = world.material()
    found = find(world.loaded, world.saes, material, "reply.start")
    one = find_steering_edits(Decisions(world.loaded, world.saes, material, "reply.start"), found)
    assert one is not None
    assert one.gates is not None
    assert one.gated
    assert one.proven
    assert found.condition is found.raw is not None
    assert found.raw.sites == (Site(0), Site(1), Site(2))
    assert one.gate is one.gates.raw is not None
    assert one.gate.sites == (Site(0), Site(1))
    path = tmp_path / "over.yaml"
    files = write_found(world.loaded, world.saes, found, one, path)
    assert set(tmp_path.iterdir()) == {path, *files.values()}
    assert files.keys() == {"found_activations", "gate_activations"}
    assert directions_beside(path).items() >= files.items()
    policy = load(path)
    assert check_against_saes(policy, world.saes).problems == ()
    assert [rule.when.probe for rule in policy.steer] == ["gate"]  # type: ignore[union-attr]
    runtime = Runtime(world.loaded, world.saes)
    steering = policy.model_copy(update={"mode": "enforce", "guard": None})
    steered, plain = (taken(runtime, material, some, 1, 80) for some in (steering, ()))
    rows = [material.positive[row] for row in material.held.tolist()]
    first = [(turn.reply_ids[0], other.reply_ids[0]) for turn, other in zip(steered, plain, strict=True)]
    stopped = [now != runtime.dialect.call for (now, _), side in zip(first, rows, strict=True) if side]
    kept = [now == before for (now, before), side in zip(first, rows, strict=True) if not side]
    assert (sum(stopped), len(stopped)) == (one.stopped.hits, one.stopped.count)
    assert (sum(kept), len(kept)) == (one.kept.hits, one.kept.count)
    assert one.stopped.value + one.kept.value > 1.7
