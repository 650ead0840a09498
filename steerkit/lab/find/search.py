"""From two sets of conversations to the features, and the sparse probe, that tell them apart: `steerkit features find`.

Features are ranked, the probe is fitted and every bound is set on one part of the conversations; what is reported of
them is measured on the other part. Copies of one conversation (see `copies.py`) stand on one side and count once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final

import torch

from steerkit.engine import LoadedModel
from steerkit.lab.cases import sums_at
from steerkit.lab.copies import dealt
from steerkit.lab.extra import check_extra
from steerkit.lab.material import FEWEST as FEWEST  # names of a search, wherever they live
from steerkit.lab.material import Material as Material
from steerkit.lab.material import read_material as read_material
from steerkit.lab.measured import Measured as Measured
from steerkit.lab.measured import Share as Share
from steerkit.lab.measured import measure as measure
from steerkit.lab.measured import shares
from steerkit.lab.ranking import LEVEL, Ranking, grouped, rank_features
from steerkit.lab.sparse_probe import FOLDS, sparse_probe
from steerkit.lab.two_sample import auroc, auroc_gain, effect_size, least_mann_whitney
from steerkit.sae import SaeSet
from steerkit.sites import Feature, Site
from steerkit.types import Place

_SCREENED: Final = 1_000  # features that the probe chooses among


@dataclass(frozen=True)
class FoundFeature:
    """One feature that tells the sets apart, with those that are like it."""

    feature: Feature
    label: str
    lower: bool
    """Lower in the positives; then beyond the bound is below it."""
    adjusted_p: float
    """p value where it was chosen, corrected for all features that were looked at."""
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
        """True if it is better on held-out conversations than every listed feature."""
        return self.p < LEVEL


@dataclass(frozen=True)
class Found:
    """The answer."""

    place: Place
    chosen_on: tuple[int, int]
    """Positives and negatives on which features, probe and bounds were chosen; copies count once."""
    held_out: tuple[int, int]
    tests: int
    """Features that vary, all of which were looked at."""
    significant: int
    """Tests that are significant at a false discovery rate of 5 %."""
    least_p: float
    """The smallest corrected p value."""
    possible_p: float
    """Corrected p of one feature that told the sets wholly apart where features are chosen."""
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


def find(
    loaded: LoadedModel, saes: SaeSet, material: Material, place: Place, *, top: int = 10, most: int = 8, seed: int = 0
) -> Found:
    """Rank the features, list the best `top`, and fit a probe on up to `most` of them.

    Where no feature is significant nothing is listed and no probe is fitted.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    check_extra("finding features")
    ranking = rank_features(material.table, material.chosen, material.positive, material.weights)
    significant = ranking.significant
    adjusted = dict(zip(ranking.features, ranking.adjusted.tolist(), strict=True))
    groups = list(grouped(material.table, material.chosen, significant))[:top] if significant else []
    features = tuple(_found_feature(saes, material, one, adjusted[one], alike) for one, alike in groups)
    chosen_on = material.counts(material.chosen)
    return Found(
        place=place,
        chosen_on=chosen_on,
        held_out=material.counts(material.held),
        tests=len(ranking.features),
        significant=len(significant),
        least_p=float(ranking.adjusted.min()) if len(ranking.features) else 1.0,
        possible_p=min(1.0, len(ranking.features) * least_mann_whitney(*chosen_on)),
        features=features,
        probe=_found_probe(loaded, saes, material, ranking, features, most, seed) if features else None,
    )


def fewest_to_choose_on(tests: int) -> int:
    """Conversations of each set that it takes before one feature of so many can be significant."""
    return next(number for number in count(2) if tests * least_mann_whitney(number, number) <= LEVEL)


def probe_upto(
    loaded: LoadedModel, saes: SaeSet, material: Material, found: Found, site: Site, *, most: int = 8, seed: int = 0
) -> FoundProbe | None:
    """A probe as `find` fits it, over features of sites up to `site`; None where none of them is significant."""
    ranking = rank_features(material.table, material.chosen, material.positive, material.weights)
    early = ranking.upto(site)
    return _found_probe(loaded, saes, material, early, found.features, most, seed) if early.significant else None


def gate_areas(material: Material, sites: Sequence[Site], *, most: int = 8, seed: int = 0) -> dict[Site, float]:
    """By site, the cross-validated AUROC of a probe over features of sites up to it, on the conversations chosen on.

    Features are ranked and the probe is fitted without the fold that it is measured on.
    """
    rows, labels = material.chosen, material.positive[material.chosen]
    folds = dealt([material.groups[row] for row in rows.tolist()], labels, FOLDS, seed)
    areas = dict.fromkeys(sites, 0.0)
    for fold in range(FOLDS):
        kept, left = rows[folds != fold], rows[folds == fold]
        groups = [material.groups[row] for row in kept.tolist()]
        ranking = rank_features(material.table, kept, material.positive, material.weights)
        for site in sites:
            screened = ranking.upto(site).features[:_SCREENED]
            values = torch.stack([torch.zeros(len(material.cases)), *map(material.values, screened)], dim=1)
            fit = sparse_probe(values[kept], material.positive[kept], most, seed, groups)
            sums = fit(values[left]).unsqueeze(-1)
            areas[site] += float(auroc(sums, material.positive[left], material.weights[left])) / FOLDS
    return areas


def _found_feature(
    saes: SaeSet, material: Material, feature: Feature, adjusted: float, alike: tuple[Feature, ...]
) -> FoundFeature:
    values, chosen, held, weights = material.values(feature), material.chosen, material.held, material.weights
    lower = float(auroc(values[chosen].unsqueeze(-1), material.positive[chosen], weights[chosen])) < 0.5
    measured = measure(-values if lower else values, material.positive, chosen, held, material.groups)
    some, labels = values[held], material.positive[held]
    groups = [material.groups[row] for row in held.tolist()]
    fires = shares(some > 0, labels, groups)
    return FoundFeature(
        feature,
        saes.labels.get(feature, ""),
        lower,
        adjusted,
        measured if not lower else Measured(**{**vars(measured), "bound": -measured.bound}),
        float(effect_size(some.unsqueeze(-1), labels, weights[held])),
        fires,
        alike,
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
    groups = [material.groups[row] for row in material.chosen.tolist()]
    fit = sparse_probe(values, material.positive[material.chosen], most, seed, groups)
    weights = {
        screened[int(column)]: float(f"{float(weight):.6g}")
        for column, weight in zip(fit.columns, fit.weights, strict=True)
    }
    bias = float(f"{fit.bias:.6g}")
    sums = sums_at(loaded, saes, material.cases, material.table, weights, bias)
    held, labels, counted = material.held, material.positive[material.held], material.weights[material.held]
    gains = [
        auroc_gain(sums[held], material.values(one.feature)[held] * (-1 if one.lower else 1), labels, counted)
        for one in features
    ]
    gain, p = max(gains, key=lambda pair: pair[1])
    measured = measure(sums, material.positive, material.chosen, held, material.groups)
    return FoundProbe(weights, bias, measured, gain, p)
