"""Edits over several sites, chosen together: the difference of means itself, or few decoder rows that rebuild it.

Where every layer holds a part of a decision, no single layer's features turn it. The difference of the mean activations
at the deciding step, conversations that make no call minus requests, turns it from several layers at once; a few
decoder rows of each layer's SAE rebuild that difference, and shifts of their features write it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Final, NamedTuple, TypeAlias

import torch
from torch import Tensor

from steerkit.lab.copies import dealt
from steerkit.lab.find.attempt import ENOUGH, KEPT, STRENGTHS, Attempt
from steerkit.lab.find.decisions import Decisions
from steerkit.lab.find.decoder_rows import rebuilt
from steerkit.lab.find.probes import gate_areas
from steerkit.lab.interventions import Interventions
from steerkit.lab.prefilled import Outcome
from steerkit.sites import Site

SIZES: Final = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
"""Numbers of rows, or of sites, to try; the fewest that suffice are taken."""
FOLDS: Final = 4
FEWEST: Final = 4
"""Negatives without a call that a direction takes; with fewer it is that from requests to all negatives."""
_NEARLY: Final = 0.01  # of AUROC: what a gate may lose by being read early
_MORE: Final = 0.05  # the same, where edits in later layers alone turn too few calls

Vectors: TypeAlias = dict[Site, Tensor]
"""`(width,)` by site, or `(n, width)` for n conversations."""


class Useful(NamedTuple):
    """The direction that turns a call at each site, `(width,)`, and what it is worth there in log-odds."""

    directions: Vectors
    worth: dict[Site, float]
    """The loss of the call's log-odds along the complete direction, by the gradient; below 0 where it gains."""

    def among(self, sites: Mapping[Site, float]) -> Useful:
        """The same, worth nothing at sites that are worth nothing in `sites`."""
        return self._replace(worth={s: value if sites[s] > 0 else 0.0 for s, value in self.worth.items()})


Build: TypeAlias = Callable[[Useful, Sequence[int]], list[Vectors]]
"""Makes what is added, for each of some sizes in ascending order."""


class _Dose(NamedTuple):
    """A size at a strength, on conversations that it was not chosen on."""

    size: int
    strength: float
    turned: float
    """Share of the calls that are no longer opened."""
    kept: float
    """Share of the negatives' decisions that stay, of the kind of negatives that fares worse."""


class _Chosen(NamedTuple):
    useful: Useful
    size: int
    strength: float
    gated: bool


def useful(
    positives: Interventions, negatives: Interventions, some: Tensor | None = None, others: Tensor | None = None
) -> Useful:
    """Mean activations of the negatives that make no call minus those of the requests, at the deciding step.

    Of conversations `some` `(n,)` and `others` `(m,)` bool, by default of all.
    """
    there, here = negatives.readings(), positives.readings()
    calls = positives.plain > 0 if some is None else (positives.plain > 0) & some
    silent = negatives.plain <= 0 if others is None else (negatives.plain <= 0) & others
    if int(silent.sum()) < FEWEST:
        silent = torch.ones_like(silent) if others is None else others
    directions = {
        site: there.activations[site][silent].mean(dim=0) - here.activations[site][calls].mean(dim=0)
        for site in here.activations
    }
    worth = {site: -float(here.gradients[site][calls].mean(dim=0) @ d) for site, d in directions.items()}
    return Useful(directions, worth)


class JointEdits:
    """Chooses edits over all sites that keep calls from being opened.

    Sizes and strengths are judged by cross-validation: what is added comes from three quarters of the conversations,
    and what it does is measured on the fourth. Taken is the smallest size with which a strength turns 95 % of the calls
    and keeps 95 % of the negatives' decisions. Where none keeps them, the edits get a gate, and so begin no earlier
    than the first site up to which the sets can be told apart about as well as by all sites, or, as long as they turn
    too few calls there, at an earlier one; then taken is the smallest that turns the calls, one strength further.

    Args:
        decisions: the conversations.
        strength: None tries all of `STRENGTHS`.
        most: features that a gate may combine.
        seed: of the folds.
    """

    def __init__(self, decisions: Decisions, strength: float | None, most: int, seed: int) -> None:
        self.decisions, self.most, self.seed = decisions, most, seed
        self.ladder = STRENGTHS if strength is None else (strength,)
        self.sides = decisions.positives(held=False), decisions.negatives(held=False)

    def shifts(self) -> Attempt | None:
        """The fewest decoder rows over all sites; None where nothing says how."""
        saes = self.decisions.saes
        chosen = self._chosen(lambda one, sizes: [r.vectors(saes) for r in rebuilt(saes, *one, sizes)], SIZES)
        if chosen is None:
            return None
        (rows,) = rebuilt(saes, *chosen.useful, [chosen.size])
        edits = {feature: {"shift": chosen.strength * shift} for feature, shift in rows.shifts.items()}
        return Attempt("shifts over layers", chosen.strength, edits, {}, gated=chosen.gated)

    def difference(self) -> Attempt | None:
        """The difference of means at the fewest sites; None where nothing says how."""
        sites = sum(value > 0 for value in self._useful.worth.values())
        sizes = [size for size in SIZES if size < sites]
        chosen = self._chosen(difference_at, [*sizes, sites])
        if chosen is None:
            return None
        (vectors,) = difference_at(chosen.useful, [chosen.size])
        return Attempt("difference of means", chosen.strength, {}, vectors, gated=chosen.gated)

    @cached_property
    def _useful(self) -> Useful:
        return useful(*self.sides)

    @cached_property
    def _begins(self) -> list[Site]:
        """The first site up to which a probe tells the sets apart nearly as well as up to any, and earlier ones that do
        not tell them apart much worse, the last first."""
        sites = [site for site, value in self._useful.worth.items() if value > 0]
        areas = gate_areas(self.decisions.material, sites, most=self.most, seed=self.seed)
        best = max(areas.values())
        first = next(site for site, area in areas.items() if area >= best - _NEARLY)
        return [site for site in reversed(sites) if site <= first and (site == first or areas[site] >= best - _MORE)]

    def _chosen(self, build: Build, sizes: Sequence[int]) -> _Chosen | None:
        if int((self.sides[0].plain > 0).sum()) < 2 * FOLDS:
            return None
        found = self._useful
        dose = _taken(self._tried(build, found.worth, sizes))
        gated = dose is not None and dose.kept < KEPT
        if gated:
            found, dose = self._late(build, found, sizes)
        if dose is None:
            return None
        times = dose.strength
        if gated and dose.turned >= ENOUGH:
            times = self.ladder[min(self.ladder.index(times) + 1, len(self.ladder) - 1)]
        return _Chosen(found, dose.size, times, gated)

    def _late(self, build: Build, found: Useful, sizes: Sequence[int]) -> tuple[Useful, _Dose | None]:
        """The best dose from one of the sites on at which a gate may be read in time, and what is useful there."""
        best: tuple[Useful, _Dose | None] = found, None
        for first in self._begins:
            late = found.among({site: float(site >= first) for site in found.worth})
            dose = _taken(self._tried(build, late.worth, sizes))
            if dose is not None and (best[1] is None or dose.turned > best[1].turned):
                best = late, dose
            if dose is not None and dose.turned >= ENOUGH:
                break
        return best

    def _tried(self, build: Build, worth: Mapping[Site, float], sizes: Sequence[int]) -> list[_Dose]:
        """By cross-validation, each size up to the gentlest strength that is enough."""
        positives, negatives = self.sides
        folds = [dealt(range(len(one.plain)), torch.ones(len(one.plain)) > 0, FOLDS, self.seed) for one in self.sides]
        left = [useful(positives, negatives, folds[0] != fold, folds[1] != fold) for fold in range(FOLDS)]
        parts = [build(one.among(worth), sizes) for one in left]
        found = list[_Dose]()
        for number, size in enumerate(sizes):
            written = [_by_row([part[number] for part in parts], fold) for fold in folds]
            if not written[0]:
                return []
            for dose in self.ladder:
                after = [
                    one.along({site: dose * rows for site, rows in by_site.items()})
                    for one, by_site in zip(self.sides, written, strict=True)
                ]
                turned = float(positives.turned(after[0]).float().mean())
                found.append(_Dose(size, dose, turned, kept_share(negatives, after[1])))
                if turned >= ENOUGH:
                    break
            last = found[-1]
            if last.turned >= ENOUGH and (last.kept >= KEPT or last.strength == self.ladder[0]):
                break  # a larger size comes no nearer to a gentler edit
        return found


def difference_at(found: Useful, sizes: Sequence[int]) -> list[Vectors]:
    """The whole direction, at so many of the sites where it is worth most."""
    best = sorted((site for site, value in found.worth.items() if value > 0), key=lambda site: -found.worth[site])
    return [{site: found.directions[site] for site in best[:size]} for size in sizes]


def _taken(tried: Sequence[_Dose]) -> _Dose | None:
    """The smallest size that turns and keeps enough, else that turns enough; else what turns most. None of nothing."""
    turning = [one for one in tried if one.turned >= ENOUGH]
    enough = [one for one in turning if one.kept >= KEPT] or turning
    if enough:
        return min(enough, key=lambda one: (one.size, one.strength))
    return max(tried, key=lambda one: (one.turned, -one.size, -one.strength), default=None)


def _by_row(vectors: Sequence[Vectors], folds: Tensor) -> Vectors:
    """`(n, width)` by site: of each conversation what was chosen without its fold; 0 where that has nothing."""
    sites = {site: vector for part in vectors for site, vector in part.items()}
    return {
        site: torch.stack([part.get(site, torch.zeros_like(like)) for part in vectors])[folds]
        for site, like in sites.items()
    }


def kept_share(negatives: Interventions, after: Outcome) -> float:
    """Share of the decisions that stay as they are, of calls or of what is no call, whichever fares worse."""
    same, calls = after.tokens == negatives.unedited.tokens, negatives.plain > 0
    return min(float(same[kind].float().mean()) for kind in (calls, ~calls) if kind.any())
