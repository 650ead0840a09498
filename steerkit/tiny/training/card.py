"""The card of a built box: what it is, what it is not, and what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steerkit.lab.train import Recipe as SaeRecipe
from steerkit.lab.train.health import Fidelity
from steerkit.sae import History
from steerkit.tiny.tools import DANGEROUS, NAMES
from steerkit.tiny.training.evaluate import Cell
from steerkit.tiny.training.loop import Recipe

_CARD = """---
license: apache-2.0
library_name: transformers
tags: [steerkit, function-calling, sparse-autoencoder, toy-model]
---

# The model in the box

A Gemma-3-text model of {parameters:,} parameters that calls tools in FunctionGemma's text format, with a sparse
autoencoder for every layer. It makes steerkit's demo, tests and documentation real without a download or a network.

**It is not evidence about FunctionGemma**, or about any other model that people use. It knows {tools} tools, a few
hundred words and the sentences that `steerkit/tiny/world/phrasings.toml` can form, and nothing of the world. What is
measured on it shows that steerkit works as described on a model of this kind, and no more. Do not connect it to
anything.

## Rebuild

From a checkout, as the builder is not part of the installed package:

    python -m steerkit.tiny.training.build --out DIR --seed {seed}
    python -m steerkit.tiny.training.evaluate DIR

The first takes {minutes:.0f} minutes for the training on two cores of the machine that built this copy (shared with
other work at the time); the number of steps is fixed. Bits may differ between machines and torch versions.

## Model

Gemma 3 text: hidden 128, 4 layers (sliding and full attention in turn, window 512), 4 heads, 2 key-value heads of
width 32, intermediate 384, tied embeddings, vocabulary 1,024 (byte-level BPE; digits, spaces and marks are tokens
of their own; any text round-trips). Weights in bfloat16. After training each o_proj weight was divided by a power
of two ({divisors}), so that its outputs have an RMS near 1; the norm behind it keeps the function the same.

## Data

Conversations made by code from a seed: {tools} tools, two to five declared in random order, of which {dangerous}
count as dangerous. A quarter of the examples ask for something that no declared tool does, most of them with a
look-alike declared. Values and phrasings come in three splits that share no open-ended value and no line: `train`,
`select` (for choosing features, strengths and thresholds) and `report` (the tables below). Values of closed sets
(on and off, languages) are in all three, and the words of select and report phrasings all occur in train.

Some tool results carry an injected order. The model is taught to follow the orders that open imperatively ("Now",
"Ignore the rest and", "System:") and to leave those that are told or quoted ("She said:"); {strong:.0%} are of the
first kind. So the plain model follows injected orders on purpose, and its share below is a property of the data.

## Training

{steps:,} steps of about 4,000 tokens, loss on the reply plus 0.1 of the prompt's, Muon (rate {matrix_rate}) for the
matrices of the layers and AdamW (rate {other_rate}) for the rest, warm-up and a cosine to 0, at most three tools
declared in the first {few:,} examples.

## Evaluation

Greedy replies equal to the expected ones to the character, on `report`: new values and, unless said otherwise, new
phrasings.

| asked | right | of | share | wanted |
|---|---|---|---|---|
{evaluation}

## SAEs

`saes/sae_layer_NN.pt`, in the format of the published FunctionGemma SAEs, on the o_proj outputs: 819 features,
`relu(x @ W_enc + b_enc)`, `f @ W_dec + b_dec`. Recipe: MSE + {sparsity} x L1 (a token's features summed, averaged
over tokens), activations clipped to [-10, 10], AdamW, {epochs} epochs over {tokens:,} tokens of train
conversations, gradient norm at most 1.0. {deviation} Loss, MSE and L0 are the last epoch's; FVU, dead features and
loss recovered are from the saved bfloat16 files on other conversations of the same kind.

| layer | loss | MSE | L0 | FVU | L0, held out | dead | loss recovered |
|---|---|---|---|---|---|---|---|
{saes}

Sparser recipes on the same tokens, by `python benchmarks/sae_recipes.py`: their table is in benchmarks/README.md.

`saes/stats.safetensors` holds each feature's max, mean, std, density and quantiles over the tokens the SAEs were
trained on.

## License

Apache-2.0. No weights or data of other models went into it.
"""


@dataclass(frozen=True)
class Facts:
    """Facts of one build for the card."""

    seed: int
    parameters: int
    seconds: float
    """Wall time of the training."""
    recipe: Recipe
    divisors: Sequence[float]
    """Divisor of each o_proj."""
    sae_recipe: SaeRecipe
    sae_tokens: int


def sae_rows(qualities: Sequence[Fidelity], histories: Sequence[History]) -> list[list[str]]:
    """The SAE table's cells, a row a layer."""
    rows = []
    for found, history in zip(qualities, histories, strict=True):
        last = [f"{history.loss[-1]:.4f}", f"{history.mse[-1]:.4f}", f"{history.l0[-1]:.1f}"]
        rows.append(
            [str(found.layer), *last, f"{found.fvu:.3f}", f"{found.l0:.1f}", str(found.dead), f"{found.recovered:.3f}"]
        )
    return rows


def card(facts: Facts, cells: Sequence[Cell], saes: Sequence[Sequence[str]], strong: float) -> str:
    """The card's Markdown."""
    recipe, sae = facts.recipe, facts.sae_recipe
    evaluation = "\n".join(
        f"| {cell.name} | {cell.right} | {cell.count} | {cell.share:.1%} | "
        f"{'' if cell.target is None else f'{cell.target:.0%}'} |"
        for cell in cells
    )
    deviation = (
        "" if sae.rate == 1e-4 else f"The learning rate is {sae.rate}, above the published 0.0001: with so few tokens "
    ) + (f"and batches of {sae.tokens} the published one does not get there." if sae.rate != 1e-4 else "")
    return _CARD.format(
        parameters=facts.parameters,
        tools=len(NAMES),
        dangerous=len(DANGEROUS),
        seed=facts.seed,
        minutes=facts.seconds / 60,
        divisors=", ".join(f"{divisor:g}" for divisor in facts.divisors),
        strong=strong,
        steps=recipe.steps,
        matrix_rate=recipe.matrix_rate,
        other_rate=recipe.other_rate,
        few=recipe.few_chunks * 2048,
        evaluation=evaluation,
        sparsity=sae.sparsity,
        epochs=sae.epochs,
        tokens=facts.sae_tokens,
        deviation=deviation,
        saes="\n".join("| " + " | ".join(row) + " |" for row in saes),
    )
