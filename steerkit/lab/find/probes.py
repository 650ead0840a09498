"""Probes of a search, on a few features and on raw activations: fitted on one half, measured on the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from steerkit.engine import LoadedModel
from steerkit.lab.cases import largest_sums, sums_at
from steerkit.lab.copies import dealt
from steerkit.lab.material import Material, Reading
from steerkit.lab.measured import Measured, measure
from steerkit.lab.ranking import LEVEL, Ranking, rank_features
from steerkit.lab.sparse_probe import FOLDS, activation_probe, sparse_probe
from steerkit.lab.two_sample import auroc, auroc_gain, mann_whitney
from steerkit.sae import SaeSet
from steerkit.sites import Feature, Site
from steerkit.types import Place

MEAN_OVER: Final = 8
"""Tokens of a rolling mean: at the text of users and at results it finds more than single tokens
(benchmarks/detectors.py)."""
_SCREENED: Final = 1_000  # features that a probe chooses among


@dataclass(frozen=True)
class FoundProbe:
    """A weighted sum of a few features, or of all activations of some sites."""

    weights: Mapping[Feature, float]
    """Empty where it reads activations."""
    bias: float
    measured: Measured
    gain: float
    """By how much its held-out AUROC exceeds that of the hardest to beat: of features one of those listed, of
    activations the condition on features; where there is none, that of chance."""
    p: float
    """The largest one-sided p value of DeLong's paired tests against each of these; against chance the rank-sum
    test's."""
    sums: Tensor = field(compare=False)
    """`(n,)` largest sum over the place of each conversation."""
    vectors: Mapping[Site, Tensor] = field(default_factory=dict, compare=False)
    """`(width,)` weights of the activations by site; empty where it reads features."""
    place: Place | None = None
    """Where it is read, if not where the sets were searched."""
    mean_over: int | None = None
    """Tokens over whose sums a mean goes, of which the largest counts; None for single tokens."""

    @property
    def beats(self) -> bool:
        """True if it is better on held-out conversations than all that it is compared with."""
        return self.p < LEVEL

    @property
    def described(self) -> str:
        """What is read."""
        if not self.vectors:
            return f"a probe over {len(self.weights)} features"
        first, last = self.sites[0], self.sites[-1]
        window = f", its mean over {self.mean_over} tokens" if self.mean_over is not None else ""
        return f"a probe on raw activations of {first}" + (f" to {last}" if last != first else "") + window

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites that are read, in causal order."""
        return tuple(sorted(self.vectors.keys() | {feature.site for feature in self.weights}))

    def opens(self, material: Material) -> Tensor:
        """`(n,)` bool: the conversations in which the sum is beyond its bound."""
        return self.sums > self.measured.bound

    def scores(self, material: Material) -> Tensor:
        """`(n,)` by which it tells the sets apart, larger in positives."""
        return self.sums


class Measurable(Protocol):
    """A condition that was measured."""

    @property
    def measured(self) -> Measured:
        """On held-out conversations."""


C = TypeVar("C", bound=Measurable)


def prevailing(on_features: C | None, raw: FoundProbe | None) -> C | FoundProbe | None:
    """The one with the larger Youden's index on held-out conversations; of equal ones features, which can be read.

    A probe on activations that may have told the sets apart by chance is none.
    """
    if raw is None or raw.measured.interval.low <= 0.5:
        return on_features
    return raw if on_features is None or raw.measured.youden > on_features.measured.youden else on_features


class Probes(NamedTuple):
    """Probes on the same sites."""

    on_features: FoundProbe | None
    """None where no feature of them is significant."""
    raw: FoundProbe | None
    """On their activations; None where they were not read."""

    @property
    def best(self) -> FoundProbe | None:
        """The one that a policy takes; None where neither tells the sets apart."""
        return prevailing(self.on_features, self.raw)

    @property
    def other(self) -> FoundProbe | None:
        """The one that it does not take."""
        return self.on_features if self.best is self.raw else self.raw


def feature_probe(
    loaded: LoadedModel,
    saes: SaeSet,
    material: Material,
    ranking: Ranking,
    rivals: Sequence[Tensor],
    *,
    most: int = 8,
    seed: int = 0,
) -> FoundProbe:
    """A sparse probe on the best features, fitted on their largest values; measured as a policy reads it, by the
    largest sum over the place. `rivals` are scores `(n,)` of what it is compared with."""
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
    return FoundProbe(weights, bias, _measured(material, sums), *_beaten(material, sums, rivals), sums)


def raw_probe(
    loaded: LoadedModel, material: Material, sites: Sequence[Site], rival: Tensor | None = None
) -> FoundProbe | None:
    """A ridge probe on the activations of some sites, fitted on their means over the place or over the results of tools
    before it; measured as a policy reads it, by the largest sum, or by the largest mean of some. Of these the one with
    the largest Youden's index on held-out conversations, of equal ones the simplest. None where activations were not
    read. `rival` are scores `(n,)` of what it is compared with."""
    rivals = [] if rival is None else [rival]
    tried = [one for reading in material.readings for one in raw_probes_at(loaded, material, reading, sites, rivals)]
    return max(tried, key=lambda one: one.measured.youden, default=None)  # the first of equal ones


def raw_probes_at(
    loaded: LoadedModel, material: Material, reading: Reading, sites: Sequence[Site], rivals: Sequence[Tensor]
) -> list[FoundProbe]:
    """The probe at a place, by single tokens and, where that has several, by means over `MEAN_OVER`."""
    read = {site: reading.activations[site] for site in sites}
    rows = material.chosen[torch.isin(material.chosen, reading.rows)]
    chosen = {site: values[rows] for site, values in read.items()}
    vectors, bias = activation_probe(chosen, material.positive[rows], material.weights[rows])
    bias = float(f"{bias:.6g}")

    def along(site: Site, x: Tensor) -> Tensor:
        return x.float().cpu() @ vectors[site]

    cases = [reading.cases[row] for row in reading.rows.tolist()]
    windows = (None, MEAN_OVER) if any(len(case.steps) > 1 for case in cases) else (None,)
    largest = [_summed({site: values[reading.rows] for site, values in read.items()}, vectors) + bias]
    if len(windows) > 1:
        largest = largest_sums(loaded, cases, sites, along, bias, windows, reading.kept)
    found = []
    for window, here in zip(windows, largest, strict=True):
        sums = torch.full((len(material.cases),), float(here.min()))  # of one without steps there, which never opens
        sums[reading.rows] = here
        gain, p = _beaten(material, sums, rivals)
        found.append(FoundProbe({}, bias, _measured(material, sums), gain, p, sums, vectors, reading.place, window))
    return found


def probes_upto(
    loaded: LoadedModel,
    saes: SaeSet,
    material: Material,
    rivals: Sequence[Tensor],
    site: Site,
    *,
    most: int = 8,
    seed: int = 0,
) -> Probes:
    """Probes on the sites up to `site`. `rivals` are scores `(n,)` of what the one on features is compared with."""
    early = rank_features(material.table, material.chosen, material.positive, material.weights).upto(site)
    on_features = None
    if early.significant:
        on_features = feature_probe(loaded, saes, material, early, rivals, most=most, seed=seed)
    sites = [one for one in material.activations if one <= site]
    return Probes(on_features, raw_probe(loaded, material, sites, on_features.sums if on_features else None))


def gate_areas(material: Material, sites: Sequence[Site], *, most: int = 8, seed: int = 0) -> dict[Site, float]:
    """By site, the cross-validated AUROC of a probe on sites up to it, on the conversations that are chosen on: of one
    on features or of one on activations, whichever is larger.

    Features are ranked and the probes are fitted without the fold that they are measured on.
    """
    rows, labels = material.chosen, material.positive[material.chosen]
    folds = dealt([material.groups[row] for row in rows.tolist()], labels, FOLDS, seed)
    areas = {site: torch.zeros(2) for site in sites}
    for fold in range(FOLDS):
        kept, left = rows[folds != fold], rows[folds == fold]
        ranking = rank_features(material.table, kept, material.positive, material.weights)
        for site in sites:
            sums = [_features_left(material, ranking.upto(site), kept, left, most, seed)]
            sums += [_activations_left(material, site, kept, left)] if material.activations else []
            found = auroc(torch.stack(sums, dim=1), material.positive[left], material.weights[left])
            areas[site][: len(sums)] += found.float() / FOLDS
    return {site: float(found.max()) for site, found in areas.items()}


def _features_left(material: Material, ranking: Ranking, kept: Tensor, left: Tensor, most: int, seed: int) -> Tensor:
    """The sums of some rows by a probe on features that was fitted on others."""
    nothing = torch.zeros(len(material.cases))
    values = torch.stack([nothing, *map(material.values, ranking.features[:_SCREENED])], dim=1)
    groups = [material.groups[row] for row in kept.tolist()]
    return sparse_probe(values[kept], material.positive[kept], most, seed, groups)(values[left])


def _activations_left(material: Material, site: Site, kept: Tensor, left: Tensor) -> Tensor:
    """The same by a probe on the activations of sites up to one."""
    read = {one: values for one, values in material.activations.items() if one <= site}
    fitted = {one: values[kept] for one, values in read.items()}
    vectors, bias = activation_probe(fitted, material.positive[kept], material.weights[kept])
    return _summed({one: values[left] for one, values in read.items()}, vectors) + bias


def _summed(read: Mapping[Site, Tensor], vectors: Mapping[Site, Tensor]) -> Tensor:
    """`(n,)` activations `(n, width)` along vectors `(width,)`, over all sites."""
    return torch.stack([read[site] @ vector for site, vector in vectors.items()]).sum(dim=0)


def _measured(material: Material, scores: Tensor) -> Measured:
    return measure(scores, material.positive, material.chosen, material.held, material.groups)


def _beaten(material: Material, scores: Tensor, rivals: Sequence[Tensor]) -> tuple[float, float]:
    """Gain over the hardest of the rivals to beat, by AUROC, and its p value."""
    held = material.held
    some, labels, weights = scores[held], material.positive[held], material.weights[held]
    if not rivals:
        column = some.unsqueeze(-1)
        return float(auroc(column, labels, weights)) - 0.5, float(mann_whitney(column, labels, weights))
    return max((auroc_gain(some, one[held], labels, weights) for one in rivals), key=lambda pair: pair[1])
