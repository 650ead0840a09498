"""Shares and AUROCs with intervals on held-out conversations, copies counted once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from steerkit.lab.copies import weights_of
from steerkit.lab.two_sample import Interval, auroc, auroc_interval, bound_between, wilson

FALSE: Final = 0.01
"""Chance that a bound may have to let a new negative through."""
SIDES: Final = (True, False)
"""The positives, and the negatives."""


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
        """Interval of 95 %."""
        return wilson(self.hits, self.count)


@dataclass(frozen=True)
class Measured:
    """Separation of the sets by a number on the held-out conversations."""

    auroc: float
    interval: Interval
    bound: float
    """Chosen on the other part so that a new negative is beyond it with a chance of at most 1 %, or of 1 / (n + 1)
    where n are too few for that; raw activation, or a probe's sum."""
    recall: Share
    """Held-out positives beyond the bound."""
    false: Share
    """Held-out negatives beyond the bound."""

    @property
    def youden(self) -> float:
        """Youden's index (1950) at the bound: recall less false positives, 1 where the sets are told apart wholly."""
        return self.recall.value - self.false.value


def measure(
    scores: Tensor, positive: Tensor, chosen: Tensor, held: Tensor, groups: Sequence[Hashable] | None = None
) -> Measured:
    """Separation of the conversations `held` by scores `(n,)`, larger in positives, with a bound set on `chosen`.

    Rows of one of the `groups` `(n,)` count once together.
    """
    named = range(len(scores)) if groups is None else groups
    weights, labels = weights_of(named, positive), positive[held]
    first, other = (chosen[positive[chosen] == side] for side in SIDES)
    bound = bound_between(scores[first], scores[other], FALSE, weights[other])
    some = scores[held]
    recall, false = shares(some > bound, labels, [named[row] for row in held.tolist()])
    area = float(auroc(some.unsqueeze(-1), labels, weights[held]))
    return Measured(area, auroc_interval(some, labels, weights[held]), bound, recall, false)


def shares(hits: Tensor, positive: Tensor, groups: Sequence[Hashable]) -> tuple[Share, Share]:
    """Shares of the positives and of the negatives."""
    rows = list(zip(hits.tolist(), positive.tolist(), groups, strict=True))
    parts = [[(hit, group) for hit, one, group in rows if one is side] for side in SIDES]
    found = [Share.of([hit for hit, _ in part], [group for _, group in part]) for part in parts]
    return found[0], found[1]
