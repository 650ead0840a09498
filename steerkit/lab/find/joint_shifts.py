"""Shifts over several sites, chosen together: few decoder rows that rebuild the way from a call to no call.

Where every layer holds a part of a decision, no single layer's features turn it. The difference of the mean activations
at the deciding step, conversations that make no call minus requests, turns it from several layers at once; a few
decoder rows of each layer's SAE rebuild that difference, and shifts of their features write it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from steerkit.lab.copies import dealt
from steerkit.lab.find.attempt import ENOUGH, KEPT, STRENGTHS, Attempt
from steerkit.lab.find.decisions import Decisions
from steerkit.lab.find.decoder_rows import rebuilt
from steerkit.lab.find.search import gate_areas
from steerkit.lab.interventions import Interventions
from steerkit.lab.prefilled import Outcome
from steerkit.sites import Site

SIZES: Final = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
"""Numbers of rows to try, over all sites; the fewest that suffice are taken."""
FOLDS: Final = 4
FEWEST: Final = 4
"""Negatives without a call that a direction takes; with fewer it is that from requests to all negatives."""
_NEARLY: Final = 0.01  # of AUROC: what a gate may lose by being read early


class Useful(NamedTuple):
    """The direction that turns a call at each site, `(width,)`, and what it is worth there in log-odds."""

    directions: dict[Site, Tensor]
    worth: dict[Site, float]
    """The loss of the call's log-odds along the complete direction, by the gradient; below 0 where it gains."""


class _Dose(NamedTuple):
    """A number of rows at a strength, on conversations that the rows were not chosen on."""

    size: int
    strength: float
    turned: float
    """Share of the calls that are no longer opened."""
    kept: float
    """Share of the negatives' decisions that stay, of the kind of negatives that fares worse."""


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


def choose_shifts(decisions: Decisions, strength: float | None, most: int, seed: int) -> Attempt | None:
    """The fewest shifts over all sites that keep calls from being opened; None where nothing says how.

    Numbers of rows and strengths are judged by cross-validation: the direction and its rows come from three quarters of
    the conversations, and what they do is measured on the fourth. Taken are the fewest rows with which a strength turns
    95 % of the calls and keeps 95 % of the negatives' decisions. Where none keep them, the edits get a gate, and so
    begin no earlier than the first site up to which the sets can be told apart about as well as by all sites; then
    taken are the fewest that turn the calls, one strength further.

    Args:
        decisions: the conversations.
        strength: None tries all of `STRENGTHS`.
        most: features that a gate may combine.
        seed: of the folds.
    """
    positives, negatives = decisions.positives(held=False), decisions.negatives(held=False)
    if int((positives.plain > 0).sum()) < 2 * FOLDS:
        return None
    found = useful(positives, negatives)
    worth, ladder = found.worth, STRENGTHS if strength is None else (strength,)
    dose = _taken(_tried(decisions, worth, ladder, seed))
    gated = dose is not None and dose.kept < KEPT
    if gated:
        begins = _first_told(decisions, [site for site, value in worth.items() if value > 0], most, seed)
        late = {site: value if site >= begins else 0.0 for site, value in worth.items()}
        if late != worth:
            worth, dose = late, _taken(_tried(decisions, late, ladder, seed))
    if dose is None:
        return None
    times = dose.strength
    if gated and dose.turned >= ENOUGH:
        times = ladder[min(ladder.index(times) + 1, len(ladder) - 1)]
    (rows,) = rebuilt(decisions.saes, found.directions, worth, [dose.size])
    edits = {feature: {"shift": times * shift} for feature, shift in rows.shifts.items()}
    return Attempt("shifts over layers", times, edits, gated=gated)


def _first_told(decisions: Decisions, sites: Sequence[Site], most: int, seed: int) -> Site:
    """The first site up to which features tell the sets apart nearly as well as up to any."""
    areas = gate_areas(decisions.material, sites, most=most, seed=seed)
    return next(site for site, area in areas.items() if area >= max(areas.values()) - _NEARLY)


def _taken(tried: Sequence[_Dose]) -> _Dose | None:
    """The fewest rows that turn and keep enough, else that turn enough; else what turns most. None of nothing."""
    turning = [one for one in tried if one.turned >= ENOUGH]
    enough = [one for one in turning if one.kept >= KEPT] or turning
    if enough:
        return min(enough, key=lambda one: (one.size, one.strength))
    return max(tried, key=lambda one: (one.turned, -one.size, -one.strength), default=None)


def _tried(decisions: Decisions, worth: Mapping[Site, float], ladder: Sequence[float], seed: int) -> list[_Dose]:
    """By cross-validation, each number of rows up to the gentlest strength that is enough."""
    positives, negatives = sides = decisions.positives(held=False), decisions.negatives(held=False)
    folds = [dealt(range(len(one.plain)), torch.ones(len(one.plain)) > 0, FOLDS, seed) for one in sides]
    parts = []
    for fold in range(FOLDS):
        left = useful(positives, negatives, folds[0] != fold, folds[1] != fold)
        own = {site: value if worth[site] > 0 else 0.0 for site, value in left.worth.items()}
        parts.append([rows.vectors(decisions.saes) for rows in rebuilt(decisions.saes, left.directions, own, SIZES)])
    found = list[_Dose]()
    for number, size in enumerate(SIZES):
        written = [_by_row([part[number] for part in parts], fold) for fold in folds]
        if not written[0]:
            return []
        for dose in ladder:
            after = [
                one.along({s: dose * v for s, v in rows.items()}) for one, rows in zip(sides, written, strict=True)
            ]
            found.append(
                _Dose(size, dose, float(positives.turned(after[0]).float().mean()), kept_share(negatives, after[1]))
            )
            if found[-1].turned >= ENOUGH:
                break
        last = found[-1]
        if last.turned >= ENOUGH and (last.kept >= KEPT or last.strength == ladder[0]):
            break  # more rows come no nearer to a gentler edit
    return found


def _by_row(vectors: Sequence[dict[Site, Tensor]], folds: Tensor) -> dict[Site, Tensor]:
    """`(n, width)` by site: of each conversation what was chosen without its fold; 0 where that has no rows."""
    sites = {site: vector for part in vectors for site, vector in part.items()}
    return {
        site: torch.stack([part.get(site, torch.zeros_like(like)) for part in vectors])[folds]
        for site, like in sites.items()
    }


def kept_share(negatives: Interventions, after: Outcome) -> float:
    """Share of the decisions that stay as they are, of calls or of what is no call, whichever fares worse."""
    same, calls = after.tokens == negatives.unedited.tokens, negatives.plain > 0
    return min(float(same[kind].float().mean()) for kind in (calls, ~calls) if kind.any())
