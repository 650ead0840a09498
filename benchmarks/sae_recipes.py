"""SAE recipes on the model in the box, on the same tokens: what each keeps and how many features it needs.

    python benchmarks/sae_recipes.py [--texts 800] [--epochs 5] [--settings SETTINGS.json]

Prints a row for each layer of each recipe and setting, and by how much the sparsest setting of each recipe that keeps
at least as much of the loss as the first one cuts L0. Trained on `texts` conversations of the training mixture,
measured on 100 others.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from steerkit.lab.train.health.fidelity import Fidelity, fidelity
from steerkit.lab.train.publish import finished_sae
from steerkit.lab.train.recipe import recipe
from steerkit.lab.train.trainer import train
from steerkit.tiny.training.build import D_SAE, SAE_RECIPE, texts
from steerkit.tiny.training.evaluate import BOX, load

SETTINGS: list[dict[str, Any]] = [
    {"kind": "seed"},
    {"kind": "seed", "rate": 5e-4},
    {"kind": "normalised", "sparsity": 0.01},
    {"kind": "normalised", "sparsity": 0.02},
    {"kind": "topk", "k": 8},
    {"kind": "topk", "k": 12},
    {"kind": "jumprelu", "sparsity": 0.005},
    {"kind": "jumprelu", "sparsity": 0.01},
]


def name(setting: dict[str, Any]) -> str:
    """A setting as a table shows it."""
    rest = ", ".join(f"{key} {value:g}" for key, value in setting.items() if key != "kind")
    return f"{setting['kind']}{', ' if rest else ''}{rest}"


def measured(model: Any, seen: Any, held_out: Any, setting: dict[str, Any], epochs: int) -> list[Fidelity]:
    """Train by one setting on all layers and measure."""
    size = {"d_sae": D_SAE, "epochs": epochs, "tokens": SAE_RECIPE.tokens, "buffer": SAE_RECIPE.buffer}
    trained = train(model, seen, recipe(**{**size, **setting}))
    return fidelity(model, {layer: finished_sae(one.learner) for layer, one in trained.items()}, held_out)


def cuts(results: dict[str, list[Fidelity]], base: str) -> list[str]:
    """Rows that say, layer by layer, the least L0 at which each recipe keeps what the seed's keeps."""
    rows = []
    for kind in dict.fromkeys(key.split(",")[0] for key in results):
        cells = []
        for layer, wanted in enumerate(results[base]):
            fine = [
                found[layer].l0
                for key, found in results.items()
                if key.split(",")[0] == kind and found[layer].recovered >= wanted.recovered
            ]
            cells.append(f"{min(fine):.1f} ({min(fine) / wanted.l0 - 1:+.0%})" if fine else "none")
        rows.append(f"| {kind} | " + " | ".join(cells) + " |")
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=800)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--settings", type=Path, help="JSON list of recipe settings instead of the built-in ones")
    parser.add_argument("--out", type=Path, help="JSON lines of all measures, written as they come")
    given = parser.parse_args()
    settings = json.loads(given.settings.read_text()) if given.settings else SETTINGS
    model, tokenizer = load(BOX)
    seen, held_out = texts(tokenizer, 1, given.texts), texts(tokenizer, 2, 100)
    torch.set_num_threads(1)
    print(f"{sum(map(len, seen)):,} tokens, {given.epochs} epochs, {D_SAE} features a layer")
    print("| recipe | layer | L0 | FVU | dead | loss recovered | against the mean |\n|---|---|---|---|---|---|---|")
    results: dict[str, list[Fidelity]] = {}
    for setting in settings:
        results[name(setting)] = found = measured(model, seen, held_out, setting, given.epochs)
        for one in found:
            kept = f"{one.recovered:.4f} | {one.recovered_mean:.4f}"
            print(f"| {name(setting)} | {one.layer} | {one.l0:.1f} | {one.fvu:.3f} | {one.dead} | {kept} |", flush=True)
        if given.out:
            with given.out.open("a") as file:
                file.write(json.dumps({"setting": setting, "found": [asdict(one) for one in found]}) + "\n")
    layers = " | ".join(f"layer {one.layer}" for one in next(iter(results.values())))
    print(f"\nLeast L0 that keeps at least the loss that the first row keeps:\n| recipe | {layers} |")
    print("|---" * (1 + len(next(iter(results.values())))) + "|")
    print("\n".join(cuts(results, next(iter(results)))))


if __name__ == "__main__":
    main()
