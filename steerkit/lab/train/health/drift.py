"""Drift of SAEs between two models on the same tokens: the one they were trained on, and one that was tuned from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from steerkit.errors import SaeError, SteeringError
from steerkit.lab.ranking import LEVEL
from steerkit.lab.reader import ActivationReader
from steerkit.lab.train.health.fidelity import Sums
from steerkit.lab.two_sample import benjamini_hochberg, signed_ranks
from steerkit.sae import Sae, SaeSet
from steerkit.sites import Site
from steerkit.steer import find_sites

FACTOR: Final = 2.0
"""Ratio of two firing rates or means, either way, from which on a feature counts as changed."""
FEWEST: Final = 10
"""Texts that a comparison takes at least, and tokens at which a feature that died fired before."""
_MOST_UNITS: Final = 256
"""Parts that the texts are compared in at most; neighbours share one where there are more texts."""
_TOKENS: Final = 2_048


@dataclass(frozen=True)
class Change:
    """One number of a feature on both models."""

    index: int
    """Index of the feature."""
    before: float
    """On the first model."""
    after: float
    """On the other."""
    p: float
    """Corrected p value."""


@dataclass(frozen=True)
class SiteDrift:
    """One site's SAE on two models."""

    site: Site
    d_sae: int
    tokens: int
    moved: float
    """Squared change of the activations over their squared distance from the mean on the first model."""
    fvu: tuple[float, float]
    """Fraction of variance unexplained on each model, of its own variance; NaN where nothing varies."""
    l0: tuple[float, float]
    """Mean number of active features per token on each model."""
    dead: tuple[int, int]
    """Features that no token activates on each model."""
    died: tuple[int, ...]
    """Features that at least 10 tokens activate on the first model and none on the other."""
    alive: tuple[int, ...]
    """Features that no token activates on the first model and at least 10 on the other."""
    rates: tuple[Change, ...]
    """Features of both models whose share of tokens above 0 changed."""
    means: tuple[Change, ...]
    """Features of both models whose mean over all tokens changed."""

    @property
    def changed(self) -> dict[int, str]:
        """Features that changed, and how in words."""
        found = {one.index: f"mean {one.before:.3g} to {one.after:.3g}" for one in self.means}
        found |= {one.index: f"fires at {one.before:.2%} of tokens, then {one.after:.2%}" for one in self.rates}
        return found | dict.fromkeys(self.died, "died") | dict.fromkeys(self.alive, "came alive")


def drift(
    model: PreTrainedModel,
    other: PreTrainedModel,
    saes: SaeSet,
    texts: Sequence[Sequence[int]],
    *,
    report: Callable[[int, int], None] | None = None,
) -> list[SiteDrift]:
    """Compare what SAEs, all of one width, make of two models on the same tokens.

    A rate or mean changed where it differs by a factor of 2 or more, and by Wilcoxon's signed-rank test over the texts
    at a false discovery rate of 5 % over the features of all sites (Benjamini and Hochberg). A text is the unit, as
    tokens of one text depend on each other; of more than 256 neighbours count together.

    Args:
        model: the model of the first number of each pair.
        other: a model of the same shape and tokens.
        saes: sites of both models.
        texts: token ids.
        report: callback with the texts that are read, of how many.

    Raises:
        SaeError: fewer than 10 texts, or a model that lacks a site or tokens.
    """
    check_models(other, saes, texts)
    parts = min(len(texts), _MOST_UNITS)
    units = torch.tensor([number * parts // len(texts) for number, text in enumerate(texts) for _ in text])
    with torch.inference_mode():
        pairs = {site: _Pair(sae.to(model.device), parts) for site, sae in saes.items()}
        chunks = (ActivationReader(one, list(saes)).chunks(texts) for one in (model, other))
        start = 0
        for both in zip(*chunks, strict=True):
            owners = units[start : start + both[0].shape[1]]
            for pair, x, y in zip(pairs.values(), *both, strict=True):
                pair.add(x, y.to(x.device), owners)
            start += len(owners)
            if report is not None:
                report(start, len(units))
        counts = units.bincount(minlength=parts).double()
        return _drifts(pairs, counts)


def check_models(other: PreTrainedModel, saes: SaeSet, texts: Sequence[Sequence[int]]) -> None:
    """Raise SaeError unless another model has the sites in their width and the tokens, and there are enough texts."""
    if len(texts) < FEWEST:
        raise SaeError(f"got {len(texts)} texts, expected at least {FEWEST}: a change is told by how many show it")
    sites = find_sites(other)
    for site, sae in saes.items():
        try:
            width = sites.width(site)
        except SteeringError as error:
            raise SaeError(f"the other model: {error}; expected a model tuned from the same one") from None
        if width not in (None, sae.d_in):
            raise SaeError(
                f"the other model: {site.name} has width {width}, the SAE reads {sae.d_in}; expected a model tuned "
                f"from the same one"
            )
    embedding: Any = other.get_input_embeddings()
    highest = max(max(text) for text in texts)
    if highest >= embedding.num_embeddings:
        raise SaeError(
            f"the other model has {embedding.num_embeddings:,} tokens, the data holds token {highest:,}; expected a "
            f"model of the same vocabulary"
        )


class _Pair:
    """Running sums of one site on both models, and by part of the texts the differences."""

    def __init__(self, sae: Sae, parts: int) -> None:
        self.sums = (Sums(sae), Sums(sae))
        self.moved = 0.0
        self.totals = torch.zeros(2, sae.d_sae, dtype=torch.float64)
        self.fired, self.values = torch.zeros(parts, sae.d_sae), torch.zeros(parts, sae.d_sae)
        """By part, tokens at which a feature fires on the other model less those on the first; and values."""

    def add(self, x: Tensor, y: Tensor, owners: Tensor) -> None:
        """Add activations `(tokens, d_in)` of both models, of tokens that belong to the parts `owners` `(tokens,)`."""
        for before, after, own in zip(x.split(_TOKENS), y.split(_TOKENS), owners.split(_TOKENS), strict=True):
            self.moved += float((after.float() - before.float()).square().sum(dtype=torch.float64))
            found = [one.add(part, math.inf) for one, part in zip(self.sums, (before, after), strict=True)]
            self.totals += torch.stack([part.sum(dim=0, dtype=torch.float64).cpu() for part in found])
            own = own.to(x.device)
            which, places = own.unique(return_inverse=True)
            into = torch.zeros(len(which), found[0].shape[1], device=x.device)
            fired = into.index_add(0, places, (found[1] > 0).float() - (found[0] > 0).float())
            self.fired[which.cpu()] += fired.cpu()
            self.values[which.cpu()] += into.index_add(0, places, found[1] - found[0]).cpu()


def _drifts(pairs: dict[Site, _Pair], counts: Tensor) -> list[SiteDrift]:
    each = counts.unsqueeze(1)
    tests = [torch.stack([signed_ranks(part / each) for part in (one.fired, one.values)]) for one in pairs.values()]
    p = torch.cat(tests, dim=1)
    corrected = torch.stack([benjamini_hochberg(row) for row in p]).split([test.shape[1] for test in tests], dim=1)
    return [_drift(site, one, rows) for (site, one), rows in zip(pairs.items(), corrected, strict=True)]


def _drift(site: Site, pair: _Pair, p: Tensor) -> SiteDrift:
    first, other = pair.sums
    tokens = first.tokens
    active = torch.stack([first.active, other.active])
    died = (active[0] >= FEWEST) & (active[1] == 0)
    alive = (active[0] == 0) & (active[1] >= FEWEST)
    rates, means = (
        _changes(values / tokens, row, died | alive) for values, row in zip((active, pair.totals), p, strict=True)
    )
    return SiteDrift(
        site=site,
        d_sae=first.sae.d_sae,
        tokens=tokens,
        moved=pair.moved / first.spread if first.spread > 0 else math.nan,
        fvu=(first.fvu, other.fvu),
        l0=_two(active.sum(dim=1) / tokens),
        dead=(int((active[0] == 0).sum()), int((active[1] == 0).sum())),
        died=_indices(died),
        alive=_indices(alive),
        rates=rates,
        means=means,
    )


def _changes(values: Tensor, p: Tensor, apart: Tensor) -> tuple[Change, ...]:
    """Changes of `values` `(2, d_sae)` that p values and `FACTOR` tell, without the features `apart`, largest first."""
    low, high = values.amin(dim=0), values.amax(dim=0)
    chosen = (p < LEVEL) & (high >= FACTOR * low) & (high > 0) & ~apart
    order = sorted(_indices(chosen), key=lambda index: -float(high[index] / low[index].clamp(min=1e-12)))
    return tuple(Change(index, float(values[0, index]), float(values[1, index]), float(p[index])) for index in order)


def _indices(flags: Tensor) -> tuple[int, ...]:
    return tuple(flags.nonzero().squeeze(-1).tolist())


def _two(values: Tensor) -> tuple[float, float]:
    return float(values[0]), float(values[1])
