"""Fidelity of SAEs on held-out tokens, layer by layer, and the model's loss with each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from steerkit.errors import SaeError
from steerkit.lab.activations import Rewrite, padded, rewritten
from steerkit.lab.reader import ActivationReader
from steerkit.sae import Sae
from steerkit.sites import Site

ALWAYS: Final = 0.99
"""A feature that fires at this share of tokens or more counts as always on."""


@dataclass(frozen=True)
class Fidelity:
    """The measures of one site's SAE."""

    site: Site
    d_sae: int
    tokens: int
    mse: float
    """Mean squared error over tokens and coordinates."""
    fvu: float
    """Fraction of variance unexplained: squared error over squared distance from the mean."""
    l0: float
    """Mean number of active features per token."""
    dead: int
    """Features that no token here activates."""
    always_on: int
    """Features that at least 99 % of the tokens activate."""
    outside: float
    """Share of the activations (tokens times coordinates) outside the clip that the SAE was trained with."""
    loss: float
    """The model's mean next-token cross-entropy in nats, as it is."""
    loss_spliced: float
    """With the reconstruction in the activations' place."""
    loss_zero: float
    """With zeros there."""
    loss_mean: float
    """With their mean there."""
    rates: tuple[float, ...]
    """Share of the tokens at which each feature fires."""

    @property
    def layer(self) -> int:
        """Index of the decoder layer, from 0."""
        return self.site.layer

    @property
    def recovered(self) -> float:
        """`(loss_zero - loss_spliced) / (loss_zero - loss)`: what the SAE keeps of what the site is worth."""
        return (self.loss_zero - self.loss_spliced) / (self.loss_zero - self.loss)

    @property
    def recovered_mean(self) -> float:
        """Recovered loss against the mean in place of zeros, which is a harder comparison."""
        return (self.loss_mean - self.loss_spliced) / (self.loss_mean - self.loss)


class Sums:
    """Running sums of one layer's measures, in float64, so that pieces of any size give the same."""

    def __init__(self, sae: Sae) -> None:
        self.sae, self.tokens = sae, 0
        self.error = self.square = self.outside = 0.0
        self.total = torch.zeros(sae.d_in, dtype=torch.float64)
        self.active = torch.zeros(sae.d_sae, dtype=torch.float64)

    def add(self, x: Tensor, clip: float) -> Tensor:
        """Add activations `(tokens, d_in)`; returns their features `(tokens, d_sae)`."""
        x = x.float()
        output, features = self.sae(x)
        self.tokens += len(x)
        self.error += float((output - x).square().sum(dtype=torch.float64))
        self.square += float(x.square().sum(dtype=torch.float64))
        self.outside += float((x.abs() > clip).sum())
        self.total += x.sum(0, dtype=torch.float64).cpu()
        self.active += (features > 0).sum(0).cpu()
        return features

    @property
    def mean(self) -> Tensor:
        """Mean activation `(d_in,)`."""
        return self.total / self.tokens

    @property
    def spread(self) -> float:
        """Squared distance from the mean, over all tokens."""
        return self.square - self.tokens * float(self.mean.square().sum())

    @property
    def fvu(self) -> float:
        """Fraction of variance unexplained; NaN where the activations do not vary."""
        return self.error / self.spread if self.spread > 0 else math.nan


def fidelity(
    model: PreTrainedModel,
    saes: Mapping[Site, Sae],
    texts: Sequence[Sequence[int]],
    *,
    clip: float = 10.0,
    report: Callable[[int], None] | None = None,
) -> list[Fidelity]:
    """Measure SAEs, all of one width, on what the model reads in `texts` (token ids), a few texts at a time.

    `report` is called with how many layers are done.
    """
    with torch.inference_mode():
        sums = {site: Sums(sae.to(model.device)) for site, sae in saes.items()}
        for chunk in ActivationReader(model, list(saes)).chunks(texts):
            for values, one in zip(chunk, sums.values(), strict=True):
                for part in values.split(2_048):
                    one.add(part, clip)
        plain = cross_entropy(model, texts)
        found = []
        for site, one in sums.items():
            found.append(_measured(model, texts, site, one, plain))
            if report is not None:
                report(len(found))
    return found


def _measured(model: PreTrainedModel, texts: Sequence[Sequence[int]], site: Site, one: Sums, plain: float) -> Fidelity:
    def loss(rewrite: Rewrite) -> float:
        return cross_entropy(model, texts, {site: rewrite})

    rates = one.active / one.tokens
    return Fidelity(
        site=site,
        d_sae=one.sae.d_sae,
        tokens=one.tokens,
        mse=one.error / (one.tokens * one.sae.d_in),
        fvu=one.fvu,
        l0=float(rates.sum()),
        dead=int((rates == 0).sum()),
        always_on=int((rates >= ALWAYS).sum()),
        outside=one.outside / (one.tokens * one.sae.d_in),
        loss=plain,
        loss_spliced=loss(spliced(one.sae)),
        loss_zero=loss(torch.zeros_like),
        loss_mean=loss(lambda y: one.mean.to(y).expand_as(y)),
        rates=tuple(rates.tolist()),
    )


def spliced(sae: Sae) -> Rewrite:
    """Puts an SAE's reconstruction in the activations' place."""
    return lambda y: sae(y).output.to(y.dtype)


@torch.inference_mode()
def cross_entropy(
    model: PreTrainedModel,
    texts: Sequence[Sequence[int]],
    rewrites: Mapping[Site, Rewrite] | None = None,
) -> float:
    """Mean next-token cross-entropy in nats over all tokens of `texts`, with some layers' activations rewritten.

    As many texts run together as keep the logits, in float32, below half a gigabyte (or one text).
    """
    total, count = 0.0, 0
    most = min(2_048, max(1, 2**27 // model.config.get_text_config().vocab_size))
    with rewritten(model, rewrites or {}):
        for ids, mask in padded(texts, most):
            logits = model(input_ids=ids.to(model.device), use_cache=False).logits[:, :-1]
            keep = mask[:, 1:]
            targets = ids[:, 1:][keep].to(logits.device)
            total += float(functional.cross_entropy(logits[keep].float(), targets, reduction="sum"))
            count += int(keep.sum())
    if not count:
        raise SaeError("texts: got one token in each, expected at least one text of two, for a next token to predict")
    return total / count
