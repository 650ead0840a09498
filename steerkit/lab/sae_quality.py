"""How faithful an SAE is: variance left unexplained, features per token, and what the model loses with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from steerkit.lab.activations import Rewrite, padded, rewritten
from steerkit.sae import Sae


@dataclass(frozen=True)
class SaeQuality:
    """The measures of one layer's SAE on tokens it was not trained on."""

    layer: int
    fvu: float
    """Fraction of variance unexplained: squared error over squared distance from the mean."""
    l0: float
    """Mean number of active features per token."""
    dead: int
    """Features that no token here activates."""
    recovered: float
    """`(CE_zero - CE_sae) / (CE_zero - CE)`: the share of what the layer's attention output is worth in the model's
    next-token cross-entropy that the reconstruction keeps."""


def quality(
    model: PreTrainedModel, sae: Sae, layer: int, activations: Tensor, texts: Sequence[Sequence[int]]
) -> SaeQuality:
    """Measure an SAE on `(tokens, d_in)` activations and on the model reading `texts` (token ids)."""
    features = sae.encode(activations)
    error = (sae.decode(features) - activations).square().sum()
    spread = (activations - activations.mean(0)).square().sum()
    plain = cross_entropy(model, texts)
    zero = cross_entropy(model, texts, {layer: torch.zeros_like})
    written = cross_entropy(model, texts, {layer: lambda y: sae.decode(sae.encode(y.float())).to(y.dtype)})
    return SaeQuality(
        layer=layer,
        fvu=float(error / spread),
        l0=float((features > 0).sum(-1).float().mean()),
        dead=int((features.amax(0) <= 0).sum()),
        recovered=(zero - written) / (zero - plain),
    )


@torch.inference_mode()
def cross_entropy(
    model: PreTrainedModel, texts: Sequence[Sequence[int]], rewrites: dict[int, Rewrite] | None = None
) -> float:
    """Mean next-token cross-entropy in nats over all tokens of `texts`, with some layers' o_proj output rewritten."""
    total, count = 0.0, 0
    with rewritten(model, rewrites or {}):
        for ids, mask in padded(texts, 16):
            logits = model(input_ids=ids.to(model.device), use_cache=False).logits[:, :-1].float()
            keep = mask[:, 1:]
            targets = ids[:, 1:][keep].to(logits.device)
            total += float(functional.cross_entropy(logits[keep], targets, reduction="sum"))
            count += int(keep.sum())
    return total / count
