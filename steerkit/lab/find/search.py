"""From two sets of conversations to the features, and the probes, that tell them apart: `steerkit features find`.

Features are ranked, probes are fitted and every bound is set on one part of the conversations; what is reported of
them is measured on the other part. Copies of one conversation (see `copies.py`) stand on one side and count once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count
from typing import TypeAlias

from torch import Tensor

from steerkit.engine import LoadedModel
from steerkit.lab.extra import check_extra
from steerkit.lab.find.probes import FoundProbe, feature_probe, prevailing, raw_probe
from steerkit.lab.material import FEWEST as FEWEST  # names of a search, wherever they live
from steerkit.lab.material import Material as Material
from steerkit.lab.material import read_material as read_material
from steerkit.lab.measured import Measured as Measured
from steerkit.lab.measured import Share as Share
from steerkit.lab.measured import measure as measure
from steerkit.lab.measured import shares
from steerkit.lab.ranking import LEVEL, grouped, rank_features
from steerkit.lab.two_sample import auroc, effect_size, least_mann_whitney
from steerkit.sae import SaeSet
from steerkit.sites import Feature, Site
from steerkit.types import Place


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

    @property
    def described(self) -> str:
        """What is read."""
        return "one feature"

    @property
    def sites(self) -> tuple[Site, ...]:
        """The site that it is read at."""
        return (self.feature.site,)

    def opens(self, material: Material) -> Tensor:
        """`(n,)` bool: the conversations in which it is beyond its bound."""
        values = material.values(self.feature)
        return values < self.measured.bound if self.lower else values > self.measured.bound

    def scores(self, material: Material) -> Tensor:
        """`(n,)` by which it tells the sets apart, larger in positives."""
        return material.values(self.feature) * (-1 if self.lower else 1)


Condition: TypeAlias = FoundProbe | FoundFeature
"""What a guard's rule or a gate compares with its bound."""


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
    """On features; None where none is significant."""
    raw: FoundProbe | None = None
    """On the activations of all sites, beside it; None where they were not read."""

    @property
    def on_features(self) -> Condition | None:
        """The probe on features, unless one listed feature does better; None where none is significant.

        At equal held-out AUROC a sum of several is the steadier on phrasings that neither set has.
        """
        if self.probe is None or len(self.probe.weights) == 1 or self.probe.gain < 0:
            return self.features[0] if self.features else None
        return self.probe

    @property
    def condition(self) -> Condition | None:
        """What a policy compares: the probe on activations where it does better than features, else these."""
        return prevailing(self.on_features, self.raw)


def find(
    loaded: LoadedModel, saes: SaeSet, material: Material, place: Place, *, top: int = 10, most: int = 8, seed: int = 0
) -> Found:
    """Rank the features, list the best `top`, and fit a probe on up to `most` of them, and one on raw activations.

    Where no feature is significant nothing is listed and no probe on features is fitted.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    check_extra("finding features")
    ranking = rank_features(material.table, material.chosen, material.positive, material.weights)
    significant = ranking.significant
    adjusted = dict(zip(ranking.features, ranking.adjusted.tolist(), strict=True))
    groups = list(grouped(material.table, material.chosen, significant))[:top] if significant else []
    features = tuple(_found_feature(saes, material, one, adjusted[one], alike) for one, alike in groups)
    rivals = [one.scores(material) for one in features]
    probe = feature_probe(loaded, saes, material, ranking, rivals, most=most, seed=seed) if features else None
    chosen_on = material.counts(material.chosen)
    found = Found(
        place=place,
        chosen_on=chosen_on,
        held_out=material.counts(material.held),
        tests=len(ranking.features),
        significant=len(significant),
        least_p=float(ranking.adjusted.min()) if len(ranking.features) else 1.0,
        possible_p=min(1.0, len(ranking.features) * least_mann_whitney(*chosen_on)),
        features=features,
        probe=probe,
    )
    rival = found.on_features
    scores = rival.scores(material) if rival is not None else None
    return replace(found, raw=raw_probe(loaded, material, list(material.activations), scores))


def fewest_to_choose_on(tests: int) -> int:
    """Conversations of each set that it takes before one feature of so many can be significant."""
    return next(number for number in count(2) if tests * least_mann_whitney(number, number) <= LEVEL)


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
