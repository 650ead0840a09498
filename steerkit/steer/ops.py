"""The arithmetic of steering: pure tensors over flat tokens, no model and no hook in sight.

Shapes: N tokens (or B sequences of T), S features read at a site, L readings of gates, R rules (column 0 stands for
"no rule" and never opens).
"""

from __future__ import annotations

import torch
from torch import Tensor

from steerkit.sae import Columns, Sae, activate


def read_features(x: Tensor, columns: Columns) -> Tensor:
    """Features `(N, S)` in float32 of activations `x` `(N, d_in)`: what `Sae.encode` gives for these columns.

    Only a TopK SAE is encoded as a whole; of every other kind just these columns are.
    """
    if columns.whole is not None:
        return columns.whole.encode(x)[:, columns.indices]
    return activate(torch.addmm(columns.b_enc, x.float(), columns.W_enc), columns.threshold, columns.gate)


def read_lanes(x: Tensor, columns: Columns) -> Tensor:
    """The same `(Q, M, S)` of Q lanes of tokens: `x` `(Q, M, d_in)` in float32, columns with that first dimension."""
    if columns.whole is not None:
        return columns.whole.encode(x)[..., columns.indices]
    pre = torch.baddbmm(columns.b_enc, x, columns.W_enc)
    return activate(pre, columns.threshold, columns.gate)


def feature_change(
    f: Tensor,
    on: Tensor | None,
    scale: Tensor | None,
    shift: Tensor,
    bounds: tuple[Tensor, Tensor] | None,
    otherwise: Tensor | float = 0.0,
) -> Tensor:
    """`f' - f` of features `f` where `on`, else `otherwise`; `f' = clip(scale * f + shift, *bounds)`.

    All of one shape, or tables that broadcast to it. None spares a step: all are on, every scale is 0, nothing is
    clipped.
    """
    wanted = shift if scale is None else torch.addcmul(shift, scale, f)
    if bounds is not None:
        wanted = torch.clamp(wanted, *bounds)
    change = wanted - f
    return change if on is None else torch.where(on, change, otherwise)


def within(sums: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Which readings `(..., L)` hold: strictly between `low` and `high` `(L,)`."""
    return (sums > low) & (sums < high)


def any_term(holds: Tensor, wanted: Tensor, wants: Tensor, terms: Tensor) -> Tensor:
    """Which gates `(..., r)` are open, of readings `(..., l)` that hold.

    A term is met where it counts as many of the readings it wants (1 in `wanted` `(l, M)`) as there are (`wants`
    `(M,)`) and none that it does not want (-1). `terms` `(M, r)` says which terms open which gate.
    """
    met = (holds.float() @ wanted) == wants
    return (met.float() @ terms) > 0


def latch(opens: Tensor, closes: Tensor, before: Tensor) -> Tensor:
    """Hysteresis over tokens `(B, T, l)`: open from where `opens` on, until where `closes`; `before` `(B, l)` at first.

    Closing wins where both are said; the caller never says both.
    """
    steps = torch.arange(1, opens.shape[1] + 1, device=opens.device).view(1, -1, 1)
    last_open = torch.where(opens, steps, 0).cummax(dim=1).values
    last_close = torch.where(closes, steps, 0).cummax(dim=1).values
    return torch.where((last_open == 0) & (last_close == 0), before.unsqueeze(1), last_open > last_close)


def over_window(values: Tensor, counts: Tensor, size: int, mean: bool) -> Tensor:
    """The largest or mean value `(B, T)` of the last `size` tokens that count, from `(B, size - 1 + T)` of each.

    Where none of them counts the answer is NaN, which lies within no bounds.
    """
    tokens, counted = values.unfold(1, size, 1), counts.unfold(1, size, 1)
    number = counted.sum(dim=-1)
    if mean:
        found = torch.where(counted, tokens, 0.0).sum(dim=-1) / number
    else:
        found = torch.where(counted, tokens, -torch.inf).amax(dim=-1)
    return torch.where(number > 0, found, torch.nan)


def write_lanes(y: Tensor, x: Tensor, change: Tensor, W_dec: Tensor, tokens: Tensor | None) -> Tensor:
    """`x + change @ W_dec` in `y`'s dtype, lane by lane, at some tokens; the others keep their bits.

    Adding a zero would already turn -0.0 into 0.0, so untouched tokens are selected, not summed.

    Args:
        y: `(Q, M, d_in)` activations.
        x: the same in float32.
        change: `(Q, M, S)` of their features.
        W_dec: `(Q, S, d_in)`.
        tokens: `(Q, M, 1)` which are written; None for all.
    """
    written = torch.baddbmm(x, change, W_dec).to(y.dtype)
    return written if tokens is None else torch.where(tokens, written, y)


def write_reconstruction(y: Tensor, out: Tensor, tokens: Tensor, change: Tensor, indices: Tensor, sae: Sae) -> Tensor:
    """`decode(f')` over the whole dictionary at `tokens` `(..., N)`, from activations `y`; `out` at the others."""
    features = sae.encode(y).index_add(-1, indices, change)
    return torch.where(tokens.unsqueeze(-1), sae.decode(features).to(y.dtype), out)
