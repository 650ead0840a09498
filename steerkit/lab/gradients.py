"""The gradients of every recipe's loss in closed form: pure tensors, tested against autograd.

Autograd keeps intermediate `(T, d_sae)` tensors and walks them several times; written out, a step is five products and
two elementwise passes. `T` is the number of tokens; weights and products have one dtype, the error is float32.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from steerkit.lab.recipe import Recipe


class Weights(NamedTuple):
    """What an SAE learns, or the gradients of it."""

    W_enc: Tensor
    """`(d_in, d_sae)`."""
    b_enc: Tensor
    """`(d_sae,)`."""
    W_dec: Tensor
    """`(d_sae, d_in)`."""
    b_dec: Tensor
    """`(d_in,)`."""
    log_threshold: Tensor
    """`(d_sae,)` natural logarithm of the JumpReLU thresholds; `(0,)` in other recipes."""


class Measured(NamedTuple):
    """What a step saw, before its update."""

    loss: Tensor
    """The whole loss, a float32 scalar."""
    mse: Tensor
    """Mean squared error over tokens and coordinates."""
    l0: Tensor
    """Mean number of active features per token."""
    active: Tensor | None
    """`(d_sae,)` which features fired; None in the seed's recipe, which does not ask."""


def gradients(weights: Weights, x: Tensor, recipe: Recipe, dead: Tensor, out: Weights) -> Measured:
    """Write the gradients of the loss on `x` `(T, d_in)` float32 into `out` (float32).

    `dead` `(n,)` holds the indices of features that count as dead; it is used by the auxiliary loss alone.
    """
    y = x.to(weights.W_enc.dtype)
    pre = torch.addmm(weights.b_enc, y, weights.W_enc)
    if recipe.kind == "topk":
        return _topk(weights, x, y, pre, recipe, dead, out)
    if recipe.kind == "jumprelu":
        return _jumprelu(weights, x, y, pre, recipe, dead, out)
    return _relu(weights, x, y, pre.relu_(), recipe, out)


def _relu(weights: Weights, x: Tensor, y: Tensor, features: Tensor, recipe: Recipe, out: Weights) -> Measured:
    """The seed's recipe and the normalised one, which differ in the penalty."""
    count, weight = len(x), recipe.sparsity / len(x)
    _, mse, back = _error(weights, x, features, out)
    down = back @ weights.W_dec.T
    active = None
    if recipe.kind == "seed":
        penalty = weight * features.sum(dtype=torch.float32)
        down.add_(weight)
    else:
        lengths = weights.W_dec.float().norm(dim=1)
        sums = features.sum(0, dtype=torch.float32)
        penalty = weight * (sums * lengths).sum()
        down.add_((weight * lengths).to(down.dtype))
        out.W_dec.addcmul_((weight * sums / lengths.clamp(min=1e-12)).unsqueeze(1), weights.W_dec.float())
        active = sums > 0
    fired = torch.count_nonzero(features) / count
    _encoder(y, torch.ops.aten.threshold_backward(down, features, 0), out)
    return Measured(mse + penalty, mse, fired, active)


def _topk(weights: Weights, x: Tensor, y: Tensor, pre: Tensor, recipe: Recipe, dead: Tensor, out: Weights) -> Measured:
    values, places = pre.topk(recipe.k, dim=-1, sorted=False)
    features = torch.zeros_like(pre).scatter_(1, places, values.relu_())
    error, mse, back = _error(weights, x, features, out)
    _encoder(y, torch.ops.aten.threshold_backward(back @ weights.W_dec.T, features, 0), out)
    fired = torch.count_nonzero(features) / len(x)
    extra = _auxiliary(weights, y, pre, error, recipe, dead, out)
    return Measured(mse + extra, mse, fired, (features > 0).any(0))


def _jumprelu(
    weights: Weights, x: Tensor, y: Tensor, pre: Tensor, recipe: Recipe, dead: Tensor, out: Weights
) -> Measured:
    threshold, weight = weights.log_threshold.exp(), recipe.sparsity / len(x)
    on = pre > threshold
    features = pre * on
    error, mse, back = _error(weights, x, features, out)
    down = back @ weights.W_dec.T
    near = (pre - threshold).abs_() < recipe.bandwidth / 2
    pushed = (down * near).sum(0, dtype=torch.float32) * threshold.float() + weight * near.sum(0)
    out.log_threshold.copy_(pushed * threshold.float() / -recipe.bandwidth)
    _encoder(y, down.mul_(on), out)
    fired = on.sum(dtype=torch.float32)
    extra = _auxiliary(weights, y, pre, error, recipe, dead, out)
    return Measured(mse + weight * fired + extra, mse, fired / len(x), on.any(0))


def _error(weights: Weights, x: Tensor, features: Tensor, out: Weights) -> tuple[Tensor, Tensor, Tensor]:
    """The error `(T, d_in)`, its mean square, and that mean's gradient; writes the decoder's gradients."""
    error = torch.addmm(weights.b_dec, features, weights.W_dec).float() - x
    wide = error * (2 / error.numel())
    back = wide.to(features.dtype)
    _product(features.T, back, out.W_dec)
    torch.sum(wide, 0, out=out.b_dec)
    return error, error.square().mean(), back


def _encoder(y: Tensor, down: Tensor, out: Weights) -> None:
    """Write the encoder's gradients from those of `pre`, `(T, d_sae)`."""
    _product(y.T, down, out.W_enc)
    torch.sum(down, 0, dtype=torch.float32, out=out.b_enc)


def _product(one: Tensor, other: Tensor, out: Tensor) -> None:
    if one.dtype == out.dtype:
        torch.mm(one, other, out=out)
    else:
        out.copy_(one @ other)


def _auxiliary(
    weights: Weights, y: Tensor, pre: Tensor, error: Tensor, recipe: Recipe, dead: Tensor, out: Weights
) -> Tensor:
    """The loss of the dead features, which predict what the live ones miss; adds its gradients to `out`."""
    if not len(dead):
        return error.new_zeros(())
    some = pre[:, dead].relu_()
    kept = min(len(dead), max(1, y.shape[1] // 2))
    values, places = some.topk(kept, dim=-1, sorted=False)
    features = torch.zeros_like(some).scatter_(1, places, values)
    rows = weights.W_dec[dead]
    left = (features @ rows).float() + error  # the error is output minus input: what is missing has the other sign
    back = (left * (2 * recipe.auxiliary / left.numel())).to(features.dtype)
    down = torch.ops.aten.threshold_backward(back @ rows.T, features, 0)
    out.W_dec.index_add_(0, dead, (features.T @ back).float())
    out.W_enc.index_add_(1, dead, (y.T @ down).float())
    out.b_enc.index_add_(0, dead, down.sum(0, dtype=torch.float32))
    return recipe.auxiliary * left.square().mean()
