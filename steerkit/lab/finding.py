"""From two sets of conversations to the features, and the sparse probe, that tell them apart: `steerkit features find`.

Features are ranked, the probe is fitted and every bound is set on one part of the conversations; what is reported of
them is measured on the other part. Copies of one conversation (see `copies.py`) stand on one side and count once.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Final

import torch
from torch import Tensor

from steerkit.engine import LoadedModel
from steerkit.errors import SaeError
from steerkit.lab.copies import Copies, copies_of, weights_of
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
    least_mann_whitney,
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
_SIDES: Final = (True, False)


@dataclass(frozen=True)
class Share:
    """A measured share with its Wilson interval."""

    hits: float
    """A whole number where no row is another's copy."""
    count: int

    @classmethod
    def of(cls, hits: Sequence[bool], groups: Sequence[Hashable] | None = None) -> Share:
        """The share of hits, to which each group brings the share of its own rows (default: each row a group)."""
        found: dict[Hashable, list[bool]] = {}
        for group, hit in zip(range(len(hits)) if groups is None else groups, hits, strict=True):
            found.setdefault(group, []).append(hit)
        total = round(sum(sum(some) / len(some) for some in found.values()), 9)
        return cls(int(total) if total == int(total) else total, len(found))

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
    """Chosen on the other part so that a new negative is beyond it with a chance of at most 1 %, or of 1 / (n + 1)
    where n are too few for that; raw activation, or a probe's sum."""
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
    """Positives and negatives on which features, probe and bounds were chosen; copies count once."""
    held_out: tuple[int, int]
    tests: int
    """Features that vary, all of which were looked at."""
    significant: int
    """How many of them tell the sets apart at a false discovery rate of 5 %."""
    least_p: float
    """The smallest corrected p value."""
    possible_p: float
    """What it would be of one feature that told the sets wholly apart where features are chosen."""
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


@dataclass(frozen=True, eq=False)
class Material:
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
    groups: Sequence[int] = ()
    """Of each row, which conversations it is a copy of (default: `copies_among`)."""
    notes: tuple[str, ...] = ()
    """What was left out or counts once, in words."""

    def __post_init__(self) -> None:
        if not self.groups:
            object.__setattr__(self, "groups", copies_among(self.cases).groups)

    @cached_property
    def weights(self) -> Tensor:
        """`(n,)` by which the copies of a conversation count once together."""
        return weights_of(self.groups, self.positive)

    def values(self, feature: Feature) -> Tensor:
        """`(n,)` of a feature."""
        return self.table[feature.layer][:, feature.index]

    def counts(self, rows: Tensor) -> tuple[int, int]:
        """Positives and negatives among some rows; copies count once."""
        found = [
            len({self.groups[row] for row in rows.tolist() if bool(self.positive[row]) is side}) for side in _SIDES
        ]
        return found[0], found[1]


def copies_among(cases: Sequence[Case]) -> Copies:
    """Conversations that are equal, near-copies, or of one group as their rows say."""
    return copies_of([[case.read] for case in cases], [case.said for case in cases], [case.group for case in cases])


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

    Exact copies are dropped, and so are conversations that stand in both sets; groups of near-copies, and of rows that
    name one group, fall on one side of the split and count once.

    Raises:
        SaeError: too few conversations, or so many that the table does not fit.
    """
    check_sites(saes)
    sets, notes = _distinct(positives, negatives)
    cases = [*sets[0], *sets[1]]
    positive = torch.tensor([True] * len(sets[0]) + [False] * len(sets[1]), dtype=torch.bool)
    groups, alike = copies_among(cases)
    for name, some, side in (("positive", positives, True), ("negative", negatives, False)):
        own = [group for group, one in zip(groups, positive.tolist(), strict=True) if one is side]
        if len(some) < FEWEST:
            raise SaeError(
                f"{name}: got {len(some)} conversations with a step at the place, expected at least {FEWEST}"
            )
        if len(set(own)) < FEWEST:
            raise SaeError(
                f"{name}: got too few different conversations, {len(set(own))} among {len(some)} rows with a step at "
                f"the place (copies and near-copies count once, unless rows name a group of their own), expected at "
                f"least {FEWEST}"
            )
        if len(set(own)) < len(own):
            notes.append(
                f"{name}: {len(own)} conversations are {len(set(own))} groups of near-copies, or of rows that "
                f"name one group; each counts once"
            )
    if 2 * alike > len(cases):
        notes.append(
            f"{alike} of {len(cases)} conversations are much like another; where they were made from few templates, "
            f"give the rows of each a key group, so that it counts once"
        )
    chosen, held = split(groups, positive, held_out, seed)
    for rows in (chosen, held):
        sides = [{groups[row] for row in rows.tolist() if bool(positive[row]) is side} for side in _SIDES]
        if min(map(len, sides)) < 2:
            raise SaeError(
                "got too few different conversations to choose on some and report on others; expected more of each set"
            )
    usual = [row for row in chosen.tolist() if not positive[row]]
    found = place_maxima(loaded, saes, cases, usual, report)
    return Material(cases, positive, chosen, held, found.largest, found.mean, groups, tuple(notes))


def _distinct(positives: Sequence[Case], negatives: Sequence[Case]) -> tuple[list[list[Case]], list[str]]:
    """Both sets without copies and without what stands in both, and what was dropped, in words."""
    both = {case.read for case in positives} & {case.read for case in negatives}
    found, notes = [], list[str]()
    for name, cases in (("positive", positives), ("negative", negatives)):
        unique = list({case.read: case for case in reversed(cases)}.values())[::-1]
        found.append([case for case in unique if case.read not in both])
        if len(unique) < len(cases):
            notes.append(
                f"{name}: {len(cases) - len(unique)} of {len(cases)} conversations are copies of others; dropped"
            )
    if both:
        notes.append(f"{len(both)} conversations stand in both sets, so that they show neither; dropped from both")
    return found, notes


def find(
    loaded: LoadedModel, saes: SaeSet, material: Material, place: Place, *, top: int = 10, most: int = 8, seed: int = 0
) -> Found:
    """Rank the features, list the best `top`, and fit a probe on up to `most` of them.

    Where no feature is significant nothing is listed and no probe is fitted.
    """
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
    """How many of each set it takes before one feature of so many that tells them wholly apart is significant."""
    return next(number for number in count(2) if tests * least_mann_whitney(number, number) <= LEVEL)


def probe_upto(
    loaded: LoadedModel, saes: SaeSet, material: Material, found: Found, layer: int, *, most: int = 8, seed: int = 0
) -> FoundProbe | None:
    """A probe as `find` fits it, over features of layers up to `layer`; None where none of them is significant."""
    ranking = rank_features(material.table, material.chosen, material.positive, material.weights)
    early = ranking.upto(layer)
    return _found_probe(loaded, saes, material, early, found.features, most, seed) if early.significant else None


def _found_feature(
    saes: SaeSet, material: Material, feature: Feature, adjusted: float, alike: tuple[Feature, ...]
) -> FoundFeature:
    values, chosen, held, weights = material.values(feature), material.chosen, material.held, material.weights
    lower = float(auroc(values[chosen].unsqueeze(-1), material.positive[chosen], weights[chosen])) < 0.5
    measured = measure(-values if lower else values, material.positive, chosen, held, material.groups)
    some, labels = values[held], material.positive[held]
    groups = [material.groups[row] for row in held.tolist()]
    fires = _shares(some > 0, labels, groups)
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


def measure(
    scores: Tensor, positive: Tensor, chosen: Tensor, held: Tensor, groups: Sequence[Hashable] | None = None
) -> Measured:
    """How scores `(n,)`, larger in the positives, tell the conversations `held` apart, with a bound set on `chosen`.

    Rows of one of the `groups` `(n,)` count once together.
    """
    named = range(len(scores)) if groups is None else groups
    weights, labels = weights_of(named, positive), positive[held]
    first, other = (chosen[positive[chosen] == side] for side in _SIDES)
    bound = bound_between(scores[first], scores[other], FALSE, weights[other])
    some = scores[held]
    recall, false = _shares(some > bound, labels, [named[row] for row in held.tolist()])
    area = float(auroc(some.unsqueeze(-1), labels, weights[held]))
    return Measured(area, auroc_interval(some, labels, weights[held]), bound, recall, false)


def _shares(hits: Tensor, positive: Tensor, groups: Sequence[Hashable]) -> tuple[Share, Share]:
    """Of the positives and of the negatives."""
    rows = list(zip(hits.tolist(), positive.tolist(), groups, strict=True))
    parts = [[(hit, group) for hit, one, group in rows if one is side] for side in _SIDES]
    found = [Share.of([hit for hit, _ in part], [group for _, group in part]) for part in parts]
    return found[0], found[1]


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
    if all(len(case.steps) == 1 for case in material.cases):  # then the largest sum is the sum of what was read
        sums = sum((weight * material.values(feature) for feature, weight in weights.items()), torch.tensor(bias))
    else:
        sums = sum_maxima(loaded, saes, material.cases, weights, bias)
    held, labels, counted = material.held, material.positive[material.held], material.weights[material.held]
    gains = [
        auroc_gain(sums[held], material.values(one.feature)[held] * (-1 if one.lower else 1), labels, counted)
        for one in features
    ]
    gain, p = max(gains, key=lambda pair: pair[1])
    measured = measure(sums, material.positive, material.chosen, held, material.groups)
    return FoundProbe(weights, bias, measured, gain, p)
