"""Writes trained SAEs as they are published: `sae_layer_NN.pt`, safetensors, and a card with the table."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError

from steerkit.errors import SaeError
from steerkit.files import os_reason, write_text_atomic
from steerkit.lab.train.learner import Learner
from steerkit.lab.train.recipe import Recipe
from steerkit.lab.train.trainer import Trained
from steerkit.sae import Checkpoint, LayerSummary, Sae
from steerkit.sae.formats import FORMATS, Format
from steerkit.sites import Site

_PLACE: Final = ".writing-"
_CARD: Final = """---
library_name: steerkit
base_model: {model}
tags: [sparse-autoencoder, steerkit, function-calling]
---

# Sparse autoencoders of {model}

{count} sparse autoencoders on the output of `self_attn.o_proj`, {d_in} wide, with {d_sae} features each.

    {formula}
    reconstruction = features @ W_dec + b_dec

| Layer | Final Loss | Final MSE | L0 |
|---|---|---|---|
{rows}

Loss, MSE and L0 (mean number of active features per token) are means over the last epoch, on the training data. A layer
with an L0 above a quarter of its dictionary is too dense to read single features from. `steerkit sae health` measures
a set on tokens that it was not trained on.

## Recipe

| setting | value |
|---|---|
{settings}

Penalty: {penalty}. {tokens:,} tokens an epoch, from {texts:,} texts; seed {seed}; model in {dtype}. Made with
`steerkit sae train`; `training.json` holds the same as data, with a hash of the tokens.

## Use

    steerkit sae inspect DIR
    steerkit run "..." --model {model} --saes DIR --policy POLICY.yaml
"""

_FORMULAS: Final = {
    "seed": "features       = relu(x @ W_enc + b_enc)",
    "normalised": "features       = relu(x @ W_enc + b_enc)",
    "topk": "features       = the {k} largest of relu(x @ W_enc + b_enc) at each token, the rest 0",
    "jumprelu": "pre            = x @ W_enc + b_enc\n    features       = pre * (pre > threshold)",
}
_PENALTIES: Final = {
    "seed": "sparsity times the sum of a token's features, averaged over tokens",
    "normalised": "sparsity times the sum of a token's features, each times the length of its decoder row",
    "topk": "none; k bounds the number of features",
    "jumprelu": "sparsity times the number of a token's active features, by straight-through estimates",
}


def finished_sae(learner: Learner, dtype: torch.dtype = torch.float32) -> Sae:
    """A learner's weights as an SAE for raw activations."""
    found, threshold = learner.rescale(), learner.thresholds()
    return Sae(
        *(part.to(dtype).cpu().contiguous() for part in found[:4]),
        threshold=None if threshold is None else threshold.to(dtype).cpu(),
        k=learner.recipe.k if learner.recipe.kind == "topk" else None,
    )


def save_sae(
    trained: Trained,
    folder: Path,
    site: Site,
    model_name: str,
    dtype: torch.dtype = torch.float32,
    *,
    safetensors: bool = False,
) -> Path:
    """Write `sae_layer_NN.pt` in the published format, and `safetensors/sae_layer_NN.safetensors` if asked for.

    The published format cannot hold TopK and JumpReLU SAEs, nor hook points other than `attn_out`: they become
    `sae_layer_NN.safetensors` (`sae_resid_post_NN.safetensors` and so on) instead. Returns the first file.

    Raises:
        SaeError: a file cannot be written; no half of it is left.
    """
    sae = finished_sae(trained.learner, dtype)
    one = Checkpoint(folder, model_name, site, sae, trained.history)
    if sae.kind != "relu" or site.point != "attn_out":
        return _write(FORMATS["safetensors"], one, folder)
    if safetensors:
        _write(FORMATS["safetensors"], one, folder / "safetensors")
    return _write(FORMATS["functiongemma"], one, folder)


def _write(form: Format, one: Checkpoint, folder: Path) -> Path:
    """Write one layer beside its place, and move it there when it is complete."""
    try:
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=_PLACE, dir=folder) as place:
            form.write([one], Path(place))
            (made,) = Path(place).iterdir()
            return made.replace(folder / made.name)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors wrap what the disk says
        raise SaeError(f"{folder}: {one.site.name} cannot be written ({os_reason(error)})") from None


def clear(folder: Path) -> None:
    """Remove what a run that was killed while it wrote has left half done."""
    for place in (*folder.glob(f"{_PLACE}*"), *folder.glob(f"safetensors/{_PLACE}*")):
        shutil.rmtree(place, ignore_errors=True)


def write_card(folder: Path, rows: tuple[LayerSummary, ...], recipe: Recipe, run: Mapping[str, Any], d_in: int) -> None:
    """Write README.md, ready for the hub: the table of the published card, and the recipe. Raises SaeError."""
    text = _CARD.format(
        model=run["model"],
        count=len(rows),
        d_in=d_in,
        d_sae=recipe.d_sae,
        formula=_FORMULAS[recipe.kind].format(k=recipe.k),
        rows="\n".join(f"| {row.site.compact} | {row.loss:.4f} | {row.mse:.4f} | {row.l0:.0f} |" for row in rows),
        settings="\n".join(f"| {name} | {value} |" for name, value in recipe.plain().items()),
        penalty=_PENALTIES[recipe.kind],
        tokens=run["data"]["tokens"],
        texts=run["data"]["texts"],
        seed=run["seed"],
        dtype=run["dtype"],
    )
    write_text_atomic(folder / "README.md", text, SaeError)
