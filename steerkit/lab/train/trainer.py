"""Trains the SAEs of many layers side by side: one pass of the model feeds them all."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from steerkit.errors import SaeError
from steerkit.lab.reader import ActivationReader
from steerkit.lab.train.learner import Learner, Workspace
from steerkit.lab.train.recipe import Recipe, product_dtype
from steerkit.lab.train.run_folder import Position, Run
from steerkit.lab.train.stream import Chunk, epoch_chunks, steps
from steerkit.lab.workers.ranks import Processes
from steerkit.sae import History
from steerkit.sites import Point, Site
from steerkit.steer import find_sites

Texts = Sequence[Sequence[int]]
"""Token ids of each text."""


class Beat(NamedTuple):
    """Progress of a run, reported after each layer of each chunk."""

    tokens: float
    """Tokens trained on so far, all epochs together; between layers of a chunk a fraction of it counts."""
    total: int
    """Tokens of the run in total."""
    epoch: int
    """From 1."""
    loss: float
    """Loss of the layer just trained, mean over the epoch so far."""


Report = Callable[[Beat], None]


class Trained(NamedTuple):
    """The result for one layer."""

    learner: Learner
    history: History
    """One entry an epoch: means over its steps."""


def identity(
    texts: Texts, recipe: Recipe, sites: Sequence[Site], seed: int, model: str, model_dtype: torch.dtype
) -> dict[str, Any]:
    """Identity of a run: model, data, recipe, layers and seed."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(len(text).to_bytes(8, "little") + array("q", text).tobytes())
    return {
        "model": model,
        "dtype": str(model_dtype).removeprefix("torch."),
        "layers": [site.compact for site in sites],
        "seed": seed,
        "recipe": recipe.plain(),
        "data": {"texts": len(texts), "tokens": sum(map(len, texts)), "sha256": digest.hexdigest()},
    }


def train(
    model: PreTrainedModel,
    texts: Texts,
    recipe: Recipe,
    *,
    layers: Sequence[int] | None = None,
    point: Point = "attn_out",
    seed: int = 0,
    group: Processes | None = None,
    run: Run | None = None,
    save_every: int = 200_000,
    report: Report | None = None,
) -> dict[Site, Trained]:
    """Train an SAE for each layer at one hook point over `texts`, and return those of this process.

    The results are those of training each layer alone: the SAEs share the model's passes and nothing else. They depend
    on texts, recipe, seed, number of CPU threads and device, not on the number of processes.

    Args:
        model: any decoder with the hook point, in eval mode.
        texts: token ids; activations of at most `recipe.buffer` tokens are in memory.
        recipe: how.
        layers: which (default: all).
        point: the hook point.
        seed: of first weights and order.
        group: the processes that share the work (default: this one alone).
        run: where checkpoints go, and where a run resumes from (default: none are kept).
        save_every: tokens between checkpoints.
        report: callback for progress.

    Raises:
        SaeError: no texts, a layer that the model lacks, or a checkpoint that cannot be written or read.
    """
    group = group or Processes()
    wanted = check_layers(model, layers, point)
    check_texts(texts)
    with torch.no_grad():
        trainer = _Trainer(model, texts, recipe, wanted, seed, group, run, report)
        for epoch in range(trainer.position.epoch, recipe.epochs):
            trainer.epoch(epoch, save_every)
        return {site: Trained(one.learner, one.history()) for site, one in trainer.layers.items()}


def check_texts(texts: Texts) -> None:
    """Raise SaeError unless there are texts, each with tokens in it."""
    if not texts or not all(texts):
        raise SaeError("texts: got none, or an empty one; expected at least one token in each")


def check_layers(model: PreTrainedModel, layers: Sequence[int] | None, point: Point = "attn_out") -> list[Site]:
    """The sites to work on, in order. Raises SaeError for a layer that the model lacks, or that lacks the point."""
    sites = find_sites(model)
    wanted = sites.of(point) if layers is None else sorted({Site(layer, point) for layer in layers})
    there = sites.of(point)
    if strange := [site for site in wanted if site not in there]:
        last = max(sites.modules).layer
        if not 0 <= strange[0].layer <= last:
            raise SaeError(f"layers: got {strange[0].layer}, expected 0 to {last}, the model's")
        having = ", ".join(str(site.layer) for site in there) or "none"
        raise SaeError(f"layers: got {strange[0].layer}, expected one with {point}: {having}")
    return wanted


class _Layer:
    """A learner with its curves: sums over the running epoch, and the means of the finished ones."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.sums = learner.weights.b_dec.new_zeros(4)
        self.curves: list[list[float]] = []

    def learn(self, activations: Tensor, rows: Sequence[Tensor], space: Workspace) -> float:
        """Train on each of the steps' tokens in turn; returns the epoch's mean loss so far."""
        for some in rows:
            loss, mse, l0, _ = self.learner.step(activations[some.to(activations.device)], space)
            self.sums += torch.stack([loss, mse, l0, torch.ones_like(loss)])
        return float(self.sums[0] / self.sums[3])

    def end_epoch(self) -> None:
        self.curves.append((self.sums[:3] / self.sums[3]).tolist())
        self.sums.zero_()

    def history(self) -> History:
        return History(*(tuple(curve) for curve in zip(*self.curves, strict=True)))

    def state(self) -> dict[str, Any]:
        return {**self.learner.state(), "sums": self.sums, "curves": self.curves}

    def restore(self, state: dict[str, Any]) -> None:
        self.learner.restore(state)
        self.sums.copy_(state["sums"])
        self.curves = [list(curve) for curve in state["curves"]]


class _Trainer:
    """A run in progress."""

    def __init__(
        self,
        model: PreTrainedModel,
        texts: Texts,
        recipe: Recipe,
        sites: Sequence[Site],
        seed: int,
        group: Processes,
        run: Run | None,
        report: Report | None,
    ) -> None:
        self.texts, self.recipe, self.seed, self.run, self.report = texts, recipe, seed, run, report
        self.lengths = [len(text) for text in texts]
        self.read = ActivationReader(model, sites, group)
        self.position = run.position if run else Position()
        self.saved = self.position.tokens
        own = [sites[number] for number in group.share(range(len(sites)))]
        first = self._activations(epoch_chunks(self.lengths, recipe, seed, 0)[0])
        self.layers = {site: _Layer(Learner(first[sites.index(site)], recipe, seed)) for site in own}
        self.space = Workspace(self.layers[own[0]].learner.weights, product_dtype(recipe.precision, first.device))
        if run and run.begun:
            for site, one in self.layers.items():
                one.restore(run.load(site))

    def epoch(self, epoch: int, save_every: int) -> None:
        """Train on the rest of one epoch."""
        chunks = epoch_chunks(self.lengths, self.recipe, self.seed, epoch)
        for number, chunk in enumerate(chunks):
            if epoch == self.position.epoch and number < self.position.chunk:
                continue
            last = number == len(chunks) - 1
            self._learn(epoch, number, chunk, ends=last)
            self.position = Position(epoch + last, 0 if last else number + 1, self.position.tokens + chunk.tokens)
            if self.run and (
                self.position.tokens - self.saved >= save_every or self.position.epoch == self.recipe.epochs
            ):
                self.run.save(self.position, {site: one.state() for site, one in self.layers.items()})
                self.saved = self.position.tokens

    def _learn(self, epoch: int, number: int, chunk: Chunk, ends: bool) -> None:
        activations = self._activations(chunk)
        rows = list(steps(chunk, self.lengths, self.recipe, self.seed, epoch, number))
        total = self.recipe.epochs * sum(self.lengths)
        for done, (site, one) in enumerate(self.layers.items(), start=1):
            values = activations[self.read.sites.index(site)]
            loss = one.learn(values, rows, self.space)
            if ends:
                one.end_epoch()
                if epoch + 1 < self.recipe.epochs:
                    one.learner.restart_dead(values)
            if self.report is not None:
                tokens = self.position.tokens + chunk.tokens * done / len(self.layers)
                self.report(Beat(tokens, total, epoch + 1, loss))

    def _activations(self, chunk: Chunk) -> Tensor:
        return self.read([self.texts[index] for index in chunk.texts])
