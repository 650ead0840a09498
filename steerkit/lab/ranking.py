"""Features ranked by how well they tell two sets of conversations apart, near-duplicates together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from steerkit.lab.two_sample import auroc, benjamini_hochberg, effect_size, mann_whitney
from steerkit.sites import Feature, Site

LEVEL: Final = 0.05
"""Level of the false discovery rate, and of every test."""
ALIKE: Final = 0.9
"""Features whose values correlate at least this much, in size, are one group."""
_FEATURES: Final = 512  # at a time, so that ranks in float64 stay small
_GROUPED: Final = 512  # of the best features are looked through for near-duplicates


class Ranking(NamedTuple):
    """The features that vary, the one that tells the sets apart best first."""

    features: tuple[Feature, ...]
    area: Tensor
    """`(F,)` AUROC; below 0.5 where the feature is lower in the positives."""
    adjusted: Tensor
    """`(F,)` p values of the rank-sum test after Benjamini and Hochberg's correction over all of them."""

    @property
    def significant(self) -> list[Feature]:
        """The features that tell the sets apart at a false discovery rate of 5 %, the best first."""
        return [self.features[int(number)] for number in (self.adjusted <= LEVEL).nonzero()]

    def upto(self, site: Site) -> Ranking:
        """Ranking of the features of sites up to one; the correction stays that of the complete search."""
        rows = [number for number, feature in enumerate(self.features) if feature.site <= site]
        return Ranking(tuple(self.features[number] for number in rows), self.area[rows], self.adjusted[rows])


def rank_features(
    table: Mapping[Site, Tensor], rows: Tensor, positive: Tensor, weights: Tensor | None = None
) -> Ranking:
    """Rank by AUROC, in either direction, over the conversations `rows`; of equal ones the larger effect goes first.

    Every feature that varies over the rows is one test, whichever its result, so the correction counts the complete
    search. It is Benjamini and Hochberg's, as features of one dictionary that fire on the same thing are positively
    dependent, and as what is found is measured again on held-out conversations: a bounded share of false findings is
    what is wanted, not the certainty of none, which would hide all but the strongest of tens of thousands.

    Args:
        table: by site, `(n, d_sae)`.
        rows: `(m,)` the conversations to rank on.
        positive: `(n,)` bool.
        weights: `(n,)` how much each conversation counts (default: 1).
    """
    labels, counted = positive[rows], None if weights is None else weights[rows]
    features: list[Feature] = []
    parts: list[Tensor] = []
    for site, values in table.items():
        for start in range(0, values.shape[1], _FEATURES):
            some = values[rows, start : start + _FEATURES]
            alive = (some.amax(dim=0) > some.amin(dim=0)).nonzero().squeeze(-1)
            some = some[:, alive]
            measures = (auroc, mann_whitney, effect_size)
            parts.append(torch.stack([measure(some, labels, counted) for measure in measures]))
            features += [Feature(site, start + int(index)) for index in alive]
    area, p, effect = torch.cat(parts, dim=1)
    order = _best_first(area, effect)
    adjusted = benjamini_hochberg(p)[order] if len(p) else p
    return Ranking(tuple(features[int(number)] for number in order), area[order], adjusted)


def _best_first(area: Tensor, effect: Tensor) -> Tensor:
    by_effect = effect.abs().argsort(descending=True, stable=True)
    return by_effect[(area[by_effect] - 0.5).abs().argsort(descending=True, stable=True)]


def grouped(
    table: Mapping[Site, Tensor], rows: Tensor, features: Sequence[Feature]
) -> Iterator[tuple[Feature, tuple[Feature, ...]]]:
    """Each feature that is like no better one, and the worse ones that are like it, by Pearson's correlation."""
    some = features[:_GROUPED]
    values = torch.stack([table[feature.site][rows, feature.index] for feature in some]).double()
    centred = values - values.mean(dim=1, keepdim=True)
    unit = torch.nn.functional.normalize(centred, dim=1)
    alike = (unit @ unit.T).abs() >= ALIKE
    free = torch.ones(len(some), dtype=torch.bool)
    for number, feature in enumerate(some):
        if free[number]:
            members = [int(other) for other in (alike[number] & free).nonzero() if other != number]
            free[[number, *members]] = False
            yield feature, tuple(some[other] for other in members)


def split(keys: Sequence[object], positive: Tensor, held_out: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to choose on and rows to report on: of each set the same share of its keys, by `seed`.

    A key is a conversation, or a group of them that are copies of each other: its rows fall on one side.
    """
    generator = torch.Generator().manual_seed(seed)
    held = torch.zeros(len(keys), dtype=torch.bool)
    side: dict[object, bool] = {}
    for value in (True, False):
        own = dict.fromkeys(key for key, one in zip(keys, positive.tolist(), strict=True) if one == value)
        unique = [key for key in own if key not in side]
        order = torch.randperm(len(unique), generator=generator).tolist()
        chosen = set(order[: round(held_out * len(unique))])
        for number, key in enumerate(unique):
            side[key] = number in chosen
    for row, key in enumerate(keys):
        held[row] = side[key]
    return (~held).nonzero().squeeze(-1), held.nonzero().squeeze(-1)
