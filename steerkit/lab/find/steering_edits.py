"""Edits that turn a decision where it is made: chosen as a set, dosed as a set, and proven as a set.

Where a model holds what it decides by in many features at once, each of them alone moves little, and the set does what
no single edit shows. So the features of one layer are taken by the gradient's estimate, clamped together, and what
comes of it is measured on conversations that none of this was chosen on, beside random directions of the same length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from steerkit.lab.find.decisions import Decisions
from steerkit.lab.find.search import Found, FoundProbe, probe_upto
from steerkit.lab.interventions import Edits, Interventions
from steerkit.lab.material import Material
from steerkit.lab.measured import Share
from steerkit.lab.ranking import LEVEL
from steerkit.lab.two_sample import least_signed_rank, signed_rank
from steerkit.sites import Feature, Site
from steerkit.types import Place

STEERED_AT: Final[Place] = "reply.start"
"""The place whose decision can be turned: its step decides for the call and is still before it."""
STRENGTHS: Final = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Doses to try, the gentlest first."""
ENOUGH: Final = 0.95
"""Share of the calls that a dose turns where it is chosen; the policy takes the dose after it."""
MOST: Final = 16
"""Features that are edited, at most."""
_FAINT: Final = 0.1  # of the largest estimated effect in the layer: below it a feature is left alone


@dataclass(frozen=True)
class SteeringEdits:
    """Edits of one layer that are made where the reply begins, and what became of held-out positives under them."""

    site: Site
    strength: float
    """Step from a feature's value in the positives towards its value in the negatives; 1 reaches it."""
    edits: Mapping[Feature, float]
    """Raw values that the features are clamped to."""
    gate: FoundProbe | None
    """A condition over features of layers up to this one; None where the one that was found is such a condition."""
    score: float
    """Mean log-odds of the call in the held-out positives as they are."""
    edited: float
    """Mean score under the edits, in log-odds."""
    random: float
    """Mean score under random directions of the same norm."""
    turned: Share
    """Of the held-out positives in which the call is the likeliest token, those in which it no longer is."""
    turned_random: Share
    """Calls that are no longer opened under the random directions."""
    p: float
    """One-sided signed-rank p value that the edits do more than random directions."""
    least_p: float
    """The smallest that so many held-out positives could have shown."""

    @property
    def proven(self) -> bool:
        """True if they do more than chance where they were not chosen."""
        return self.p < LEVEL and self.edited < self.score


def find_steering_edits(
    decisions: Decisions,
    found: Found,
    *,
    strength: float | None = None,
    most: int = 8,
    seed: int = 0,
) -> SteeringEdits | None:
    """Choose edits that keep a call from being opened; None where the search was at another place than `reply.start`,
    where nothing was found, or where no layer both does more than chance and can be read in time.

    The layer is the one whose features, set to what they usually are in the negatives, take most of the call's
    log-odds beyond what random directions of the same length move, of those that do so by a signed-rank test. With p a
    feature's mean in the positives and n what it usually is in the negatives, the clamp is `p + strength * (n - p)`.
    An edit in a layer below those that its condition reads would come a token late, so a condition that reads later
    layers is fitted anew on earlier ones.

    Args:
        decisions: the conversations that were searched.
        found: a search at `reply.start`.
        strength: None takes the dose after the gentlest of `STRENGTHS` that turns 95 % of the calls.
        most: features that a new condition may combine.
        seed: of the random directions and of that condition's fit.
    """
    if found.place != STEERED_AT or not found.features:
        return None
    generator = torch.Generator().manual_seed(seed)
    material, chosen = decisions.material, decisions.positives(held=False)
    features = _features(material, chosen, generator)
    if not features:
        return None
    site = features[0].site
    gate = _gate(decisions, found, site, most, seed)
    if gate is None and _latest(found) > site:
        return None
    if strength is None:
        strength = _dose(chosen, material, features)
    edits = _clamps(material, features, strength)
    held = decisions.positives(held=True)
    edited, random = held.outcome(_as_edits(edits)).scores, held.random_scores(_as_edits(edits), generator)
    calls = held.plain > 0
    p, least = signed_rank(_beyond(held.plain, edited, random)), least_signed_rank(len(held.plain))
    turned = Share(int((edited[calls] <= 0).sum()), int(calls.sum()))
    by_chance = Share(int((random[:, calls] <= 0).sum()), int(calls.sum()) * len(random))
    before, after, chance = (float(one.mean()) for one in (held.plain, edited, random))
    return SteeringEdits(site, strength, edits, gate, before, after, chance, turned, by_chance, p, least)


def _as_edits(clamps: Mapping[Feature, float]) -> Edits:
    return {feature: {"clamp": value} for feature, value in clamps.items()}


def _features(material: Material, interventions: Interventions, generator: torch.Generator) -> list[Feature]:
    """Features of the deciding layer that favour the call, by the estimate on the chosen rows; none if none do."""
    most, best = 0.0, list[Feature]()
    for site, effects in interventions.estimate(material.usual).items():
        means = effects.mean(dim=0)
        values, indices = means.topk(min(MOST, len(means)))
        strong = (values > 0) & (values >= _FAINT * values[0])
        features = [Feature(site, int(index)) for index in indices[strong]]
        if features:
            edits = _as_edits(_clamps(material, features, 1.0))
            edited, random = interventions.outcome(edits).scores, interventions.random_scores(edits, generator)
            beyond = _beyond(interventions.plain, edited, random)
            if signed_rank(beyond) < LEVEL and float(beyond.mean()) > most:
                most, best = float(beyond.mean()), features
    return best


def _beyond(plain: Tensor, edited: Tensor, random: Tensor) -> Tensor:
    """`(n,)` by how much edits lower the scores more than random directions move them."""
    return (plain - edited) - (plain - random).abs().mean(dim=0)


def _clamps(material: Material, features: Sequence[Feature], strength: float) -> dict[Feature, float]:
    rows = material.chosen[material.positive[material.chosen]]
    clamps = {}
    for feature in features:
        there, usual = float(material.values(feature)[rows].mean()), float(material.usual[feature.site][feature.index])
        clamps[feature] = there + strength * (usual - there)
    return clamps


def _dose(interventions: Interventions, material: Material, features: Sequence[Feature]) -> float:
    """The dose after the gentlest that is enough, or the gentlest of those that turn most."""
    calls = interventions.plain > 0
    if not calls.any():
        return STRENGTHS[0]
    shares = [
        float(_turned(interventions.outcome(_as_edits(_clamps(material, features, one))).scores, calls))
        for one in STRENGTHS
    ]
    for number, share in enumerate(shares):
        if share >= ENOUGH:
            return STRENGTHS[min(number + 1, len(STRENGTHS) - 1)]
    return STRENGTHS[shares.index(max(shares))]


def _turned(scores: Tensor, calls: Tensor) -> Tensor:
    return (scores[calls] <= 0).float().mean()


def _latest(found: Found) -> Site:
    probe = found.condition
    return max(feature.site for feature in (probe.weights if probe else [found.features[0].feature]))


def _gate(decisions: Decisions, found: Found, site: Site, most: int, seed: int) -> FoundProbe | None:
    if _latest(found) <= site:
        return None
    return probe_upto(decisions.loaded, decisions.saes, decisions.material, found, site, most=most, seed=seed)
