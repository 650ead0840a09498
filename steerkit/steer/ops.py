"""The arithmetic of steering: pure tensors over flat tokens, no model and no hook in sight.

Shapes: N tokens (or B sequences of T), S features read at a site, L readings of gates, R rules (column 0 stands for
"no rule" and never opens).
"""

from __future__ import annotations

import torch
from torch import Tensor

from steerkit.sae import Columns, Sae, activate
from steerkit.steer.batch import Segments


def read_features(x: Tensor, columns: Columns) -> Tensor:
    """Features `(N, S)` in float32 of activations `x` `(N, d_in)`: what `Sae.encode` gives for these columns.

    Only a TopK SAE is encoded completely; of every other kind just these columns are.
    """
    if columns.whole is not None:
        return _read_whole(x, columns)
    return activate(torch.addmm(columns.b_enc, x.float(), columns.W_enc), columns.threshold, columns.gate)


def read_grouped(x: Tensor, columns: Columns) -> Tensor:
    """Features `(Q, M, S)` of Q groups of tokens `x` `(Q, M, d_in)` in float32, with columns of each group."""
    if columns.whole is not None:
        return _read_whole(x, columns)
    pre = torch.baddbmm(columns.b_enc, x, columns.W_enc)
    return activate(pre, columns.threshold, columns.gate)


def _read_whole(x: Tensor, columns: Columns) -> Tensor:
    """Features of a TopK SAE, and of the plain columns after them."""
    assert columns.whole is not None  # for the type checker
    assert columns.indices is not None
    found, own = columns.whole.encode(x)[..., columns.indices], len(columns.indices)
    if own == columns.W_dec.shape[-2]:
        return found
    return torch.cat([found, torch.relu(x.float() @ columns.W_enc[..., own:])], dim=-1)


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
    """Readings `(..., L)` that hold: those strictly between `low` and `high` `(L,)`."""
    return (sums > low) & (sums < high)


def any_term(holds: Tensor, wanted: Tensor, wants: Tensor, terms: Tensor) -> Tensor:
    """Gates `(N, r)` that are open, of readings `(N, l)` that hold.

    A term is met where it counts as many of the readings it wants (1 in `wanted` `(l, M)`) as there are (`wants`
    `(M,)`) and none that it does not want (-1). `terms` `(M, r)` says which terms open which gate.
    """
    met = _counted(holds, wanted) == wants
    return _counted(met, terms) > 0


def _counted(flags: Tensor, table: Tensor) -> Tensor:
    """Sums `(N, m)` of flags `(N, l)`, weighted by a table `(l, m)`, or one `(N, l, m)` of each token."""
    values = flags.float()
    return values @ table if table.ndim == 2 else torch.bmm(values.unsqueeze(1), table).squeeze(1)


def latch(opens: Tensor, closes: Tensor, before: Tensor, segments: Segments | None) -> Tensor:
    """Hysteresis `(N, l)`: open from where `opens` on, until where `closes`; `before` `(G, l)` until then.

    Nothing opens and closes at one token.
    """
    if segments is None:
        return opens | (before & ~closes)
    opened, closed = _latest(opens, segments), _latest(closes, segments)
    return torch.where(opened == closed, before[segments.of], opened > closed)


def last_number(flags: Tensor, number: Tensor, before: Tensor, segments: Segments | None) -> Tensor:
    """`(N, r)` number of the sequence's last token that is set in `flags`; `before` `(G, r)` until there is one."""
    if segments is None:
        return torch.where(flags, number.unsqueeze(-1), before)
    index = _latest(flags, segments)
    return torch.where(index < 0, before[segments.of], number[index.clamp(min=0)])


def _latest(flags: Tensor, segments: Segments) -> Tensor:
    """`(N, l)` index of the latest token of the segment, itself included, that is set; -1 where there is none."""
    index = torch.arange(len(flags), device=flags.device).unsqueeze(-1)
    found = torch.where(flags, index, -1).cummax(dim=0).values
    return torch.where(found < segments.first.unsqueeze(-1), -1, found)


def look_back(now: Tensor, before: Tensor, segments: Segments | None) -> Tensor:
    """`(N, k, W)` values of the last W tokens of each token's sequence, from `(N, k)` and `(G, k, W - 1)` before."""
    if segments is None:
        return torch.cat([before, now.unsqueeze(-1)], dim=-1)
    size = before.shape[-1] + 1
    index = torch.arange(len(now), device=now.device).unsqueeze(-1) + torch.arange(1 - size, 1, device=now.device)
    missing = segments.first.unsqueeze(-1) - index  # how far before the segment that is
    here = now[index.clamp(min=0)].movedim(1, 2)
    if size == 1:
        return here
    earlier = before[segments.of].gather(2, (size - 1 - missing).clamp(0, size - 2).unsqueeze(1).expand_as(here))
    return torch.where((missing > 0).unsqueeze(1), earlier, here)


def over_window(values: Tensor, counted: Tensor, means: Tensor | bool) -> Tensor:
    """The largest or mean value `(N, k)` of windows `(N, k, W)`, of their tokens that are `counted`.

    Where none of them is, the answer is NaN, which lies within no bounds.
    """
    number = counted.sum(dim=-1)
    if means is True:
        found = _mean(values, counted, number)
    else:
        found = torch.where(counted, values, -torch.inf).amax(dim=-1)
        if isinstance(means, Tensor):
            found = torch.where(means, _mean(values, counted, number), found)
    return torch.where(number > 0, found, torch.nan)


def _mean(values: Tensor, counted: Tensor, number: Tensor) -> Tensor:
    return torch.where(counted, values, 0.0).sum(dim=-1) / number


def write_grouped(y: Tensor, x: Tensor, change: Tensor, W_dec: Tensor, tokens: Tensor | None) -> Tensor:
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


def write_reconstruction(
    y: Tensor, out: Tensor, tokens: Tensor, change: Tensor, indices: Tensor, sae: Sae, W_dec: Tensor
) -> Tensor:
    """`decode(f')` over the whole dictionary at `tokens` `(..., N)`, from activations `y`; `out` at the others.

    The first columns of `change` are those of the features `indices`; what the others write by `W_dec` is added.
    """
    own = len(indices)
    decoded = sae.decode(sae.encode(y).index_add(-1, indices, change[..., :own]))
    if own < change.shape[-1]:
        decoded = decoded + change[..., own:] @ W_dec[..., own:, :]
    return torch.where(tokens.unsqueeze(-1), decoded.to(y.dtype), out)
