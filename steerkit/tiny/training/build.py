"""Build the box from a seed: `python -m steerkit.tiny.training.build --out DIR --seed 0`."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from transformers import Gemma3ForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from steerkit.lab import calibrate, save_statistics
from steerkit.lab.train import Output, train_set
from steerkit.lab.train import Recipe as SaeRecipe
from steerkit.lab.train.health import Fidelity, fidelity
from steerkit.sae import LABELS_FILE, History, write_labels
from steerkit.tiny.training import batches
from steerkit.tiny.training.card import Facts, card, sae_rows
from steerkit.tiny.training.evaluate import as_json, evaluate, load, table
from steerkit.tiny.training.loop import Recipe, train
from steerkit.tiny.training.model import new_model
from steerkit.tiny.training.o_proj_scale import rescale_o_proj
from steerkit.tiny.training.tokenizer import train_tokenizer
from steerkit.tiny.world import render
from steerkit.tiny.world.conversations import training_example
from steerkit.tiny.world.scenes import STRONG

NAME: Final = "steerkit/tiny"
"""The model's name in its SAE files."""

D_SAE: Final = 819
"""6.4 features per dimension, as in the published SAEs."""

SAE_RECIPE: Final = SaeRecipe(d_sae=D_SAE, tokens=256, buffer=65_536, precision="float32")
"""The published recipe, in steps of 256 random tokens, about one conversation's."""

_TOKENIZER_TEXTS: Final = 20_000
_SAE_TEXTS: Final = 800
_HELD_OUT_TEXTS: Final = 100


def texts(tokenizer: PreTrainedTokenizerFast, seed: int, count: int) -> list[list[int]]:
    """The tokens of `count` conversations of the training mixture, prompts and replies."""
    examples = [training_example(seed, index) for index in range(count)]
    return [ids for ids, _ in batches.encode(examples, tokenizer)]


def build_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """The tokenizer, its merges learned from the first conversations of the training data."""
    examples = (training_example(seed, index) for index in range(_TOKENIZER_TEXTS))
    return train_tokenizer(
        render.prompt(example.messages, example.tools) + render.completion(*example.target) for example in examples
    )


def train_model(
    tokenizer: PreTrainedTokenizerFast, seed: int, recipe: Recipe, console: Console
) -> tuple[Gemma3ForCausalLM, float]:
    """A trained model in float32 and the seconds it took."""
    torch.manual_seed(seed)
    model = new_model(tokenizer)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Progress(console=console, disable=not console.is_terminal) as bar:
        tokenizer.save_pretrained(folder)
        task = bar.add_task("training", total=recipe.steps)

        def report(step: int, loss: float) -> None:
            bar.update(task, completed=step, description=f"training, loss {loss:.3f}")

        with batches.stream(folder, seed, recipe.few_chunks) as stream:
            train(model, stream, recipe, report)
    return model, time.monotonic() - started


def save_model(
    model: Gemma3ForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, out: Path
) -> tuple[Gemma3ForCausalLM, list[float]]:
    """Settle the o_proj scales and save in bfloat16; the model as saved, in float32, and the divisors."""
    divisors = rescale_o_proj(model, texts(tokenizer, seed + 1, 200))
    model.bfloat16().save_pretrained(out)
    tokenizer.save_pretrained(out)
    saved, _ = load(out)
    assert isinstance(saved, Gemma3ForCausalLM)  # what config.json names
    return saved, divisors


def build_saes(
    model: Gemma3ForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, recipe: SaeRecipe, folder: Path
) -> tuple[list[Fidelity], list[History], int]:
    """Train, save, measure and calibrate an SAE per layer, as `steerkit sae train`, `health` and `calibrate` do.

    Returns their measures, their histories and the number of tokens they were trained on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    seen = texts(tokenizer, seed + 1, _SAE_TEXTS)
    with tempfile.TemporaryDirectory() as run:
        saes = train_set(model, seen, recipe, Output(Path(run) / "saes", NAME, torch.bfloat16), seed=seed)
        for checkpoint in saes.checkpoints.values():
            shutil.copyfile(checkpoint.path, folder / checkpoint.path.name)
        qualities = fidelity(model, saes, texts(tokenizer, seed + 2, _HELD_OUT_TEXTS), clip=recipe.clip)
        statistics = calibrate(model, saes, seen)
    tokens = sum(map(len, seen))
    source = f"{_SAE_TEXTS} conversations of steerkit.tiny's training mixture, seed {seed + 1}"
    save_statistics(statistics, folder / "stats.safetensors", tokens, source)
    labels = folder / LABELS_FILE
    if not labels.exists():
        write_labels(labels, {})
    return qualities, [checkpoint.history for checkpoint in saes.checkpoints.values()], tokens


def build(out: Path, seed: int, recipe: Recipe, sae_recipe: SaeRecipe, console: Console) -> None:
    """Everything, from seed to card, in `out`."""
    tokenizer = build_tokenizer(seed)
    trained, seconds = train_model(tokenizer, seed, recipe, console)
    finish(trained, tokenizer, seed, seconds, recipe, sae_recipe, out, console)


def finish(
    trained: Gemma3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    seconds: float,
    recipe: Recipe,
    sae_recipe: SaeRecipe,
    out: Path,
    console: Console,
) -> None:
    """Write the files, train the SAEs, evaluate, and write the card."""
    model, divisors = save_model(trained, tokenizer, seed, out)
    qualities, histories, tokens = build_saes(model, tokenizer, seed, sae_recipe, out / "saes")
    cells = evaluate(model, tokenizer, "report", 300)
    console.print(table(cells, "split report"))
    rows = sae_rows(qualities, histories)
    console.print(sae_table(rows))
    evaluation = {"split": "report", "seed": 0, "cells": as_json(cells), "saes": [_measures(one) for one in qualities]}
    (out / "evaluation.json").write_text(json.dumps(evaluation, indent=2) + "\n", encoding="utf-8")
    parameters = sum(weight.numel() for weight in model.parameters())
    facts = Facts(seed, parameters, seconds, recipe, divisors, sae_recipe, tokens)
    (out / "README.md").write_text(card(facts, cells, rows, STRONG), encoding="utf-8")


def _measures(found: Fidelity) -> dict[str, float]:
    return {name: getattr(found, name) for name in ("layer", "fvu", "l0", "dead", "recovered")}


def sae_table(rows: Sequence[Sequence[str]]) -> Table:
    """The SAEs' measures as a table for a terminal."""
    drawn = Table("layer", "loss", "MSE", "L0", "FVU", "L0, held out", "dead", "loss recovered", title="SAEs")
    for row in rows:
        drawn.add_row(*row)
    return drawn


def main(arguments: Sequence[str] | None = None) -> int:
    """Build a box; exit status 0."""
    parser = argparse.ArgumentParser(prog="python -m steerkit.tiny.training.build", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the box to")
    parser.add_argument("--seed", type=int, default=0, help="seed of data, weights and SAEs (default 0)")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="training steps (default: the shipped box's)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    logging.disable_progress_bar()
    given.out.mkdir(parents=True, exist_ok=True)
    build(given.out, given.seed, Recipe(steps=given.steps), SAE_RECIPE, Console())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
