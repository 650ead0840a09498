"""From a model and texts to a folder of SAEs that is ready to publish: `steerkit sae train` and the box's build."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from steerkit.lab.train.publish import clear, save_sae, write_card
from steerkit.lab.train.recipe import Recipe
from steerkit.lab.train.run_folder import Run
from steerkit.lab.train.trainer import Report, Texts, check_layers, check_texts, identity, train
from steerkit.lab.workers.ranks import Processes
from steerkit.sae import SaeSet, load_set, summarize
from steerkit.sites import Point


@dataclass(frozen=True)
class Output:
    """Format of the trained SAEs."""

    folder: Path
    """A new or empty folder, or one where the same run was begun."""
    model_name: str
    """Stands in every file."""
    dtype: torch.dtype = torch.float32
    """Dtype of the saved weights."""
    safetensors: bool = False
    """Write the folder `safetensors` too; TopK and JumpReLU SAEs are always safetensors."""
    save_every: int = 200_000
    """Tokens between checkpoints."""


def train_set(
    model: PreTrainedModel,
    texts: Texts,
    recipe: Recipe,
    output: Output,
    *,
    layers: Sequence[int] | None = None,
    point: Point = "attn_out",
    seed: int = 0,
    group: Processes | None = None,
    report: Report | None = None,
) -> SaeSet:
    """Train, save and describe an SAE for each layer; a killed run resumes, a finished one is only loaded.

    See `train` for the arguments. Every process of the group gets the complete set.

    Raises:
        SaeError: as `train`, and where the folder holds something else or cannot be written.
    """
    group = group or Processes()
    wanted = check_layers(model, layers, point)
    check_texts(texts)
    what = identity(texts, recipe, wanted, seed, output.model_name, model.dtype)
    run = Run(output.folder, what, group)
    if not run.finished:
        if group.first:
            clear(output.folder)
        group.wait()
        trained = train(
            model,
            texts,
            recipe,
            layers=[site.layer for site in wanted],
            point=point,
            seed=seed,
            group=group,
            run=run,
            save_every=output.save_every,
            report=report,
        )
        for site, one in trained.items():
            save_sae(one, output.folder, site, output.model_name, output.dtype, safetensors=output.safetensors)
        group.wait()
        if group.first:
            found = load_set(output.folder)
            write_card(output.folder, summarize(found), recipe, what, found[wanted[0]].d_in)
        run.finish()
    return load_set(output.folder)
