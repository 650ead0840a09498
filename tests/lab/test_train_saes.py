"""SAE training by the published recipe, on activations whose dictionary is known."""

from __future__ import annotations

import pytest
import torch

from steerkit.lab.statistics import feature_statistics, save_statistics
from steerkit.lab.train_saes import SaeRecipe, new_sae, save_sae, train_sae
from steerkit.sae import load_checkpoint

WIDTH, PLANTED = 16, 24


@pytest.fixture(scope="module")
def planted():
    """Tokens that are sums of about two of 24 known directions, and the directions."""
    generator = torch.Generator().manual_seed(77)  # not the seed that SAEs start from
    directions = torch.randn(PLANTED, WIDTH, generator=generator)
    directions /= directions.norm(dim=1, keepdim=True)
    active = torch.rand(6000, PLANTED, generator=generator) < 2 / PLANTED
    strengths = active * (1 + torch.rand(6000, PLANTED, generator=generator))
    return strengths @ directions, directions


@pytest.fixture(scope="module")
def trained(planted):
    return train_sae(planted[0], SaeRecipe(d_sae=48, rate=3e-3, batch=128))


def loss(sae, x, sparsity=0.01):
    features = sae.encode(x)
    return float((sae.decode(features) - x).square().mean() + sparsity * features.sum(-1).mean())


def test_training_lowers_the_loss(planted, trained):
    """The trained SAE's loss is less than half of an untrained one's, the control, and its history falls."""
    activations, _ = planted
    untrained = new_sae(activations, 48, seed=0)
    assert loss(trained.sae, activations) < 0.5 * loss(untrained, activations)
    assert trained.history.loss[-1] < trained.history.loss[0]
    assert len(trained.history.mse) == len(trained.history.l0) == 5


def test_training_finds_planted_directions():
    """Every one of 16 orthonormal directions gets a decoder row along it; an untrained SAE, the control, has none."""
    generator = torch.Generator().manual_seed(77)
    directions = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator)).Q
    active = torch.rand(6000, WIDTH, generator=generator) < 1.5 / WIDTH
    activations = (active * (1 + torch.rand(6000, WIDTH, generator=generator))) @ directions

    def found(rows):
        rows = rows / rows.norm(dim=1, keepdim=True)
        return int(((directions @ rows.T).amax(1) > 0.9).sum())

    recipe = SaeRecipe(d_sae=48, rate=3e-3, batch=128, sparsity=0.1, epochs=20)
    assert found(train_sae(activations, recipe).sae.W_dec) >= 14
    assert found(new_sae(activations, 48, seed=0).W_dec) <= 2


def test_a_stronger_penalty_makes_sparser_features(planted, trained):
    """Ten times the L1 weight leaves fewer active features per token."""
    strong = train_sae(planted[0], SaeRecipe(d_sae=48, rate=3e-3, batch=128, sparsity=0.1))
    assert strong.history.l0[-1] < trained.history.l0[-1]


def test_activations_are_clipped():
    """An SAE trained on values far outside the clip is the one trained on clipped values."""
    wild = 40 * torch.randn(300, 8, generator=torch.Generator().manual_seed(1))
    recipe = SaeRecipe(d_sae=12, epochs=1, batch=64)
    one, other = train_sae(wild, recipe).sae, train_sae(wild.clamp(-10, 10), recipe).sae
    assert torch.equal(one.W_enc, other.W_enc)


def test_training_is_a_function_of_its_seed(planted):
    """The same seed gives the same weights, another seed others."""
    recipe = SaeRecipe(d_sae=12, epochs=1)
    first, again, other = (train_sae(planted[0][:600], recipe, seed).sae.W_dec for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_saved_sae_is_the_published_format(trained, tmp_path):
    """The loader of the sae room reads the file: same weights in bfloat16, same history."""
    path = save_sae(trained, tmp_path, 3, "some/model")
    assert path.name == "sae_layer_03.pt"
    checkpoint = load_checkpoint(path)
    assert (checkpoint.layer, checkpoint.model_name) == (3, "some/model")
    assert torch.equal(checkpoint.sae.W_enc, trained.sae.W_enc.to(torch.bfloat16))
    assert checkpoint.history == trained.history


def test_statistics_are_those_of_all_tokens(planted, trained, tmp_path):
    """Every statistic equals a direct computation over all tokens, zeros included."""
    activations, _ = planted
    found = feature_statistics(trained.sae, activations)
    features = trained.sae.encode(activations)
    assert torch.allclose(found["max"], features.amax(0))
    assert torch.allclose(found["mean"], features.mean(0), atol=1e-6)
    assert torch.allclose(found["std"], features.std(0, correction=0), atol=1e-5)
    assert torch.equal(found["density"], (features > 0).float().mean(0))
    for name, share in (("q50", 0.5), ("q99", 0.99)):
        expected = features.quantile(share, dim=0, interpolation="lower")
        assert torch.allclose(found[name], expected, atol=1e-5)
    save_statistics({0: found}, tmp_path / "stats.safetensors", len(activations), "planted")
    assert (tmp_path / "stats.safetensors").stat().st_size > 8 * 48 * 4
