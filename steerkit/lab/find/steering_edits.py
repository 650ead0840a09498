"""Edits that turn a decision where it is made: chosen as a set, dosed as a set, and proven as a set.

Where a model holds what it decides by in many features at once, each of them alone moves little, and the set does what
no single edit shows. Three ways are tried, clamps of one layer (`layer_clamps`), shifts over layers and the difference
of means that these rebuild (`joint_edits`); what comes of each is measured on conversations that it was not chosen on,
beside controls of the same length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Final

import torch
from torch import Tensor

from steerkit.lab.find.attempt import Attempt, Way, beyond_chance
from steerkit.lab.find.decisions import Decisions
from steerkit.lab.find.joint_edits import JointEdits, useful
from steerkit.lab.find.layer_clamps import choose_clamps
from steerkit.lab.find.probes import FoundProbe, Probes, probes_upto
from steerkit.lab.find.search import Condition, Found
from steerkit.lab.interventions import Edits, Interventions
from steerkit.lab.measured import Share
from steerkit.lab.ranking import LEVEL
from steerkit.lab.two_sample import least_signed_rank, mcnemar, signed_rank
from steerkit.sites import Site
from steerkit.types import Place

STEERED_AT: Final[Place] = "reply.start"
"""The place whose decision can be turned: its step decides for the call and is still before it."""


@dataclass(frozen=True)
class Controls:
    """Calls that are no longer opened under what is as long at every site as the edits are."""

    random: Share
    """Random directions, three of each site."""
    rows: Share
    """Random sums of as many other decoder rows, of a direction single ones."""
    opposite: Share
    """The opposite of what the edits write."""
    difference: Share
    """The difference of means, of its own length times the strength: a baseline, not a control."""


@dataclass(frozen=True)
class Lead:
    """By how much the way that is written does better than another one, on held-out conversations."""

    calls: int
    """Calls more that are stopped; below 0 fewer."""
    kept: int
    """Negatives more whose decision stays."""
    p: float
    """Two-sided p value of McNemar's exact test over all of them."""


@dataclass(frozen=True)
class SteeringEdits:
    """Edits that are made where the reply begins, and what became of held-out conversations under them."""

    way: Way
    strength: float
    """Of clamps the step from a feature's value in the positives towards that in the negatives, which 1 reaches; of
    shifts and of a direction the multiple of the difference of means."""
    edits: Edits
    """None of a direction."""
    vectors: Mapping[Site, Tensor] = field(compare=False)
    """`(width,)` by site: the direction that is added `strength` times; none of edits."""
    gated: bool
    """True if they act behind a condition alone."""
    gates: Probes | None
    """Probes on layers up to the first edited one, of which the best is the condition; None where the one that was
    found reads no later layer, or none is needed."""
    score: float
    """Mean log-odds of the call in the held-out positives as they are."""
    edited: float
    """Mean score under the edits, in log-odds."""
    random: float
    """Mean score under random directions of the same norm."""
    turned: Share
    """Held-out positives in which the call is no longer the likeliest token, of those in which it was."""
    turned_random: Share
    """Calls that are no longer opened under the random directions."""
    stopped: Share
    """Calls that are no longer opened where the edits act behind their condition."""
    kept: Share
    """Of the held-out negatives, those whose likeliest token stays, the edits behind their condition."""
    kept_open: Share
    """The same with the edits everywhere."""
    controls: Controls
    p: float
    """One-sided signed-rank p value that the edits do more than random directions."""
    least_p: float
    """The smallest that so many held-out positives could have shown."""
    decisions: Tensor = field(compare=False)
    """`(c + m,)` bool: calls of held-out positives that are stopped, and negatives whose decision is kept."""
    lead: Lead | None = None
    """Of a beaten way: what the written one does better."""
    beaten: tuple[SteeringEdits, ...] = ()
    """The other ways, the better one first."""

    @property
    def gate(self) -> FoundProbe | None:
        """The condition of their own, where they have one."""
        return None if self.gates is None else self.gates.best

    @property
    def sites(self) -> tuple[Site, ...]:
        """The edited sites, in causal order."""
        return tuple(sorted(self.vectors.keys() | {feature.site for feature in self.edits}))

    @property
    def proven(self) -> bool:
        """True if they do more than chance where they were not chosen."""
        return self.p < LEVEL and self.edited < self.score

    @property
    def worth(self) -> float:
        """Calls that are stopped and negatives that are kept, as shares: 2 is all of both."""
        return self.stopped.value + self.kept.value


def find_steering_edits(
    decisions: Decisions, found: Found, *, strength: float | None = None, most: int = 8, seed: int = 0
) -> SteeringEdits | None:
    """Choose edits that keep a call from being opened; None where the search was at another place than `reply.start`,
    where nothing was found, or where no way can be read in time.

    Of the ways that do more than chance on held-out conversations the one that stops most calls and keeps most of the
    negatives is the answer; of equal ones one of features, and of those the one with fewer layers. An edit in a layer
    below those that its condition reads would come a token late, so a condition that reads later layers is fitted anew
    on earlier ones.

    Args:
        decisions: the conversations that were searched.
        found: a search at `reply.start`.
        strength: None takes the gentlest of some strengths that is enough, and a step more where benign ones allow it.
        most: features that a new condition may combine.
        seed: of the folds, of the random directions and of that condition's fit.
    """
    if found.place != STEERED_AT or found.condition is None:
        return None
    generator = torch.Generator().manual_seed(seed)
    joint = JointEdits(decisions, strength, most, seed)
    attempts = [choose_clamps(decisions, strength, generator), joint.shifts(), joint.difference()]
    loaded, saes, material = decisions.loaded, decisions.saes, decisions.material
    rivals = [one.scores(material) for one in found.features]

    @cache
    def gates_upto(site: Site) -> Probes:
        return probes_upto(loaded, saes, material, rivals, site, most=most, seed=seed)

    tried = [_proven(decisions, found.condition, one, gates_upto, generator) for one in attempts if one is not None]
    ways = sorted(
        (one for one in tried if one is not None),
        key=lambda one: (not one.proven, -one.worth, bool(one.vectors), len(one.sites)),
    )
    if not ways:
        return None
    best, *others = ways
    return replace(best, beaten=tuple(replace(one, lead=_lead(best, one)) for one in others))


def _lead(best: SteeringEdits, other: SteeringEdits) -> Lead:
    more, fewer = best.decisions & ~other.decisions, other.decisions & ~best.decisions
    calls, kept = (more.long() - fewer.long()).split([best.stopped.count, best.kept.count])
    return Lead(int(calls.sum()), int(kept.sum()), mcnemar(int(more.sum()), int(fewer.sum())))


def _proven(
    decisions: Decisions,
    condition: Condition,
    attempt: Attempt,
    gates_upto: Callable[[Site], Probes],
    generator: torch.Generator,
) -> SteeringEdits | None:
    """The attempt on held-out conversations; None where no condition can be read in time."""
    gates, material, first = None, decisions.material, attempt.sites[0]
    if attempt.gated and condition.sites[-1] > first:
        gates = gates_upto(first)
        if gates.best is None:
            return None
        condition = gates.best
    positives, negatives = decisions.positives(held=True), decisions.negatives(held=True)
    opens = condition.opens(material) if attempt.gated else torch.ones(len(material.cases)) > 0
    acts, acts_there = (opens[decisions.rows(positive=side, held=True)] for side in (True, False))
    edited, there = attempt.outcome(positives), attempt.outcome(negatives)
    random = attempt.random_scores(positives, generator)
    calls, same = positives.plain > 0, there.tokens == negatives.unedited.tokens
    turned = positives.turned(edited)
    stopped, kept = turned & acts[calls], same | ~acts_there
    by_chance = _share(random[:, calls] <= 0)
    return SteeringEdits(
        way=attempt.way,
        strength=attempt.strength,
        edits=attempt.edits,
        vectors=attempt.vectors,
        gated=attempt.gated,
        gates=gates,
        score=float(positives.plain.mean()),
        edited=float(edited.scores.mean()),
        random=float(random.mean()),
        turned=_share(turned),
        turned_random=by_chance,
        stopped=_share(stopped),
        kept=_share(kept),
        kept_open=_share(same),
        controls=_controls(decisions, positives, attempt, by_chance, generator),
        p=signed_rank(beyond_chance(positives.plain, edited.scores, random)),
        least_p=least_signed_rank(len(positives.plain)),
        decisions=torch.cat([stopped, kept]),
    )


def _controls(
    decisions: Decisions, positives: Interventions, attempt: Attempt, random: Share, generator: torch.Generator
) -> Controls:
    others = {}
    for site in attempt.sites:
        rows = decisions.saes[site].W_dec.detach().float().cpu()
        count = sum(feature.site == site for feature in attempt.edits) or 1
        some = torch.randperm(len(rows), generator=generator)[:count]
        others[site] = torch.randn(count, generator=generator) @ rows[some]
    chosen = useful(decisions.positives(held=False), decisions.negatives(held=False)).directions
    outcomes = (
        attempt.control(positives, others),
        attempt.control(positives),
        positives.along({site: attempt.strength * chosen[site] for site in attempt.sites}),
    )
    return Controls(random, *(_share(positives.turned(one)) for one in outcomes))


def _share(hits: Tensor) -> Share:
    return Share(int(hits.sum()), hits.numel())
