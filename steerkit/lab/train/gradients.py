"""The gradients of every recipe's loss in closed form: pure tensors, tested against autograd.

Autograd keeps intermediate `(T, d_sae)` tensors and walks them several times; written out, a step is five products and
two elementwise passes, and where few features are active four of the products are sparse. `T` is the number of tokens.
Dense products take a copy of the weights in their own dtype; sparse ones and the error are float32.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from steerkit.lab.train.recipe import Recipe
from steerkit.lab.train.sparse_products import column_sums, compressed, few, like, product_at


class Weights(NamedTuple):
    """Learned weights of an SAE, or their gradients."""

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
    """Measures of a step, before its update."""

    loss: Tensor
    """The total loss, a float32 scalar."""
    mse: Tensor
    """Mean squared error over tokens and coordinates."""
    l0: Tensor
    """Mean number of active features per token."""
    active: Tensor | None
    """`(d_sae,)` which features fired; None in the seed's recipe, which does not ask."""


class Sources(NamedTuple):
    """Operands of the products: float32, or in the dtype of the products."""

    weights: Weights
    x: Tensor
    """`(T, d_in)` activations."""


def gradients(weights: Weights, low: Weights, x: Tensor, recipe: Recipe, dead: Tensor, out: Weights) -> Measured:
    """Write the gradients of the loss on `x` `(T, d_in)` float32 into `out` (float32).

    `low` holds the weights in the dtype of the dense products; float32 ones may be `weights` themselves. `dead` `(n,)`
    holds the indices of features that count as dead; it is used by the auxiliary loss alone.
    """
    full, dense = Sources(weights, x), Sources(low, x.to(low.W_enc.dtype))
    pre = torch.addmm(low.b_enc, dense.x, low.W_enc)
    if recipe.kind == "topk":
        return _topk(full, dense, pre, recipe, dead, out)
    if recipe.kind == "jumprelu":
        return _jumprelu(full, dense, pre, recipe, dead, out)
    return _relu(full, dense, pre.relu_(), recipe, out)


def _thinned(full: Sources, dense: Sources, features: Tensor) -> tuple[Tensor, Tensor, Sources]:
    """Count of entries of `(T, d_sae)` features that are not 0; the features, compressed if few; their factors."""
    entries = torch.count_nonzero(features)
    return (entries, compressed(features), full) if few(features, entries) else (entries, features, dense)


def _relu(full: Sources, dense: Sources, features: Tensor, recipe: Recipe, out: Weights) -> Measured:
    """The seed's recipe and the normalised one, which differ in the penalty."""
    count, weight = len(features), recipe.sparsity / len(features)
    entries, features, (weights, y) = _thinned(full, dense, features)
    _, mse, back = _error(weights, full.x, features, out)
    active = lengths = None
    sums = column_sums(features)
    if recipe.kind == "seed":
        penalty = weight * sums.sum()
    else:
        lengths = weights.W_dec.float().norm(dim=1)
        penalty = weight * (sums * lengths).sum()
        out.W_dec.addcmul_((weight * sums / lengths.clamp(min=1e-12)).unsqueeze(1), weights.W_dec.float())
        active = sums > 0
    _encoder(y, _down(weights, back, features, weight if lengths is None else weight * lengths), out)
    return Measured(mse + penalty, mse, entries / count, active)


def _topk(full: Sources, dense: Sources, pre: Tensor, recipe: Recipe, dead: Tensor, out: Weights) -> Measured:
    values, places = pre.topk(recipe.k, dim=-1, sorted=False)
    features = torch.zeros_like(pre).scatter_(1, places, values.relu_())
    entries, features, (weights, y) = _thinned(full, dense, features)
    error, mse, back = _error(weights, full.x, features, out)
    _encoder(y, _down(weights, back, features, 0.0), out)
    extra = _auxiliary(dense, pre, error, recipe, dead, out)
    return Measured(mse + extra, mse, entries / len(y), column_sums(features) > 0)


def _jumprelu(full: Sources, dense: Sources, pre: Tensor, recipe: Recipe, dead: Tensor, out: Weights) -> Measured:
    """Gradients are wanted where a feature is on, or near its threshold: the other places are left out together."""
    threshold, weight = dense.weights.log_threshold.exp(), recipe.sparsity / len(pre)
    _, seen, (weights, y) = _thinned(full, dense, pre.where(pre > threshold - recipe.bandwidth / 2, 0))
    sparse = seen.layout == torch.sparse_csr
    values, bound = (seen.values(), threshold[seen.col_indices()]) if sparse else (seen, threshold)
    on, near = values > bound, (values - bound).abs() < recipe.bandwidth / 2
    features = like(seen, values * on) if sparse else values * on
    error, mse, back = _error(weights, full.x, features, out)
    down = product_at(seen, back, weights.W_dec.T) if sparse else back @ weights.W_dec.T

    def sums(part: Tensor) -> Tensor:
        return column_sums(like(seen, part.float()) if sparse else part)

    pushed = sums(down * near) * threshold.float() + weight * sums(near)
    out.log_threshold.copy_(pushed * threshold.float() / -recipe.bandwidth)
    _encoder(y, like(seen, down * on) if sparse else down.mul_(on), out)
    fired = sums(on)
    extra = _auxiliary(dense, pre, error, recipe, dead, out)
    return Measured(mse + weight * fired.sum() + extra, mse, fired.sum() / len(y), fired > 0)


def _error(weights: Weights, x: Tensor, features: Tensor, out: Weights) -> tuple[Tensor, Tensor, Tensor]:
    """The error `(T, d_in)`, its mean square, and that mean's gradient; writes the decoder's gradients."""
    error = (features @ weights.W_dec).add_(weights.b_dec).float() - x
    wide = error * (2 / error.numel())
    back = wide.to(features.dtype)
    _product(features.transpose(0, 1), back, out.W_dec)
    torch.sum(wide, 0, out=out.b_dec)
    return error, error.square().mean(), back


def _down(weights: Weights, back: Tensor, features: Tensor, penalty: Tensor | float) -> Tensor:
    """Gradients of the loss by `pre` where a feature is active, `penalty` (a number, or `(d_sae,)`) included."""
    if features.layout == torch.sparse_csr:
        extra = penalty[features.col_indices()] if isinstance(penalty, Tensor) else penalty
        return like(features, product_at(features, back, weights.W_dec.T) + extra)
    down = back @ weights.W_dec.T
    down.add_(penalty.to(down.dtype) if isinstance(penalty, Tensor) else penalty)
    masked: Tensor = torch.ops.aten.threshold_backward(down, features, 0)
    return masked


def _encoder(y: Tensor, down: Tensor, out: Weights) -> None:
    """Write the encoder's gradients from those of `pre`, `(T, d_sae)`."""
    if down.layout == torch.sparse_csr:
        out.W_enc.copy_((down.transpose(0, 1) @ y).T)
    else:
        _product(y.T, down, out.W_enc)
    out.b_enc.copy_(column_sums(down))


def _product(one: Tensor, other: Tensor, out: Tensor) -> None:
    if one.layout == torch.strided and one.dtype == out.dtype:
        torch.mm(one, other, out=out)
    else:
        out.copy_(one @ other)


def _auxiliary(dense: Sources, pre: Tensor, error: Tensor, recipe: Recipe, dead: Tensor, out: Weights) -> Tensor:
    """The loss of the dead features, which predict what the live ones miss; adds its gradients to `out`."""
    if not len(dead):
        return error.new_zeros(())
    weights, y = dense
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
