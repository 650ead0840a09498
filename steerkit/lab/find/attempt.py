"""One way to steer that was chosen, before it is proven."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from steerkit.lab.interventions import Edits, Interventions
from steerkit.lab.prefilled import Outcome
from steerkit.sites import Site

Way: TypeAlias = Literal["clamps of one layer", "shifts over layers", "difference of means"]

STRENGTHS: Final = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Doses to try, the gentlest first."""
ENOUGH: Final = 0.95
"""Share of the calls that a dose turns where it is chosen."""
KEPT: Final = 0.95
"""Share of the negatives' decisions that edits leave as they are, or they get a gate."""


def beyond_chance(plain: Tensor, edited: Tensor, random: Tensor) -> Tensor:
    """`(n,)` by how much edits lower the scores `(n,)` more than random directions `(k, n)` move them."""
    return (plain - edited) - (plain - random).abs().mean(dim=0)


class Attempt(NamedTuple):
    """What was chosen to be written: edits of features, or a direction."""

    way: Way
    strength: float
    edits: Edits
    """None of a direction."""
    vectors: Mapping[Site, Tensor]
    """`(width,)` by site: the direction that is added `strength` times; none of edits."""
    gated: bool
    """True if they are to act behind a condition alone."""

    @property
    def sites(self) -> list[Site]:
        """The edited sites, in causal order."""
        return sorted(self.vectors.keys() | {feature.site for feature in self.edits})

    def outcome(self, on: Interventions) -> Outcome:
        """The decisions of some conversations under it."""
        return on.along(self._added()) if self.vectors else on.outcome(self.edits)

    def control(self, on: Interventions, directions: Mapping[Site, Tensor] | None = None) -> Outcome:
        """The decisions under directions of any length, made as long as what it writes; without under the opposite."""
        if not self.vectors:
            return on.control(self.edits, directions)
        units = self.vectors if directions is None else directions
        sign = -1.0 if directions is None else 1.0
        return on.along({s: sign * v.norm() * units[s] / units[s].norm() for s, v in self._added().items()})

    def random_scores(self, on: Interventions, generator: torch.Generator) -> Tensor:
        """`(DIRECTIONS, n)` the scores under random directions as long as what it writes."""
        return torch.stack([self.control(on, drawn).scores for drawn in on.drawn(self.sites, generator)])

    def _added(self) -> dict[Site, Tensor]:
        return {site: self.strength * vector for site, vector in self.vectors.items()}
