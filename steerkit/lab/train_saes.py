"""Train a ReLU SAE on a layer's activations, by the recipe of the published FunctionGemma SAEs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steerkit.sae import History, Sae

EpochReport = Callable[[int, float, float, float], None]
"""Called after each epoch with its number, from 1, and its mean loss, MSE and L0."""


@dataclass(frozen=True)
class SaeRecipe:
    """How one SAE is trained. The defaults are the published recipe; what it leaves open is said in the field."""

    d_sae: int
    """Number of features."""
    epochs: int = 5
    """Passes over the activations."""
    batch: int = 256
    """Tokens per step: about one conversation, the published batch of one."""
    rate: float = 1e-4
    """AdamW's learning rate."""
    sparsity: float = 0.01
    """Weight of the L1 term: the sum of a token's features, averaged over tokens."""
    clip: float = 10.0
    """Activations are clipped to `[-clip, clip]`."""
    max_norm: float = 1.0
    """Largest norm of the gradient."""


class TrainedSae(NamedTuple):
    """An SAE in float32 and its history, one entry an epoch."""

    sae: Sae
    history: History


def new_sae(activations: Tensor, d_sae: int, seed: int) -> Sae:
    """An untrained SAE: random unit directions, the encoder their transpose, the bias at the activations' mean."""
    width = activations.shape[1]
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(d_sae, width, generator=generator)
    directions /= directions.norm(dim=1, keepdim=True)
    mean = activations.mean(0)
    encoder = directions.T.contiguous()
    return Sae(encoder, -(mean @ encoder), directions.clone(), mean.clone())


def train_sae(activations: Tensor, recipe: SaeRecipe, seed: int = 0, report: EpochReport | None = None) -> TrainedSae:
    """An SAE trained on `(tokens, d_in)` activations; the same for the same seed and thread count."""
    data = activations.clamp(-recipe.clip, recipe.clip)
    sae = new_sae(data, recipe.d_sae, seed)
    parameters = [sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec]
    curves: dict[str, list[float]] = {"loss": [], "mse": [], "l0": []}
    for parameter in parameters:
        parameter.requires_grad_()
    optimizer = torch.optim.AdamW(parameters, lr=recipe.rate, weight_decay=0.0, fused=True)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(recipe.epochs):
        totals = torch.zeros(3)
        order = torch.randperm(len(data), generator=generator).split(recipe.batch)
        for rows in order:
            totals += _step(sae, data[rows], recipe)
            torch.nn.utils.clip_grad_norm_(parameters, recipe.max_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        loss, mse, l0 = (totals / len(order)).tolist()
        for key, number in (("loss", loss), ("mse", mse), ("l0", l0)):
            curves[key].append(number)
        if report is not None:
            report(epoch + 1, loss, mse, l0)
    for parameter in parameters:
        parameter.requires_grad_(False)
    history = History(**{key: tuple(curve) for key, curve in curves.items()})
    return TrainedSae(sae, history)


def _step(sae: Sae, x: Tensor, recipe: SaeRecipe) -> Tensor:
    """Leave the gradients of one batch; returns its loss, MSE and L0, `(3,)`."""
    features = sae.encode(x)
    mse = (sae.decode(features) - x).square().mean()
    loss = mse + recipe.sparsity * features.sum(-1).mean()
    loss.backward()
    with torch.no_grad():
        return torch.stack([loss.detach(), mse.detach(), (features > 0).sum(-1).float().mean()])


def save_sae(trained: TrainedSae, folder: Path, layer: int, model_name: str) -> Path:
    """Write `sae_layer_NN.pt` in the published format, tensors in bfloat16; returns the file."""
    sae, history = trained
    state: dict[str, Any] = {
        "model_name": model_name,
        "layer_idx": layer,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "W_enc": sae.W_enc.to(torch.bfloat16).contiguous(),
        "b_enc": sae.b_enc.to(torch.bfloat16),
        "W_dec": sae.W_dec.to(torch.bfloat16).contiguous(),
        "b_dec": sae.b_dec.to(torch.bfloat16),
        "history": {"loss": list(history.loss), "mse": list(history.mse), "l0": list(history.l0)},
    }
    path = folder / f"sae_layer_{layer:02d}.pt"
    torch.save(state, path)
    return path
