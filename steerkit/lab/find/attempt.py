"""One way to steer that was chosen, before it is proven."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

from torch import Tensor

from steerkit.lab.interventions import Edits

Way: TypeAlias = Literal["clamps of one layer", "shifts over layers"]

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
    """Edits that were chosen."""

    way: Way
    strength: float
    edits: Edits
    gated: bool
    """True if they are to act behind a condition alone."""
