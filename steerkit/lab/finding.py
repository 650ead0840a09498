"""From two sets of conversations to the features, and the sparse probe, that tell them apart: `steerkit features find`.

Features are ranked, the probe is fitted and every bound is set on one part of the conversations; what is reported of
them is measured on the other part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor

from steerkit.engine import LoadedModel
from steerkit.errors import SaeError
from steerkit.lab.probe import sparse_probe
from steerkit.lab.ranking import LEVEL, Ranking, grouped, rank_features, split
from steerkit.lab.reading_places import Case, Report, place_maxima, sum_maxima
from steerkit.lab.separation import (
    Interval,
    auroc,
    auroc_gain,
    auroc_interval,
    bound_between,
    effect_size,
    wilson,
)
from steerkit.lab.statistics import check_sites
from steerkit.sae import SaeSet
from steerkit.types import Feature, Place

FALSE: Final = 0.01
"""Share of the negatives that a bound may let through where it is chosen."""
FEWEST: Final = 10
"""Conversations of each set at least."""
_SCREENED: Final = 1_000  # features that the probe chooses among


@dataclass(frozen=True)
class Share:
    """A measured share with its Wilson interval."""

    hits: int
    count: int

    @property
    def value(self) -> float:
        """The share itself."""
        return self.hits / self.count if self.count else 0.0

    @property
    def interval(self) -> Interval:
        """Of 95 %."""
        return wilson(self.hits, self.count)


@dataclass(frozen=True)
class Measured:
    """How a number tells the sets apart on the held-out conversations."""

    auroc: float
    interval: Interval
    bound: float
    """Chosen on the other part so that at most 1 % of its negatives are beyond it; raw activation, or a probe's sum."""
    recall: Share
    """Of the held-out positives, those beyond the bound."""
    false: Share
    """Of the held-out negatives, the same."""


@dataclass(frozen=True)
class FoundFeature:
    """One feature that tells the sets apart, with those that are like it."""

    feature: Feature
    label: str
    lower: bool
    """Whether it is lower in the positives; then what is beyond the bound is below it."""
    adjusted_p: float
    """Where it was chosen, corrected for all features that were looked at."""
    measured: Measured
    effect: float
    """Held-out difference of the means in standard deviations of all conversations."""
    fires: tuple[Share, Share]
    """Held-out positives and negatives in which it is above 0 at the place."""
    alike: tuple[Feature, ...]
    """Worse features that correlate with it by 0.9 or more."""


@dataclass(frozen=True)
class FoundProbe:
    """A weighted sum of a few features."""

    weights: dict[Feature, float]
    bias: float
    measured: Measured
    gain: float
    """By how much its held-out AUROC exceeds that of the hardest of the listed features to beat."""
    p: float
    """The largest one-sided p value of DeLong's paired tests against each of the listed features."""

    @property
    def beats(self) -> bool:
        """Whether it is better on held-out conversations than every listed feature."""
        return self.p < LEVEL


@dataclass(frozen=True)
class Found:
    """The answer."""

    place: Place
    chosen_on: tuple[int, int]
    """Positives and negatives on which features, probe and bounds were chosen."""
    held_out: tuple[int, int]
    tests: int
    """Features that vary, all of which were looked at."""
    significant: int
    """How many of them tell the sets apart at a false discovery rate of 5 %."""
    least_p: float
    """The smallest corrected p value."""
    features: tuple[FoundFeature, ...]
    probe: FoundProbe | None
    """None where no feature is significant."""

    @property
    def condition(self) -> FoundProbe | None:
        """The probe, unless one listed feature does better: what a policy takes in place of the best feature.

        At equal held-out AUROC a sum of several is the steadier on phrasings that neither set has.
        """
        if self.probe is None or len(self.probe.weights) == 1 or self.probe.gain < 0:
            return None
        return self.probe


class Material(NamedTuple):
    """What a search works on."""

    cases: Sequence[Case]
    positive: Tensor
    """`(n,)` bool."""
    chosen: Tensor
    """Rows to choose on."""
    held: Tensor
    """Rows to report on."""
    table: Mapping[int, Tensor]
    """By layer, `(n, d_sae)` largest values over the place."""
    usual: Mapping[int, Tensor]
    """By layer, `(d_sae,)` what the features are in the negatives: their mean over steps, where is chosen."""

    def values(self, feature: Feature) -> Tensor:
        """`(n,)` of a feature."""
        return self.table[feature.layer][:, feature.index]


def read_material(
    loaded: LoadedModel,
    saes: SaeSet,
    positives: Sequence[Case],
    negatives: Sequence[Case],
    *,
    held_out: float = 0.5,
    seed: int = 0,
    report: Report | None = None,
) -> Material:
    """Read both sets in one pass of the model (see `place_maxima` for what is held), and split them.

    Raises:
        SaeError: too few conversations, or so many that the table does not fit.
    """
    check_sites(saes)
    for name, some in (("positive", positives), ("negative", negatives)):
        if len(some) < FEWEST:
            raise SaeError(
                f"{name}: got {len(some)} conversations with a step at the place, expected at least {FEWEST}"
            )
    cases = [*positives, *negatives]
    positive = torch.tensor([True] * len(positives) + [False] * len(negatives))
    chosen, held = split([case.read for case in cases], positive, held_out, seed)
    for rows in (chosen, held):
        least = min(int(positive[rows].sum()), int((~positive[rows]).sum()))
        if least < 2:
            raise SaeError(
                "got too few different conversations to choose on some and report on others; expected more of each set"
            )
    usual = [row for row in chosen.tolist() if not positive[row]]
    found = place_maxima(loaded, saes, cases, usual, report)
    return Material(cases, positive, chosen, held, found.largest, found.mean)


def find(
    loaded: LoadedModel, saes: SaeSet, material: Material, place: Place, *, top: int = 10, most: int = 8, seed: int = 0
) -> Found:
    """Rank the features, list the best `top`, and fit a probe on up to `most` of them.

    Where no feature is significant nothing is listed and no probe is fitted.
    """
    ranking = rank_features(material.table, material.chosen, material.positive)
    significant = ranking.significant
    adjusted = dict(zip(ranking.features, ranking.adjusted.tolist(), strict=True))
    groups = list(grouped(material.table, material.chosen, significant))[:top] if significant else []
    features = tuple(_found_feature(saes, material, one, adjusted[one], alike) for one, alike in groups)
    sides = tuple(
        (int(material.positive[rows].sum()), int((~material.positive[rows]).sum()))
        for rows in (material.chosen, material.held)
    )
    return Found(
        place=place,
        chosen_on=sides[0],
        held_out=sides[1],
        tests=len(ranking.features),
        significant=len(significant),
        least_p=float(ranking.adjusted.min()) if len(ranking.features) else 1.0,
        features=features,
        probe=_found_probe(loaded, saes, material, ranking, features, most, seed) if features else None,
    )


def probe_upto(
    loaded: LoadedModel, saes: SaeSet, material: Material, found: Found, layer: int, *, most: int = 8, seed: int = 0
) -> FoundProbe | None:
    """A probe as `find` fits it, over features of layers up to `layer`; None where none of them is significant."""
    ranking = rank_features(material.table, material.chosen, material.positive)
    early = ranking.upto(layer)
    return _found_probe(loaded, saes, material, early, found.features, most, seed) if early.significant else None


def _found_feature(
    saes: SaeSet, material: Material, feature: Feature, adjusted: float, alike: tuple[Feature, ...]
) -> FoundFeature:
    values, chosen, held = material.values(feature), material.chosen, material.held
    lower = float(auroc(values[chosen].unsqueeze(-1), material.positive[chosen])) < 0.5
    measured = measure(-values if lower else values, material.positive, chosen, held)
    some, labels = values[held], material.positive[held]
    fires = tuple(Share(int((some[side] > 0).sum()), int(side.sum())) for side in (labels, ~labels))
    return FoundFeature(
        feature,
        saes.labels.get(feature, ""),
        lower,
        adjusted,
        measured if not lower else Measured(**{**vars(measured), "bound": -measured.bound}),
        float(effect_size(some.unsqueeze(-1), labels)),
        (fires[0], fires[1]),
        alike,
    )


def measure(scores: Tensor, positive: Tensor, chosen: Tensor, held: Tensor) -> Measured:
    """How scores `(n,)`, larger in the positives, tell the conversations `held` apart, with a bound set on `chosen`."""
    bound = bound_between(scores[chosen][positive[chosen]], scores[chosen][~positive[chosen]], FALSE)
    some, labels = scores[held], positive[held]
    beyond = some > bound
    return Measured(
        float(auroc(some.unsqueeze(-1), labels)),
        auroc_interval(some, labels),
        bound,
        Share(int(beyond[labels].sum()), int(labels.sum())),
        Share(int(beyond[~labels].sum()), int((~labels).sum())),
    )


def _found_probe(
    loaded: LoadedModel,
    saes: SaeSet,
    material: Material,
    ranking: Ranking,
    features: Sequence[FoundFeature],
    most: int,
    seed: int,
) -> FoundProbe:
    """Fitted on the features' largest values; measured as a policy reads it, by the largest sum over the place."""
    screened = ranking.features[:_SCREENED]
    values = torch.stack([material.values(feature)[material.chosen] for feature in screened], dim=1)
    fit = sparse_probe(values, material.positive[material.chosen], most, seed)
    weights = {
        screened[int(column)]: float(f"{float(weight):.6g}")
        for column, weight in zip(fit.columns, fit.weights, strict=True)
    }
    bias = float(f"{fit.bias:.6g}")
    if all(len(case.steps) == 1 for case in material.cases):  # then the largest sum is the sum of what was read
        sums = sum((weight * material.values(feature) for feature, weight in weights.items()), torch.tensor(bias))
    else:
        sums = sum_maxima(loaded, saes, material.cases, weights, bias)
    held, labels = material.held, material.positive[material.held]
    gains = [
        auroc_gain(sums[held], material.values(one.feature)[held] * (-1 if one.lower else 1), labels)
        for one in features
    ]
    gain, p = max(gains, key=lambda pair: pair[1])
    return FoundProbe(weights, bias, measure(sums, material.positive, material.chosen, material.held), gain, p)
