"""Drift of what policies read: each condition's values at its place, on two models, from the same tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from steerkit.engine import LoadedModel
from steerkit.errors import SaeError
from steerkit.lab.cases import Case, read_cases, sum_maxima
from steerkit.lab.material import copies_among
from steerkit.lab.measured import Share
from steerkit.lab.policy_conditions import PlacedReading, placed_readings, sum_of
from steerkit.lab.ranking import LEVEL
from steerkit.lab.train.health.drift import SiteDrift
from steerkit.lab.two_sample import Interval, auroc, auroc_gain, auroc_interval, holm, mcnemar
from steerkit.policy import Policy, resolve
from steerkit.sae import SaeSet
from steerkit.types import Place


@dataclass(frozen=True)
class Separation:
    """An AUROC on both models, and whether they differ."""

    auroc: tuple[float, float]
    intervals: tuple[Interval, Interval]
    p: float
    """Two-sided p value that they differ: DeLong's paired test."""


@dataclass(frozen=True)
class ReadingDrift:
    """One reading of a policy on two models; a probe's sum, or a feature's value."""

    policy: str
    rule: str
    name: str
    """Name of the probe or feature."""
    place: Place
    bound: float
    """Raw bound of the condition."""
    below: bool
    """The condition holds below the bound, not above."""
    beyond: tuple[Share, Share]
    """Conversations in which it holds at a token of the place, on each model, without the condition's memory."""
    p: float
    """Two-sided p value that as many hold on one model alone as on the other: McNemar's exact test, corrected over all
    readings (Holm)."""
    separation: Separation | None
    """How well it tells positives from negatives; None without such sets."""

    @property
    def moved(self) -> bool:
        """True if the rate or the AUROC differs at 5 %."""
        return self.p < LEVEL or (self.separation is not None and self.separation.p < LEVEL)


def reading_drifts(
    loaded: LoadedModel,
    other: LoadedModel,
    saes: SaeSet,
    policies: Sequence[Policy],
    files: Mapping[bool | None, Path],
    *,
    limit: int | None = None,
) -> list[ReadingDrift]:
    """Compare every reading of the policies' gates and evidence on two models; copies of a conversation count once.

    Both models read the same tokens. At a place in the reply, what the first model answers is read where a row has no
    assistant's message at its end.

    Args:
        loaded: the first model, whose tokenizer renders the conversations.
        other: the other one.
        saes: the set that the policies name.
        policies: units are resolved by the set's statistics.
        files: conversations under None, or positives under True and negatives under False.
        limit: rows that are read of a file at most.

    Raises:
        SaeError: no reading, a file that cannot be read, or no conversation with a token at a place.
    """
    resolved = [resolve(policy, saes.statistic) for policy in policies]
    readings = [(policy, one) for policy in resolved for one in placed_readings(policy)]
    if not readings:
        names = ", ".join(policy.name for policy in policies)
        raise SaeError(f"{names}: no condition reads a feature or probe; expected a gate or guard rule with `when`")
    by_place = {place: _cases(loaded, place, files, limit) for place in dict.fromkeys(one.place for _, one in readings)}
    found = [_compared(loaded, other, saes, policy, one, *by_place[one.place]) for policy, one in readings]
    corrected = holm(torch.tensor([one.p for one in found], dtype=torch.float64)).tolist()
    return [replace(one, p=p) for one, p in zip(found, corrected, strict=True)]


def changed_features(sites: Sequence[SiteDrift], policy: Policy) -> dict[str, str]:
    """The features that a policy names and that changed, and how in words."""
    changed = {one.site: one.changed for one in sites}
    named = {name: one.feature for name, one in policy.features.items()}
    found = {name: changed.get(feature.site, {}).get(feature.index) for name, feature in named.items()}
    return {name: how for name, how in found.items() if how is not None}


def _cases(
    loaded: LoadedModel, place: Place, files: Mapping[bool | None, Path], limit: int | None
) -> tuple[list[Case], Tensor | None]:
    """The conversations with a step at a place, a copy of each, and which are positive where the files say it."""
    cases: list[Case] = []
    labels: list[bool] = []
    for label, path in files.items():
        some, _ = read_cases(path, loaded, place, limit=limit)
        first = dict(zip(reversed(copies_among(some).groups), reversed(range(len(some))), strict=True))
        kept = [some[number] for number in sorted(first.values())]
        if not kept:
            raise SaeError(f"{path}: no conversation has a token at {place}, where a condition is read")
        cases += kept
        labels += [bool(label)] * len(kept)
    return cases, None if None in files else torch.tensor(labels)


def _compared(
    loaded: LoadedModel,
    other: LoadedModel,
    saes: SaeSet,
    policy: Policy,
    placed: PlacedReading,
    cases: Sequence[Case],
    positive: Tensor | None,
) -> ReadingDrift:
    reading = placed.reading
    name, below, weights, bias = sum_of(policy, reading)
    bound = float(reading.below if below else reading.above)  # type: ignore[arg-type]  # resolved to a number
    sign = -1.0 if below else 1.0
    signed = {latent: sign * weight for latent, weight in weights.items()}
    values = [sum_maxima(one, saes, cases, signed, sign * bias) for one in (loaded, other)]
    held = [one > sign * bound for one in values]
    return ReadingDrift(
        policy=policy.name,
        rule=placed.rule,
        name=name,
        place=placed.place,
        bound=bound,
        below=below,
        beyond=(Share.of(held[0].tolist()), Share.of(held[1].tolist())),
        p=mcnemar(int((held[0] & ~held[1]).sum()), int((held[1] & ~held[0]).sum())),
        separation=None if positive is None else _separation(values, positive),
    )


def _separation(values: Sequence[Tensor], positive: Tensor) -> Separation:
    first, second = values
    areas = auroc(torch.stack([first, second], dim=1), positive).tolist()
    gains = [auroc_gain(first, second, positive)[1], auroc_gain(second, first, positive)[1]]
    intervals = (auroc_interval(first, positive), auroc_interval(second, positive))
    return Separation((areas[0], areas[1]), intervals, min(1.0, 2 * min(gains)))
