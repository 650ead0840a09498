"""A search finds what is planted, says which of it acts, and finds nothing where there is nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from steerkit.agent import Runtime
from steerkit.errors import SaeError
from steerkit.lab import prefilled
from steerkit.lab.activations import collect
from steerkit.lab.attribution import attribute
from steerkit.lab.cases import MOST_BYTES, Case, check_size, place_maxima, read_cases, steps_at, sum_maxima
from steerkit.lab.find.causal import Causes, causes, fewest_positives, least_p
from steerkit.lab.find.decisions import Decisions
from steerkit.lab.find.search import Found, find
from steerkit.lab.find.write_policy import found_policy
from steerkit.lab.interventions import Interventions
from steerkit.lab.material import Material, read_material
from steerkit.lab.ranking import grouped, split
from steerkit.policy import dump, loads
from steerkit.runtime import Request
from steerkit.sae import Kind
from steerkit.sites import Feature, Point, Site
from steerkit.steer import check_against_saes
from steerkit.testing import planted_saes
from steerkit.tiny.world.conversations import sample
from tests.lab.planted_truth import BYSTANDER, CAUSE, Planted, cases


@pytest.fixture(scope="module")
def found(truth: Planted, material: Material) -> Found:
    return find(truth.loaded, truth.saes, material, "reply.start", most=4)


@pytest.fixture(scope="module")
def tried(truth: Planted, material: Material, found: Found) -> Causes:
    return causes(Decisions(truth.loaded, truth.saes, material, "reply.start"), found, candidates=6)


def test_the_planted_features_come_first(found: Found) -> None:
    """Of 192 features the two that were planted lead, and the held-out conversations confirm them."""
    assert {one.feature for one in found.features[:2]} == {CAUSE, BYSTANDER}
    for one in found.features[:2]:
        assert not one.lower
        assert one.adjusted_p < 1e-3
        assert one.measured.interval.low > 0.65
        assert one.measured.false.value <= 0.1 < 0.3 < one.measured.recall.value
        assert one.fires[0].value > one.fires[1].value


def test_the_causal_ranking_drops_the_bystander(found: Found, tried: Causes) -> None:
    """The bystander tells the sets apart as well as the cause does, and nothing comes of editing it."""
    by_feature = {one.feature: one for one in tried.candidates}
    assert tried.candidates[0].feature.layer == CAUSE.layer
    cause, bystander = by_feature[CAUSE], by_feature[BYSTANDER]
    assert cause.verdict == "causes"
    assert cause.clamped > 5 * cause.random > 0
    assert bystander.verdict == "only correlates"
    assert (bystander.ablated, bystander.clamped, bystander.random, bystander.attribution) == (0, 0, 0, 0)
    areas = {one.feature: one.measured.auroc for one in found.features}
    assert areas[BYSTANDER] >= areas[CAUSE] > 0.75
    assert tried.candidates.index(cause) < tried.candidates.index(bystander)


def test_so_few_conversations_cannot_tell(truth: Planted, material: Material, found: Found) -> None:
    """With 6 held-out positives nothing can be shown of 20 candidates, and nothing is denied; 9 can tell of them."""
    assert least_p(6, 20) == 20 / 64
    assert [fewest_positives(count) for count in (1, 4, 20, 200)] == [5, 7, 9, 12]
    rows = material.held[material.positive[material.held]][:6]
    few = replace(material, held=torch.cat([rows, material.held[~material.positive[material.held]]]))
    tried = causes(Decisions(truth.loaded, truth.saes, few, "reply.start"), found, candidates=20)
    assert tried.count == 6
    assert {one.verdict for one in tried.candidates} == {"cannot tell"}
    assert min(one.least_p for one in tried.candidates) == 20 / 64
    copied = replace(few, held=rows.repeat(4), groups=few.groups)
    assert causes(Decisions(truth.loaded, truth.saes, copied, "reply.start"), found, candidates=2).count == 6


def test_the_estimate_ranks_as_the_edits_do(tried: Causes) -> None:
    """Gradients and real edits agree on the order."""
    assert tried.rank_clamped > 0.7
    assert tried.rank_ablated > 0.7


@pytest.mark.parametrize("together", [True, False])
def test_a_combination_is_said_to_win_only_where_it_does(truth: Planted, together: bool) -> None:
    """Three features that each say a part are beaten by their sum; the control is one that says it all."""
    generator = torch.Generator().manual_seed(0)
    positive = torch.arange(400) < 200
    values = torch.rand(400, 40, generator=generator)
    values[:, [4, 9, 11] if together else [4]] += (0.4 if together else 0.9) * positive.unsqueeze(-1)
    prompts = [Case((number,), (), (0,)) for number in range(400)]
    chosen, held = split([case.read for case in prompts], positive, 0.5, 0)
    found = find(
        truth.loaded, truth.saes, Material(prompts, positive, chosen, held, {Site(0): values}, {}), "reply.start"
    )
    assert found.probe is not None
    assert found.probe.beats is together
    assert (found.probe.gain > 0.05) is together
    assert found.features[0].feature in (Feature(0, 4), Feature(0, 9), Feature(0, 11))
    policy = found_policy(found, truth.saes, "won")
    assert bool(policy.probes) is together


@pytest.mark.parametrize("seed", range(4))
def test_shuffled_labels_give_no_finding(truth: Planted, seed: int) -> None:
    """The control: the same conversations, drawn into two sets by lot, have no feature that tells them apart."""
    shuffled = truth.shuffled(seed)
    nothing = find(truth.loaded, truth.saes, shuffled.material(), "reply.start")
    assert (nothing.significant, nothing.features, nothing.probe, nothing.condition) == (0, (), None, None)
    assert nothing.tests > 150
    assert nothing.least_p > 0.05
    with pytest.raises(SaeError, match="no policy to write"):
        found_policy(nothing, truth.saes, "nothing")


def test_a_split_is_by_whole_conversations() -> None:
    """Equal conversations fall on one side, each set is cut alike, and a seed says how."""
    keys = [number // 2 for number in range(80)]
    positive = torch.arange(80) < 40
    chosen, held = split(keys, positive, 0.5, seed=3)
    assert not {keys[row] for row in chosen} & {keys[row] for row in held}
    assert int(positive[held].sum()) == int((~positive[held]).sum()) == 20
    assert torch.equal(split(keys, positive, 0.5, seed=3)[1], held)
    assert not torch.equal(split(keys, positive, 0.5, seed=4)[1], held)


def test_near_duplicates_are_one_group() -> None:
    """A scaled copy and a mirror image join the better feature; an unrelated one stands by itself."""
    base = torch.rand(50, generator=torch.Generator().manual_seed(0))
    other = torch.rand(50, generator=torch.Generator().manual_seed(1))
    table = {Site(0): torch.stack([base, 3 * base + 1, other, 1 - base], dim=1)}
    features = [Feature(0, index) for index in range(4)]
    groups = list(grouped(table, torch.arange(50), features))
    assert groups == [(features[0], (features[1], features[3])), (features[2], ())]


def test_maxima_and_means_are_those_of_the_place(truth: Planted) -> None:
    """The table holds what encoding every step by hand gives, over one step and over many."""
    some = [case._replace(steps=tuple(range(3 + number, 12))) for number, case in enumerate(truth.positives[:4])]
    found = place_maxima(truth.loaded, truth.saes, some, mean_of=[1, 2])
    weights, sums = {Feature(0, 3): 2.0, Feature(2, 9): -1.0}, []
    parts: dict[Site, list[torch.Tensor]] = {site: [] for site in truth.saes}
    for number, case in enumerate(some):
        activations = collect(truth.loaded.model, [case.read])
        steps = list(case.steps)
        features = {site: truth.saes[site].encode(activations[site.layer][steps]) for site in truth.saes}
        for site, values in features.items():
            torch.testing.assert_close(found.largest[site][number], values.amax(dim=0), rtol=1e-4, atol=1e-6)
            parts[site] += [values] if number in (1, 2) else []
        sums.append((0.5 + 2 * features[Site(0)][:, 3] - features[Site(2)][:, 9]).amax())
    for site, values in parts.items():
        torch.testing.assert_close(found.mean[site], torch.cat(values).mean(dim=0), rtol=1e-4, atol=1e-6)
    together = sum_maxima(truth.loaded, truth.saes, some, weights, 0.5)
    torch.testing.assert_close(together, torch.stack(sums), rtol=1e-4, atol=1e-6)


def test_the_kept_prefix_changes_no_score(box: Runtime) -> None:
    """Editing one step after a kept prefix gives what reading the whole conversation under the edit gives."""
    assert box.saes is not None
    one_step = cases(box.loaded, "dangerous:transfer_money", 6)
    interventions = Interventions(box.loaded, box.saes, one_step, "reply.start")
    whole = Interventions(box.loaded, box.saes, one_step, "reply.start")
    whole.prefilled.last_only = False
    whole.prefilled.parts = [replace(part, cache=None) for part in whole.prefilled.parts]
    effects = [one.effect(Feature(3, 721), 0.2, torch.Generator().manual_seed(0)) for one in (interventions, whole)]
    assert interventions.last_only
    torch.testing.assert_close(interventions.plain, whole.prefilled.outcome().scores, rtol=1e-4, atol=1e-4)
    assert float(effects[0].ablated.abs().min()) > 0.1
    for kept, again in zip(*effects, strict=True):
        torch.testing.assert_close(kept, again, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("share", "kept"), [(0.0, 0), (0.5, 3), (1.0, 6)])
def test_caches_beyond_the_limit_are_read_again(
    box: Runtime, monkeypatch: pytest.MonkeyPatch, share: float, kept: int
) -> None:
    """With no room, with room for some and with all kept, an edit and the gradients come out the same to the bit."""
    assert box.saes is not None
    some = cases(box.loaded, "dangerous:transfer_money", 6)
    monkeypatch.setattr(prefilled, "like_lengths", lambda lengths: [[number] for number in range(len(lengths))])
    whole = Interventions(box.loaded, box.saes, some, "reply.start")
    size = sum(prefilled._bytes(part.cache) for part in whole.prefilled.parts if part.cache is not None)
    monkeypatch.setattr(prefilled, "MOST_KEPT", int(share * size))
    one = Interventions(box.loaded, box.saes, some, "reply.start")
    assert sum(part.cache is not None for part in one.prefilled.parts) in range(kept - 1, kept + 1)
    edits = {Feature(3, 721): {"clamp": 0.2}}
    assert torch.equal(one.outcome(edits).scores, whole.outcome(edits).scores)
    assert not torch.equal(one.outcome(edits).scores, one.plain)
    for site, gradients in one.readings().gradients.items():
        assert torch.equal(gradients, whole.readings().gradients[site])


def test_gradients_after_a_kept_prefix_are_those_of_the_whole(box: Runtime) -> None:
    """One step forward and back gives the estimate that a pass over the whole conversation gives, at every site."""
    assert box.saes is not None
    interventions = Interventions(box.loaded, box.saes, cases(box.loaded, "dangerous:transfer_money", 6), "reply.start")
    decided, usual = interventions.decided, {site: torch.full((sae.d_sae,), 0.1) for site, sae in box.saes.items()}
    for baseline in (None, usual):
        tokens = [case.steps for case in interventions.prefilled.cases]
        whole = attribute(
            box.loaded.model,
            box.saes,
            decided.texts,
            decided.positions,
            decided.score,
            tokens=tokens,
            baseline=baseline,
        )
        for site, effects in interventions.estimate(baseline).items():
            assert float(effects.abs().max()) > 0.01
            torch.testing.assert_close(effects, whole.layers[site].sums, rtol=1e-3, atol=1e-4)


def test_shifts_along_vectors_are_what_a_policy_writes(box: Runtime) -> None:
    """A constant vector does what a policy's shift does, and a control of that direction; the opposite does not."""
    assert box.saes is not None
    interventions = Interventions(box.loaded, box.saes, cases(box.loaded, "dangerous:transfer_money", 6), "reply.start")
    edits = {Feature(2, 7): {"shift": 0.8}, Feature(3, 721): {"shift": -0.5}}
    vectors = {one.site: edit["shift"] * box.saes[one.site].W_dec[one.index].float() for one, edit in edits.items()}
    by_policy = interventions.outcome(edits)
    for same in (interventions.along(vectors), interventions.control(edits, vectors)):
        torch.testing.assert_close(same.scores, by_policy.scores, rtol=1e-3, atol=1e-3)
        assert torch.equal(same.tokens, by_policy.tokens)
    by_row = {site: torch.stack([number % 2 * vector for number in range(6)]) for site, vector in vectors.items()}
    every_other = interventions.along(by_row).scores
    torch.testing.assert_close(every_other[::2], interventions.plain[::2], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(every_other[1::2], by_policy.scores[1::2], rtol=1e-3, atol=1e-3)
    opposite = interventions.control(edits)
    assert float((opposite.scores - interventions.along({s: -v for s, v in vectors.items()}).scores).abs().max()) < 1e-3
    assert float((opposite.scores - by_policy.scores).abs().min()) > 0.01


@pytest.mark.parametrize(
    ("kind", "point"),
    [("relu", "attn_out"), ("relu", "attn_in"), ("jumprelu", "attn_out"), ("topk", "attn_in"), ("relu", "resid_post")],
)
def test_a_small_edit_does_what_the_estimate_says(truth: Planted, kind: Kind, point: Point) -> None:
    """Clamping a feature to nine tenths of itself, by a policy, costs a tenth of its attribution."""
    saes = planted_saes(truth.loaded.model, kind=kind, points=[point])
    case = truth.positives[0]
    interventions = Interventions(truth.loaded, saes, [case], "reply.start")
    found = attribute(
        truth.loaded.model,
        saes,
        interventions.decided.texts,
        interventions.decided.positions,
        interventions.decided.score,
        tokens=[case.steps],
    )
    assert float(found.scores[0]) == pytest.approx(float(interventions.plain[0]), abs=1e-4)
    table = place_maxima(truth.loaded, saes, [case]).largest
    for site in (Site(0, point), Site(2, point)):
        index = int(found.layers[site].sums[0].abs().argmax())
        value = float(table[site][0, index])
        edited = interventions.effect(Feature(site, index), 0.9 * value, torch.Generator().manual_seed(0))
        assert float(edited.clamped) == pytest.approx(0.1 * float(found.layers[site].sums[0, index]), rel=0.1)
        assert float(edited.ablated.abs()) > float(edited.clamped.abs()) > 1e-5


def test_too_few_and_too_many_are_refused(truth: Planted) -> None:
    """A set needs ten conversations; a table beyond memory is refused with the number that fits."""
    with pytest.raises(SaeError, match=r"negative: got 9 conversations .* at least 10"):
        read_material(truth.loaded, truth.saes, truth.positives, truth.negatives[:9])
    with pytest.raises(SaeError, match="too few different"):
        read_material(truth.loaded, truth.saes, truth.positives[:1] * 20, truth.negatives)
    most = MOST_BYTES // (4 * 192)
    check_size(truth.saes, most)
    with pytest.raises(SaeError, match=f"expected at most {most:,}"):
        check_size(truth.saes, most + 1)


def written(path: Path, kind: str, count: int, *, replies: bool) -> Path:
    """A JSONL file of conversations of the box's world, with the right reply or without one."""
    with path.open("w") as file:
        for one in sample(kind, "select", count):
            messages = list(one.messages)
            if replies:
                calls = [{"type": "function", "function": call} for call in one.expected_calls]
                messages.append({"role": "assistant", "tool_calls": calls})
            file.write(json.dumps({"messages": messages, "tools": list(one.tools)}) + "\n")
    return path


def test_a_conversations_own_reply_is_read(box: Runtime, tmp_path: Path) -> None:
    """With its last message the reply is forced, without it the model answers; where both agree so do the steps."""
    kind = "dangerous:transfer_money"
    forced, _ = read_cases(written(tmp_path / "a.jsonl", kind, 3, replies=True), box.loaded, "call.open")
    made, _ = read_cases(written(tmp_path / "b.jsonl", kind, 3, replies=False), box.loaded, "call.open")
    assert forced == made
    text = (tmp_path / "a.jsonl").read_text()
    ours = '{"type": "function", "function": {"name": "%s", "arguments"'
    (tmp_path / "a.jsonl").write_text(text.replace(ours % "transfer_money", ours % "get_balance"))
    other, _ = read_cases(tmp_path / "a.jsonl", box.loaded, "call.open")
    assert [one.steps for one in other] == [one.steps for one in made]
    assert all(one.reply != two.reply for one, two in zip(other, made, strict=True))
    only, missing = read_cases(tmp_path / "a.jsonl", box.loaded, "tool_result")
    assert (only, missing) == ([], 3)


def test_a_written_policy_watches_as_it_was_measured(box: Runtime, tmp_path: Path) -> None:
    """What is found at the opened call is written, checked and run: shadowed holds where the bound was passed."""
    assert box.saes is not None
    sets = []
    for kind in ("dangerous:transfer_money", "benign"):
        path = written(tmp_path / f"{kind[:6]}.jsonl", kind, 24, replies=True)
        sets.append(read_cases(path, box.loaded, "call.open")[0])
    material = read_material(box.loaded, box.saes, *sets)
    found = find(box.loaded, box.saes, material, "call.open", top=3, most=3)
    assert found.features[0].measured.auroc > 0.95
    assert found.probe is not None
    for better in (False, True):
        one = replace(found, raw=None, probe=replace(found.probe, gain=0.0 if better else -0.01))
        policy = loads(dump(found_policy(one, box.saes, "found money!")))
        assert (policy.name, policy.mode, bool(policy.probes)) == ("found-money", "shadow", better)
        assert check_against_saes(policy, box.saes).problems == ()
        asked = [*sample("dangerous:transfer_money", "select", 6), *sample("benign", "select", 6)]
        turns = box.run_batch([Request(example.messages, example.tools, policy) for example in asked])
        assert all(verdict.decision == "none" for turn in turns for verdict in turn.verdicts)
        first = [turn.verdicts[0].shadowed if turn.verdicts else None for turn in turns]
        assert first[:6].count("hold") >= 5
        assert first[6:].count("hold") == 0 < first[6:].count("allow")


def test_a_lower_feature_is_bounded_from_above(truth: Planted, found: Found) -> None:
    """A feature that the positives lack is written with `below`, and refused where it is 0 in both sets."""
    best = replace(found.features[0], lower=True)
    one = replace(found, raw=None, probe=None, features=(replace(best, measured=replace(best.measured, bound=0.25)),))
    policy = found_policy(one, truth.saes, "lower")
    assert policy.guard is not None
    assert policy.guard.rules[0].when.below == "0.25 max"  # type: ignore[union-attr]
    nothing = replace(
        found, raw=None, probe=None, features=(replace(best, measured=replace(best.measured, bound=0.0)),)
    )
    with pytest.raises(SaeError, match="0 in too many of both sets"):
        found_policy(nothing, truth.saes, "lower")


def test_steps_without_a_reply_are_the_prompts(box: Runtime) -> None:
    """A prompt alone has its last token as reply.start, and no step of a call."""
    (case,) = cases(box.loaded, "benign", 1)
    assert steps_at(box.loaded, Case(case.prompt), "reply.start") == (len(case.prompt) - 1,)
    assert steps_at(box.loaded, Case(case.prompt), "call.open") == ()
