"""Conversations of a search at their decisions: each is prefilled once, for causes and for edits."""

from __future__ import annotations

from typing import Final

from steerkit.engine import LoadedModel
from steerkit.lab.cases import Case
from steerkit.lab.interventions import Interventions
from steerkit.lab.material import Material
from steerkit.sae import SaeSet
from steerkit.types import Place

CASES: Final = 48
"""Conversations of each set at most, both to choose on and to prove on."""


class Decisions:
    """The positives and negatives of a search, of copies the first, ready to be edited (see `Interventions`).

    Held are the KV caches of those that were asked for.
    """

    def __init__(self, loaded: LoadedModel, saes: SaeSet, material: Material, place: Place) -> None:
        self.loaded, self.saes, self.material, self.place = loaded, saes, material, place
        self._read: dict[tuple[bool, bool], Interventions] = {}

    def positives(self, *, held: bool) -> Interventions:
        """Of the held-out conversations, or of those that are chosen on."""
        return self._of(True, held)

    def negatives(self, *, held: bool) -> Interventions:
        """Conversations that an edit is to leave alone."""
        return self._of(False, held)

    def rows(self, *, positive: bool, held: bool) -> list[int]:
        """Rows of the material that stand in these sets."""
        material = self.material
        some = (material.held if held else material.chosen).tolist()
        own = {material.groups[row]: row for row in reversed(some) if bool(material.positive[row]) is positive}
        return list(own.values())[::-1][:CASES]

    def _of(self, positive: bool, held: bool) -> Interventions:
        if (positive, held) not in self._read:
            cases: list[Case] = [self.material.cases[row] for row in self.rows(positive=positive, held=held)]
            self._read[positive, held] = Interventions(self.loaded, self.saes, cases, self.place)
        return self._read[positive, held]
