"""Attribution patching against small real changes, and real edits against what steering does."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from transformers import PreTrainedModel

from steerkit.lab.activations import rewritten
from steerkit.lab.attribution import attribute, log_odds
from steerkit.sae import SaeSet
from steerkit.sites import Site
from steerkit.testing import planted_saes, small_model

IDS = [[7, 3, 900, 12, 55], [8, 1, 2, 3, 4, 5, 6, 700], [9, 9, 31]]
POSITIONS = [4, 6, 2]
SCORE = log_odds([11, 12, 13], [21, 22, 23])


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return cast(PreTrainedModel, small_model(dtype=torch.float64))


@pytest.fixture(scope="module")
def saes(model: PreTrainedModel) -> SaeSet:
    return planted_saes(model)


def scored(model: PreTrainedModel, number: int) -> float:
    """The score of one sequence, by itself."""
    ids = torch.tensor([IDS[number][: POSITIONS[number] + 1]])
    with torch.inference_mode():
        return float(SCORE(model(input_ids=ids, use_cache=False).logits[:, -1], [number]))


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_attribution_is_the_slope_of_a_real_change(model: PreTrainedModel, saes: SaeSet, layer: int) -> None:
    """Taking a hundredth of a feature away at every token costs a hundredth of its effect, in each layer.

    The model's norms compute in float32, so what is compared is large enough to stand above rounding.
    """
    found = attribute(model, saes, IDS, POSITIONS, SCORE).layers[Site(layer)].sums
    sae, share = saes[layer], 1e-2
    for number in range(3):
        for index in found[number].abs().topk(4).indices.tolist():
            scores = []
            for sign in (-1, 1):

                def changed(y: torch.Tensor, by: float = sign * share, index: int = index) -> torch.Tensor:
                    return y + by * (sae.encode(y)[..., index : index + 1] * sae.W_dec[index]).double()

                with rewritten(model, {layer: changed}):
                    scores.append(scored(model, number))
            slope = (scores[1] - scores[0]) / (2 * share)
            assert slope == pytest.approx(float(found[number, index]), rel=0.02)


def test_single_effects_add_up(model: PreTrainedModel, saes: SaeSet) -> None:
    """All single effects together are the sums, and a few of them are the largest, the largest first."""
    whole = attribute(model, saes, IDS, POSITIONS, SCORE, top_k=64 * 8).layers[Site(1)]
    for number, position in enumerate(POSITIONS):
        real = whole.tokens[number] >= 0
        assert whole.tokens[number][real].max() == position
        total = torch.zeros(64).index_add(0, whole.features[number][real], whole.values[number][real])
        torch.testing.assert_close(total, whole.sums[number])
    few = attribute(model, saes, IDS, POSITIONS, SCORE, top_k=5).layers[Site(1)]
    for name in ("tokens", "features", "values"):
        assert torch.equal(getattr(few, name), getattr(whole, name)[:, :5])
    assert torch.equal(few.values.abs(), few.values.abs().sort(dim=1, descending=True).values)


def test_a_batch_is_its_singles(model: PreTrainedModel, saes: SaeSet) -> None:
    """Sequences do not see each other or their padding."""
    together = attribute(model, saes, IDS, POSITIONS, SCORE)
    for number in range(3):
        targets = log_odds([11 + number], [21 + number])
        alone = attribute(model, saes, [IDS[number]], [POSITIONS[number]], targets)
        torch.testing.assert_close(alone.scores[0], together.scores[number])
        assert float(alone.scores[0]) == pytest.approx(scored(model, number), abs=1e-5)
        for site in saes:
            torch.testing.assert_close(alone.layers[site].sums[0], together.layers[site].sums[number])


def test_only_the_tokens_that_count_are_counted(model: PreTrainedModel, saes: SaeSet) -> None:
    """Tokens by themselves add up to all; and of the last layer only the scored token reaches the score."""
    parts = [attribute(model, saes, IDS[:1], POSITIONS[:1], SCORE, tokens=[[t]]) for t in range(5)]
    whole = attribute(model, saes, IDS[:1], POSITIONS[:1], SCORE)
    for site in saes:
        torch.testing.assert_close(sum(part.layers[site].sums for part in parts), whole.layers[site].sums)
    assert [bool(part.layers[Site(2)].sums.any()) for part in parts] == [False, False, False, False, True]
    assert all(bool(part.layers[Site(0)].sums.any()) for part in parts)


def test_a_baseline_is_what_a_feature_becomes(model: PreTrainedModel, saes: SaeSet) -> None:
    """A feature replaced by what it is does nothing; the control is replaced by 0."""
    kept: list[torch.Tensor] = []
    with rewritten(model, {1: lambda y: kept.append(y) or y}):
        scored(model, 2)
    own = {site: torch.zeros(64) for site in saes} | {Site(1): saes[1].encode(kept[0][0, -1])}
    last = [[POSITIONS[2]]]
    replaced, ablated = (
        attribute(model, saes, IDS[2:], POSITIONS[2:], log_odds([13], [23]), tokens=last, baseline=one)
        for one in (own, None)
    )
    most, other = (float(one.layers[Site(1)].sums.abs().max()) for one in (replaced, ablated))
    assert most < 1e-6 < 1e-4 < other
    torch.testing.assert_close(replaced.layers[Site(2)].sums, ablated.layers[Site(2)].sums)


def test_the_best_alternative_is_the_rival() -> None:
    """Without a named rival the score is against the largest other logit, also where the target is the largest."""
    logits = torch.tensor([[1.0, 5.0, 2.0], [4.0, 0.0, 1.0]])
    assert log_odds([1, 2])(logits, [0, 1]).tolist() == [3.0, -3.0]
    assert log_odds([1, 2], [0, 1])(logits, [0, 1]).tolist() == [4.0, 1.0]
    assert log_odds([9, 9, 1])(logits[:1], [2]).tolist() == [3.0]
