"""Clamps of one layer: the features that hold the decision there, set together to what they are in the negatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch

from steerkit.lab.find.attempt import ENOUGH, STRENGTHS, Attempt, beyond_chance
from steerkit.lab.find.decisions import Decisions
from steerkit.lab.interventions import Edits, Interventions
from steerkit.lab.material import Material
from steerkit.lab.ranking import LEVEL
from steerkit.lab.two_sample import signed_rank
from steerkit.sites import Feature

MOST: Final = 16
"""Features that are edited, at most."""
_FAINT: Final = 0.1  # of the largest estimated effect in the layer: below it a feature is left alone


def choose_clamps(decisions: Decisions, strength: float | None, generator: torch.Generator) -> Attempt | None:
    """Clamps of the layer that decides; None where no layer does more than chance.

    It is the layer whose features, set to what they usually are in the negatives, take most of the call's log-odds
    beyond what random directions of the same length move, of those that do so by a signed-rank test. With p a feature's
    mean in the positives and n what it usually is in the negatives, the clamp is `p + strength * (n - p)`.

    Args:
        decisions: the conversations.
        strength: None takes the dose after the gentlest of `STRENGTHS` that turns 95 % of the calls.
        generator: of the random directions.
    """
    material, chosen = decisions.material, decisions.positives(held=False)
    features = _features(material, chosen, generator)
    if not features:
        return None
    dose = _dose(chosen, material, features) if strength is None else strength
    return Attempt("clamps of one layer", dose, _clamps(material, features, dose), {}, gated=True)


def _features(material: Material, interventions: Interventions, generator: torch.Generator) -> list[Feature]:
    """Features of the deciding layer that favour the call, by the estimate on the chosen rows; none if none do."""
    most, best = 0.0, list[Feature]()
    for site, effects in interventions.estimate(material.usual).items():
        means = effects.mean(dim=0)
        values, indices = means.topk(min(MOST, len(means)))
        strong = (values > 0) & (values >= _FAINT * values[0])
        features = [Feature(site, int(index)) for index in indices[strong]]
        if features:
            edits = _clamps(material, features, 1.0)
            edited, random = interventions.outcome(edits).scores, interventions.random_scores(edits, generator)
            beyond = beyond_chance(interventions.plain, edited, random)
            if signed_rank(beyond) < LEVEL and float(beyond.mean()) > most:
                most, best = float(beyond.mean()), features
    return best


def _clamps(material: Material, features: Sequence[Feature], strength: float) -> Edits:
    rows = material.chosen[material.positive[material.chosen]]
    clamps = {}
    for feature in features:
        there, usual = float(material.values(feature)[rows].mean()), float(material.usual[feature.site][feature.index])
        clamps[feature] = {"clamp": there + strength * (usual - there)}
    return clamps


def _dose(interventions: Interventions, material: Material, features: Sequence[Feature]) -> float:
    """The dose after the gentlest that is enough, or the gentlest of those that turn most."""
    if not (interventions.plain > 0).any():
        return STRENGTHS[0]
    edits = [_clamps(material, features, one) for one in STRENGTHS]
    shares = [float(interventions.turned(interventions.outcome(one)).float().mean()) for one in edits]
    for number, share in enumerate(shares):
        if share >= ENOUGH:
            return STRENGTHS[min(number + 1, len(STRENGTHS) - 1)]
    return STRENGTHS[shares.index(max(shares))]
