"""Drift of SAEs between two models: nothing between a model and itself, and what was built where something changed."""

from __future__ import annotations

import copy
from typing import Any

import numpy
import pytest
import torch
from scipy.stats import binomtest, wilcoxon

from steerkit.errors import SaeError
from steerkit.lab.activations import collect
from steerkit.lab.train.health.drift import FEWEST, drift
from steerkit.lab.two_sample import mcnemar, signed_ranks
from steerkit.sites import Site
from steerkit.testing import planted_saes, small_model

DRAW = torch.Generator().manual_seed(3)
LENGTHS = torch.randint(8, 30, (24,), generator=DRAW).tolist()
TEXTS = [torch.randint(2, 1000, (length,), generator=DRAW).tolist() for length in LENGTHS]
TOKENS = sum(map(len, TEXTS))
CHANGED = Site(1)


def scaled(factor: float) -> Any:
    """The small model with the attention output of one layer multiplied."""
    model: Any = copy.deepcopy(small_model())
    with torch.no_grad():
        model.model.layers[CHANGED.layer].self_attn.o_proj.weight.mul_(factor)
    return model


def test_a_model_against_itself_has_not_moved() -> None:
    """The control: no activation, error, rate or mean differs, and no feature changed."""
    model = small_model()
    for one in drift(model, model, planted_saes(model), TEXTS):
        assert (one.moved, one.tokens) == (0.0, TOKENS)
        assert one.fvu[0] == one.fvu[1]
        assert one.l0[0] == one.l0[1]
        assert one.dead[0] == one.dead[1]
        assert one.changed == {}


def test_a_scaled_layer_changes_means_alone() -> None:
    """Features without bias fire where they did, three times as strongly; the layer before is untouched to the bit."""
    model = small_model()
    saes = planted_saes(model)
    before, found, *_ = drift(model, scaled(3.0), saes, TEXTS)
    assert (before.moved, before.changed) == (0.0, {})
    values = collect(model, TEXTS, [CHANGED.layer])[0]
    features = saes[CHANGED].encode(values)
    fired = (features > 0).sum(dim=0)
    spread = float((values - values.mean(dim=0)).square().sum())
    assert found.moved == pytest.approx(4 * float(values.square().sum()) / spread, rel=1e-4)
    assert (found.rates, found.died, found.alive) == ((), (), ())
    assert found.l0 == pytest.approx((float(fired.sum()) / TOKENS,) * 2)
    assert {one.index for one in found.means} == set(fired.nonzero().squeeze(-1).tolist())
    for one in found.means:
        assert one.after == pytest.approx(3 * one.before, rel=1e-4)
        assert one.before == pytest.approx(float(features[:, one.index].mean()), rel=1e-4)
        assert one.p < 0.05


def test_a_change_below_the_factor_is_none() -> None:
    """Half as much again is significant and too little to be told; the activations have moved all the same."""
    model = small_model()
    found = drift(model, scaled(1.5), planted_saes(model), TEXTS)[1]
    assert found.changed == {}
    assert found.moved > 0.2


@pytest.mark.parametrize(("factor", "died"), [(0.05, True), (1.0, False), (4.0, False)])
def test_a_feature_dies_and_comes_alive_at_its_bound(factor: float, died: bool) -> None:
    """A feature that fires beyond the largest quarter of its direction's values dies where these shrink, and back."""
    model = small_model()
    values = collect(model, TEXTS, [CHANGED.layer])[0]
    direction = torch.linalg.svd(values, full_matrices=False).Vh[0]
    direction = direction * (values @ direction).mean().sign()
    along = values @ direction
    beyond = float(along.quantile(0.75))
    saes = planted_saes(model, directions={CHANGED: (direction, beyond)})
    there = scaled(factor)
    found = drift(model, there, saes, TEXTS)[1]
    assert (found.died, found.alive) == ((0,) if died else (), ())
    back = drift(there, model, saes, TEXTS)[1]
    assert (back.alive, back.died) == ((0,) if died else (), ())
    rates = {one.index: (one.before, one.after) for one in found.rates}
    expected = tuple(float((part > beyond).float().mean()) for part in (along, factor * along))
    if not died and expected[1] >= 2 * expected[0]:
        assert rates[0] == pytest.approx(expected, abs=1e-6)


def test_few_texts_and_another_shape_are_refused() -> None:
    """One line says what was got and what is expected."""
    model, saes = small_model(), planted_saes(small_model())
    with pytest.raises(SaeError, match=rf"got 9 texts, expected at least {FEWEST}"):
        drift(model, model, saes, TEXTS[:9])
    with pytest.raises(SaeError, match=r"layer 2: the model has no such layer; .* tuned from the same"):
        drift(model, small_model(num_hidden_layers=2), saes, TEXTS)
    with pytest.raises(SaeError, match="has width 16, the SAE reads 32"):
        drift(model, small_model(hidden_size=16), saes, TEXTS)
    with pytest.raises(SaeError, match="the other model has 512 tokens, the data holds token 9"):
        drift(model, small_model(vocab_size=512), saes, TEXTS)


def test_signed_ranks_are_scipys() -> None:
    """Column by column, ties and zeros among them; without a difference p is 1."""
    values = torch.randn(30, 6, generator=torch.Generator().manual_seed(1))
    values[:, 1] = values[:, 1].round()
    values[:, 2] += 0.8
    values[:20, 3] = 0
    values[:, 4] = 0
    found = signed_ranks(values)
    assert float(found[4]) == 1.0
    for column in (0, 1, 2, 3, 5):
        one = values[:, column].double().numpy()
        expected = wilcoxon(one[numpy.nonzero(one)], correction=True, method="approx").pvalue
        assert float(found[column]) == pytest.approx(expected, rel=1e-6)
    assert float(found[2]) < 0.01


@pytest.mark.parametrize(("one", "other"), [(0, 0), (5, 0), (0, 6), (3, 4), (12, 2)])
def test_mcnemar_is_a_binomial_test(one: int, other: int) -> None:
    """Of the conversations that changed, half are expected either way."""
    expected = binomtest(one, one + other).pvalue if one + other else 1.0
    assert mcnemar(one, other) == pytest.approx(expected)
