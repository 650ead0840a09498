"""Bring a model's o_proj outputs to a scale at which the published SAE recipe works, without changing the model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from transformers import Gemma3ForCausalLM

from steerkit.lab import collect


@torch.no_grad()
def rescale_o_proj(model: Gemma3ForCausalLM, texts: Sequence[Sequence[int]]) -> list[float]:
    """Divide each o_proj weight by the power of two nearest to its output's RMS over `texts` (token ids), in place.

    The norm that follows o_proj takes any factor out again (but for its epsilon), so the function stays the same; left
    alone the outputs reach an RMS above 10, and the recipe's clip at 10 would cut them. Returns the divisors by layer.
    """
    divisors = []
    for layer, values in zip(model.model.layers, collect(model, texts), strict=True):
        divisor = 2.0 ** round(math.log2(float(values.square().mean().sqrt())))
        layer.self_attn.o_proj.weight.div_(divisor)
        divisors.append(divisor)
    return divisors
