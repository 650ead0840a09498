"""The features that cause a decision, among those that tell two sets apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from steerkit.lab.cases import Report
from steerkit.lab.find.decisions import Decisions
from steerkit.lab.find.search import Found
from steerkit.lab.ranking import LEVEL
from steerkit.lab.two_sample import holm, least_signed_rank, signed_rank, spearman
from steerkit.sites import Feature, Site

Verdict: TypeAlias = Literal["causes", "opposes", "only correlates", "cannot tell"]


@dataclass(frozen=True)
class Cause:
    """Effect of one feature on the decision in held-out positives; log-odds throughout, means over conversations."""

    feature: Feature
    label: str
    listed: bool
    """Found by how it tells the sets apart; else its attribution brought it in."""
    attribution: float
    """The estimate of `clamped`, by gradient."""
    ablated: float
    """Loss of the score when it is set to 0 at the place."""
    clamped: float
    """Loss of the score when it is set to its usual value in the negatives."""
    random: float
    """The size of the change under random directions as long as what the clamp writes."""
    p: float
    """One-sided signed-rank p value that the clamp does more than random directions, in the direction it has, corrected
    for all candidates by Holm."""
    least_p: float
    """The smallest p, corrected alike, that the conversations in which the clamp did anything could have shown; where
    it did nothing in any, all of them could."""

    @property
    def verdict(self) -> Verdict:
        """`causes`: without it the score falls; `opposes`: it rises; `only correlates`: neither beyond the control;
        `cannot tell`: so few conversations could not have shown it."""
        if self.p < LEVEL:
            return "causes" if self.clamped > 0 else "opposes"
        return "only correlates" if self.least_p < LEVEL else "cannot tell"


@dataclass(frozen=True)
class Causes:
    """Candidates, the one that does most for the decision first."""

    score: float
    """Mean log-odds of the decision in these conversations as they are."""
    count: int
    """Held-out positives that were edited; of copies one."""
    candidates: tuple[Cause, ...]
    rank_clamped: float
    """Spearman's correlation over the candidates between the estimate and the real clamps; NaN if one is constant."""
    rank_ablated: float
    """Rank correlation of the estimate with ablation."""


def causes(
    decisions: Decisions, found: Found, *, candidates: int = 20, seed: int = 0, report: Report | None = None
) -> Causes:
    """Edit the best features one by one and see what becomes of the decision (see `decision_of`).

    Half of the candidates are the listed features, the rest those whose attribution is largest on the conversations
    that were chosen on. `report` is called with how many of how many candidates are done.
    """
    material, saes = decisions.material, decisions.saes
    listed = [one.feature for one in found.features][: (candidates + 1) // 2]
    strongest = _strongest(decisions.positives(held=False).estimate(material.usual), candidates)
    tried = list(dict.fromkeys([*listed, *strongest]))[:candidates]
    interventions = decisions.positives(held=True)
    usual, nothing = interventions.estimate(material.usual), interventions.estimate()
    generator = torch.Generator().manual_seed(seed)
    effects = []
    for number, feature in enumerate(tried):
        value = float(material.usual[feature.site][feature.index])
        effects.append(interventions.effect(feature, value, generator))
        if report is not None:
            report(number + 1, len(tried))
    guesses = [[float(one[f.site][:, f.index].mean()) for f in tried] for one in (usual, nothing)]
    signed = [one.clamped * (1 if one.clamped.mean() > 0 else -1) - one.random for one in effects]
    p = holm(torch.tensor([signed_rank(one) for one in signed], dtype=torch.float64)).tolist()
    least = [least_p(int((one != 0).sum()) or len(interventions.plain), len(tried)) for one in signed]
    means = torch.tensor([[float(part.mean()) for part in one] for one in effects]).view(-1, 3)
    rows = []
    for number, one in enumerate(tried):
        ablated, clamped, random = means[number].tolist()
        label = saes.labels.get(one, "")
        estimate_here = guesses[0][number]
        rows.append(Cause(one, label, one in listed, estimate_here, ablated, clamped, random, p[number], least[number]))
    return Causes(
        float(interventions.plain.mean()),
        len(interventions.plain),
        tuple(sorted(rows, key=lambda row: (row.p >= LEVEL, -abs(row.clamped)))),
        _agreement(guesses[0], means[:, 1]),
        _agreement(guesses[1], means[:, 0]),
    )


def least_p(conversations: int, candidates: int) -> float:
    """The smallest p value, corrected for all candidates, that so many conversations can show."""
    return min(1.0, candidates * least_signed_rank(conversations))


def fewest_positives(candidates: int) -> int:
    """Held-out positives that it takes to show that any of so many candidates causes the decision."""
    return next(number for number in count(1) if least_p(number, candidates) < LEVEL)


def _strongest(estimate: Mapping[Site, Tensor], count: int) -> list[Feature]:
    """The features whose mean effect is largest by size."""
    found = []
    for site, effects in estimate.items():
        means = effects.mean(dim=0)
        best = means.abs().topk(min(count, len(means))).indices
        found += [(abs(float(means[index])), Feature(site, int(index))) for index in best]
    return [feature for _, feature in sorted(found, reverse=True)[:count]]


def _agreement(guessed: Sequence[float], real: Tensor) -> float:
    return spearman(torch.tensor(guessed), real) if len(guessed) > 1 else float("nan")
