"""The arithmetic of steering: pure tensors over flat tokens, no model and no hook in sight.

Shapes: N tokens, S features read at a site, R rules (column 0 stands for "no rule" and never opens).
"""

from __future__ import annotations

import torch
from torch import Tensor

from steerkit.sae import Sae


def read_features(x: Tensor, W_enc: Tensor, b_enc: Tensor) -> Tensor:
    """Features `(N, S)` of activations `x` `(N, d_in)`: `relu(x @ W_enc + b_enc)` in float32."""
    return torch.relu(torch.addmm(b_enc, x.float(), W_enc))


def open_rules(allowed: Tensor, sums: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Which rules `(N, R)` act: allowed at the token, and with a gate sum strictly between `low` and `high` `(R,)`."""
    return allowed & (sums > low) & (sums < high)


def feature_change(f: Tensor, on: Tensor, scale: Tensor, shift: Tensor, floor: Tensor, ceiling: Tensor) -> Tensor:
    """`f' - f` `(N, S)` where `on`, else 0; `f' = clip(scale * f + shift, floor, ceiling)`, tables `(N or 1, S)`."""
    wanted = torch.clamp(scale * f + shift, floor, ceiling)
    return torch.where(on, wanted - f, 0.0)


def write_delta(y: Tensor, change: Tensor, W_dec: Tensor) -> Tensor:
    """`y + change @ W_dec` in `y`'s dtype; a token whose features do not change keeps its bits.

    Adding a zero would already turn -0.0 into 0.0, so untouched tokens are selected, not summed.
    """
    touched = (change != 0).any(dim=-1, keepdim=True)
    return torch.where(touched, torch.addmm(y.float(), change, W_dec).to(y.dtype), y)


def write_reconstruction(y: Tensor, out: Tensor, tokens: Tensor, change: Tensor, indices: Tensor, sae: Sae) -> Tensor:
    """`decode(f')` over the whole dictionary at `tokens` `(N,)`, from the activation `y`; `out` at the others."""
    features = sae.encode(y).index_add(-1, indices, change)
    return torch.where(tokens.unsqueeze(-1), sae.decode(features).to(y.dtype), out)
