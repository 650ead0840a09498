"""SAEs that are planted, not trained: each feature reads one known direction, and decoding gives back the input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from steerkit.engine.stand_in import SMALL, random_model
from steerkit.policy import Policy
from steerkit.sae import Sae, SaeSet
from steerkit.sae.checkpoint import Checkpoint
from steerkit.steer import find_sites


def small_model(seed: int = 0, dtype: torch.dtype = torch.float32, **config: Any) -> nn.Module:
    """A Gemma-3 text model of three layers with random weights: fast, and good for anything but behaviour."""
    return random_model({**SMALL, **config}, seed=seed, dtype=dtype)


def planted_saes(model: nn.Module, seed: int = 0, dtype: torch.dtype = torch.float32) -> SaeSet:
    """An SAE for every layer with `2 * d_in` features: `relu(q_j · x)` and `relu(-q_j · x)` for an orthonormal basis q.

    Decoding adds `f_j q_j` and subtracts the mirrored feature, so `decode(encode(x)) == x` up to rounding. Every
    feature's statistics are 1, so that `"2 max"` means 2.
    """
    generator = torch.Generator().manual_seed(seed)
    checkpoints, statistics = {}, {}
    for layer, site in find_sites(model).outputs.items():
        width = int(site.out_features)  # type: ignore[arg-type]
        basis = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
        weights = (torch.cat([basis, -basis], dim=1), torch.zeros(2 * width))
        sae = Sae(*weights, weights[0].T.contiguous(), torch.zeros(width)).to("cpu", dtype)
        checkpoints[layer] = Checkpoint(Path(f"sae_layer_{layer:02d}.pt"), "planted", layer, sae)
        for unit in ("max", "mean", "std", "density", "q50", "q90", "q99", "q999"):
            statistics[f"layer_{layer:02d}.{unit}"] = torch.ones(2 * width)
    return SaeSet("planted", checkpoints, statistics)


def planted_policy(name: str = "planted", features: dict[str, tuple[int, int]] | None = None, **parts: Any) -> Policy:
    """A policy from plain dicts: `features` as name → (layer, index), the rest as in a policy file."""
    named = {key: {"layer": layer, "index": index} for key, (layer, index) in (features or {}).items()}
    return Policy.model_validate({"steerkit": 1, "name": name, "features": named, **parts})
