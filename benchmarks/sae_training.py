"""SAE training on FunctionGemma's architecture: all layers at once against one by one, and a step against SAELens.

    python benchmarks/sae_training.py [--dtype float32] [--rounds 5] [--layers-timed 18]

Random weights, batches of 8 texts of 256 tokens, an SAE of 4,096 features for each of 18 layers.

- *All layers*: the published way trains one layer at a time, and for each batch of each layer runs the whole model
  with its unembedding, then an autograd step with AdamW; `steerkit.lab.train` reads all layers in one pass that stops
  after the last. Same tokens, same loss, same dtypes; tokens a second are of all layers together. Every layer of the
  published way costs the same, so `--layers-timed` may name fewer and scale.
- *One step*: `steerkit.lab` against SAELens' own `SAETrainer` (needs `pip install sae-lens`), on the same activations,
  loss (MSE + L1 weighted by decoder norms; SAELens sums over coordinates, so its loss, its coefficient and its clip are
  640 times ours), weights to start with and precision; at the first steps, when half of the features are active, and
  after 60. The losses of both stand beside the times.

The arms take turns; a ratio is the median over rounds of the rounds' own ratios.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, normalize

from steerkit.lab.train.learner import Learner, Workspace
from steerkit.lab.train.recipe import Recipe, product_dtype
from steerkit.lab.train.trainer import Beat, train
from steerkit.testing import FUNCTIONGEMMA, random_model

ROWS, LENGTH, LAYERS = 8, 256, int(FUNCTIONGEMMA["num_hidden_layers"])
WIDTH, D_SAE = int(FUNCTIONGEMMA["hidden_size"]), 4096
TOKENS = ROWS * LENGTH


class PublishedSae(nn.Module):
    """The SAE of the published usage code, trained by autograd."""

    def __init__(self) -> None:
        super().__init__()
        directions = normalize(torch.randn(D_SAE, WIDTH), dim=1)
        self.W_enc, self.b_enc = nn.Parameter(directions.T.contiguous()), nn.Parameter(torch.zeros(D_SAE))
        self.W_dec, self.b_dec = nn.Parameter(directions), nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction and features of `(T, d_in)`."""
        features = torch.relu(x @ self.W_enc + self.b_enc)
        return features @ self.W_dec + self.b_dec, features


def published_step(model: Any, layer: int, sae: PublishedSae, optimizer: torch.optim.Optimizer, ids: Tensor) -> None:
    """One batch of one layer: the whole model, then a step."""
    kept: list[Tensor] = []
    site = model.model.layers[layer].self_attn.o_proj
    handle = site.register_forward_hook(lambda module, args, output: kept.append(output.detach().float()))
    with torch.no_grad():
        model(input_ids=ids)
    handle.remove()
    x = kept[0].reshape(-1, WIDTH).clamp(-10, 10)
    rebuilt, features = sae(x)
    loss = mse_loss(rebuilt, x) + 0.01 * features.sum(-1).mean()
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
    optimizer.step()


def published(model: Any, layers: int, ids: Tensor) -> float:
    """Seconds for one batch of all layers, in the published way."""
    seconds = 0.0
    for layer in range(layers):
        sae = PublishedSae()
        optimizer = torch.optim.AdamW(sae.parameters(), lr=1e-4)
        seconds += timed(lambda: published_step(model, layer, sae, optimizer, ids))  # noqa: B023 - run at once
    return seconds * LAYERS / layers


def ours(model: Any, ids: Tensor, batches: int = 2) -> float:
    """Seconds for one batch of all layers, mean over `batches` after the first, which also builds the SAEs."""
    ends: list[float] = []

    def beat(one: Beat) -> None:
        if one.tokens == int(one.tokens) and int(one.tokens) % TOKENS == 0:
            ends.append(time.perf_counter())

    recipe = Recipe(texts=ROWS, epochs=batches + 1, buffer=TOKENS)
    train(model, ids.tolist(), recipe, report=beat)
    return (ends[-1] - ends[0]) / batches


def timed(run: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


Step = Callable[[Tensor], tuple[float, float]]
"""Trains on `(T, d_in)`; returns the loss before the update, in the activations' own units, and L0."""


class Source:
    """Activations that are sparse sums of 256 directions, 13 at a token."""

    def __init__(self) -> None:
        self.draw = torch.Generator().manual_seed(0)
        self.directions = torch.randn(256, WIDTH, generator=self.draw) / 8

    def __call__(self, tokens: int) -> Tensor:
        """`(tokens, d_in)` new ones."""
        strengths = torch.rand(tokens, 256, generator=self.draw)
        return strengths * (torch.rand(tokens, 256, generator=self.draw) < 0.05) @ self.directions


def our_learner(source: Source, precision: Any, warm: int) -> Learner:
    """The recipe whose loss SAELens has too, after `warm` steps."""
    recipe = Recipe(kind="normalised", rate=1e-3, precision=precision, max_norm=1 / WIDTH)
    learner = Learner(source(1024), recipe, seed=0)
    step = our_step(learner)
    for _ in range(warm):
        step(source(512))
    return learner


def our_step(learner: Learner) -> Step:
    """One step of the learner."""
    space = Workspace(learner.weights, product_dtype(learner.recipe.precision, learner.weights.b_dec.device))

    def step(some: Tensor) -> tuple[float, float]:
        found = learner.step(some, space)
        return float(found.loss), float(found.l0)

    return step


def saelens_step(learner: Learner, tokens: int, autocast: bool) -> Step:
    """A step of SAELens' trainer, from the learner's weights; it gets the activations in the learner's scale."""
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.saes.standard_sae import StandardTrainingSAE, StandardTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    config = StandardTrainingSAEConfig(
        d_in=WIDTH,
        d_sae=D_SAE,
        l1_coefficient=WIDTH * learner.recipe.sparsity,
        apply_b_dec_to_input=False,
        normalize_activations="none",
    )
    sae = StandardTrainingSAE(config)
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        sae.get_parameter(name).data.copy_(getattr(learner.weights, name))
    settings = SAETrainerConfig(
        total_training_samples=10**9,
        train_batch_size_samples=tokens,
        lr=learner.recipe.rate,
        lr_end=learner.recipe.rate,
        autocast=autocast,
        logger=LoggingConfig(log_to_wandb=False),
    )
    trainer = SAETrainer(settings, sae, data_provider=iter(()))
    square = learner.scale**2

    def step(some: Tensor) -> tuple[float, float]:
        found = trainer.step(some / learner.scale)
        trainer.n_training_steps += 1
        return float(found.loss.detach()) / WIDTH * square, float((found.feature_acts > 0).sum() / len(some))

    return step


def compare_steps(rounds: int, tokens: int, warm: int, autocast: bool) -> None:
    """Print the table row of one precision, number of tokens and age of the SAE."""
    source = Source()
    learner = our_learner(source, "bfloat16" if autocast else "float32", warm)
    theirs, mine = saelens_step(learner, tokens, autocast), our_step(learner)
    times: list[tuple[float, float]] = []
    seen: list[tuple[float, ...]] = []
    for number in range(rounds + 1):
        some, found = source(tokens), {}
        for name, step in (("ours", mine), ("theirs", theirs))[:: 1 if number % 2 else -1]:
            start = time.perf_counter()
            loss, l0 = step(some)
            found[name] = (time.perf_counter() - start, loss, l0)
        seen.append((found["ours"][1], found["theirs"][1], found["ours"][2]))
        if number:  # the first of each makes the optimizer's state
            times.append((found["ours"][0], found["theirs"][0]))
    ratios = [b / a for a, b in times]
    ours_ms, theirs_ms = (f"{statistics.median(part) * 1000:.0f} ms" for part in zip(*times, strict=True))
    ratio = f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
    losses = f"{seen[0][0]:.4f} / {seen[0][1]:.4f} to {seen[-1][0]:.4f} / {seen[-1][1]:.4f}"
    precision = "bf16 products / autocast" if autocast else "float32"
    print(f"| {tokens} | {warm} | {seen[-1][2]:.0f} | {precision} | {ours_ms} | {theirs_ms} | {ratio} | {losses} |")


def peak_gib() -> float:
    """Most memory that this process ever had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def compare_layers(dtype: torch.dtype, rounds: int, timed_layers: int) -> None:
    """Print the table of training all layers, in both ways."""
    model = random_model(FUNCTIONGEMMA, dtype=dtype)
    ids = torch.randint(0, 262_144, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    start = peak_gib()
    first = ours(model, ids)
    mine, after_ours = [first], peak_gib()
    theirs: list[float] = []
    for number in range(rounds):
        theirs.append(published(model, timed_layers, ids))
        after = peak_gib()
        if number + 1 < rounds:
            mine.append(ours(model, ids))
    ratios = [b / a for a, b in zip(mine, theirs, strict=True)]
    name = str(dtype).removeprefix("torch.")
    print(f"\n{name}, {rounds} rounds, {timed_layers} of {LAYERS} layers of the published way timed")
    print("| way | tokens a second, 18 layers | seconds a batch | peak memory |\n|---|---|---|---|")
    for way, seconds, memory in (("all at once", mine, after_ours), ("one layer at a time", theirs, after)):
        middle = statistics.median(seconds)
        print(f"| {way} | {TOKENS / middle:.1f} | {middle:.1f} | {memory:.1f} GiB |")
    print(
        f"ratio {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}); model alone {start:.1f} GiB"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="of the model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers-timed", type=int, default=LAYERS)
    parser.add_argument("--only", choices=("layers", "steps"))
    given = parser.parse_args()
    bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # without it bf16 products are emulated, and mean nothing
    print(f"{torch.get_num_threads()} threads, bf16 in hardware: {bf16}")
    if given.only != "layers":
        print("| tokens | steps before | L0 | precision | steerkit | SAELens | ratio | losses, first and last |")
        print("|---" * 8 + "|")
        for tokens, warm, autocast in itertools.product((128, 1024, TOKENS), (0, 60), (False, True)[: 1 + bf16]):
            compare_steps(given.rounds, tokens, warm, autocast)
    if given.only != "steps":
        compare_layers(getattr(torch, given.dtype), given.rounds, given.layers_timed)


if __name__ == "__main__":
    main()
