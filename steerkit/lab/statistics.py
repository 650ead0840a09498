"""Statistics of SAE features over a calibration set, the units in which policies give strengths."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from steerkit.sae import Sae

QUANTILES: Final[dict[str, float]] = {"q50": 0.5, "q90": 0.9, "q99": 0.99, "q999": 0.999}
"""The quantiles over all tokens that are kept."""

_FEATURES: Final = 64  # at a time, so that 100,000 tokens fit in tens of megabytes


def feature_statistics(sae: Sae, activations: Tensor) -> dict[str, Tensor]:
    """`max, mean, std, density` and `QUANTILES` of every feature over `(tokens, d_in)`, each `(d_sae,)` float32.

    Every token counts, also those where the feature is 0; density is the share of tokens where it is above 0, and a
    quantile is the value of the token at that rank (the lower of two neighbours).
    """
    parts: dict[str, list[Tensor]] = {name: [] for name in ("max", "mean", "std", "density", *QUANTILES)}
    tokens = len(activations)
    for start in range(0, sae.W_enc.shape[1], _FEATURES):
        columns = slice(start, start + _FEATURES)
        values = torch.relu(activations @ sae.W_enc[:, columns] + sae.b_enc[columns])
        parts["mean"].append(values.mean(0))
        parts["std"].append(values.std(0, correction=0))
        parts["density"].append((values > 0).float().mean(0))
        ranked = values.T.contiguous().sort(dim=1).values
        parts["max"].append(ranked[:, -1].clone())
        for name, share in QUANTILES.items():
            parts[name].append(ranked[:, int(share * (tokens - 1))].clone())
    return {name: torch.cat(found) for name, found in parts.items()}


def save_statistics(by_layer: dict[int, dict[str, Tensor]], path: Path, tokens: int, source: str) -> None:
    """Write `layer_NN.NAME` tensors to a safetensors file whose metadata names the tokens and where they come from."""
    tensors = {
        f"layer_{layer:02d}.{name}": tensor.contiguous()
        for layer, found in by_layer.items()
        for name, tensor in found.items()
    }
    save_file(tensors, path, metadata={"tokens": str(tokens), "source": source})
