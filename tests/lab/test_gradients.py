"""The closed-form gradients of every recipe, against autograd on the loss as it is written down."""

from __future__ import annotations

import pytest
import torch

from steerkit.lab.train import gradients as gradients_module
from steerkit.lab.train.gradients import Weights, gradients
from steerkit.lab.train.recipe import KINDS, PRESETS, Recipe, recipe

D_IN, D_SAE, TOKENS = 12, 20, 64


class _Jump(torch.autograd.Function):
    """`pre * (pre > t)` and `pre > t` with the published pseudo-derivatives, written as an autograd function."""

    @staticmethod
    def forward(ctx, pre, threshold, width):
        ctx.save_for_backward(pre, threshold)
        ctx.width = width
        on = (pre > threshold).float()
        return pre * on, on

    @staticmethod
    def backward(ctx, features, on):
        pre, threshold = ctx.saved_tensors
        kernel = ((pre - threshold).abs() / ctx.width < 0.5).float()
        down = -(threshold / ctx.width) * kernel * features - kernel / ctx.width * on
        return features * (pre > threshold), down.sum(0), None


def loss_of(parts, x, settings, dead):
    """The loss of `steerkit.lab.train.recipe`, in autograd's terms."""
    W_enc, b_enc, W_dec, b_dec, logs = parts
    pre = x @ W_enc + b_enc
    penalty = torch.zeros(())
    if settings.kind == "topk":
        best = pre.topk(settings.k, dim=-1)
        features = torch.zeros_like(pre).scatter(-1, best.indices, best.values.relu())
    elif settings.kind == "jumprelu":
        features, on = _Jump.apply(pre, logs.exp(), settings.bandwidth)
        penalty = on.sum(-1).mean()
    else:
        features = pre.relu()
        lengths = W_dec.norm(dim=1) if settings.kind == "normalised" else torch.ones(D_SAE)
        penalty = (features * lengths).sum(-1).mean()
    error = features @ W_dec + b_dec - x
    loss = error.square().mean() + settings.sparsity * penalty
    if settings.kind in ("topk", "jumprelu"):
        loss = error.square().mean() + (settings.sparsity * penalty if settings.kind == "jumprelu" else 0)
        if len(dead):
            some = pre[:, dead].relu().topk(min(len(dead), D_IN // 2), dim=-1)
            kept = torch.zeros(len(x), len(dead)).scatter(-1, some.indices, some.values)
            loss = loss + settings.auxiliary * (kept @ W_dec[dead] + error.detach()).square().mean()
    return loss


@pytest.fixture
def parts():
    generator = torch.Generator().manual_seed(3)
    shapes = ((D_IN, D_SAE), (D_SAE,), (D_SAE, D_IN), (D_IN,))
    weights = [0.4 * torch.randn(*shape, generator=generator) for shape in shapes]
    return [*weights, torch.full((D_SAE,), 0.3).log()], torch.randn(TOKENS, D_IN, generator=generator)


@pytest.fixture(params=["dense", "sparse"])
def way(request, monkeypatch):
    """Products of either way, whatever the share of zeros."""
    monkeypatch.setattr(gradients_module, "few", lambda features, active: request.param == "sparse")


def closed(weights, x, settings, dead):
    out = Weights(*(torch.full_like(part, 7.0) for part in weights))  # what was there before must not count
    return gradients(Weights(*weights), Weights(*weights), x, settings, dead, out), out


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dead", [[], [1, 4, 5, 9, 12, 13, 17, 18]], ids=["none dead", "eight dead"])
def test_gradients_are_autograds(kind, dead, parts):
    """Loss and every gradient agree to float32 rounding; with another sparsity or k, the control, they do not."""
    weights, x = parts
    settings = Recipe(kind=kind, d_sae=D_SAE, k=5, sparsity=0.03, bandwidth=0.4, auxiliary=0.5)
    used = [part.clone().requires_grad_() for part in weights]
    dead_features = torch.tensor(dead, dtype=torch.long)
    loss = loss_of(used, x, settings, dead_features)
    loss.backward()
    measured, out = closed(weights, x, settings, dead_features)
    assert torch.allclose(measured.loss, loss.detach(), atol=1e-6)
    for name, one, part in zip(Weights._fields, out, used, strict=True):
        if part.grad is not None:
            assert torch.allclose(one, part.grad, atol=2e-6), name
    other = Recipe(kind=kind, d_sae=D_SAE, k=6, sparsity=0.05, bandwidth=0.4, auxiliary=0.5)
    changed = closed(weights, x, other, dead_features)[1]
    pairs = [(one, part.grad) for one, part in zip(changed, used, strict=True) if part.grad is not None]
    assert not all(torch.allclose(one, grad, atol=2e-6) for one, grad in pairs)


def test_the_seeds_penalty_can_be_dodged_and_the_normalised_one_cannot(parts):
    """Features ten times smaller with rows ten times longer decode alike: the seed's loss falls, the other's stays."""
    weights, x = parts
    weights = [10 * weights[0], 10 * weights[1], weights[2] / 10, *weights[3:]]
    small = [part.clone() for part in weights]
    small[0], small[1], small[2] = weights[0] / 10, weights[1] / 10, 10 * weights[2]
    none = torch.empty(0, dtype=torch.long)
    for kind, dodged in (("seed", True), ("normalised", False)):
        settings = Recipe(kind=kind, d_sae=D_SAE)
        before, after = (float(closed(which, x, settings, none)[0].loss) for which in (weights, small))
        assert (after < 0.9 * before) == dodged
        assert dodged or after == pytest.approx(before, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_few_features_take_the_sparse_products(kind, monkeypatch):
    """Where most are silent the sparse way is chosen by itself; where most are active it is not."""
    chosen = []
    monkeypatch.setattr(gradients_module, "compressed", lambda part: chosen.append(kind) or part.to_sparse_csr())
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(32, 8, generator=generator)
    settings, none = Recipe(kind=kind, d_sae=200, k=4), torch.empty(0, dtype=torch.long)
    directions = torch.randn(200, 8, generator=generator)
    for bias, count in ((-8.0, 1), (8.0, 2 if kind == "topk" else 1)):
        weights = Weights(directions.T.clone(), torch.full((200,), bias), directions, x[0], torch.zeros(200))
        gradients(weights, weights, x, settings, none, Weights(*(torch.zeros_like(part) for part in weights)))
        assert len(chosen) == count


@pytest.mark.usefixtures("way")
def test_bfloat16_products_are_close(parts):
    """With products in bfloat16 the gradients point the same way (cosine above 0.999), and differ in their digits."""
    weights, x = parts
    settings, none = Recipe(d_sae=D_SAE), torch.empty(0, dtype=torch.long)
    _, exact = closed(weights, x, settings, none)
    out = Weights(*(torch.zeros_like(part) for part in weights))
    low = Weights(*(part.bfloat16() for part in weights))
    gradients(Weights(*weights), low, x, settings, none, out)
    for one, other in zip(out[:4], exact[:4], strict=True):
        assert float(torch.cosine_similarity(one.flatten(), other.flatten(), dim=0)) > 0.999
        assert not torch.equal(one, other)


def test_presets_are_recipes():
    """Every kind has its usual settings, a change overrides them, and None changes nothing."""
    for kind in KINDS:
        assert recipe(kind, sparsity=None).rate == PRESETS[kind].get("rate", 1e-4)
        assert recipe(kind, rate=0.25).rate == 0.25


def test_steps_are_of_random_tokens_unless_texts_are_asked_for():
    """But for the published recipe, whose steps are a text each; a number of tokens that is given is taken."""
    assert [recipe(kind).tokens for kind in KINDS] == [0, 256, 256, 256]
    assert (recipe("topk", texts=2).tokens, recipe("topk", texts=2).texts) == (0, 2)
    assert recipe("topk", texts=2, tokens=16).tokens == 16
