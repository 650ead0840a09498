"""Material of a search: two sets of conversations with their features, split in two, without copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, NamedTuple

import torch
from torch import Tensor

from steerkit.engine import LoadedModel
from steerkit.errors import SaeError
from steerkit.lab.cases import MOST_BYTES, Case, Report, StepsRead, place_maxima, step_activations, steps_at
from steerkit.lab.copies import Copies, copies_of, weights_of
from steerkit.lab.feature_statistics import check_sites
from steerkit.lab.measured import SIDES
from steerkit.lab.ranking import split
from steerkit.sae import SaeSet
from steerkit.sites import Feature, Site
from steerkit.types import Place

RESULT: Final[Place] = "tool_result"
"""The place of tools' results."""
FEWEST: Final = 10
"""Conversations of each set at least."""


class Reading(NamedTuple):
    """Conversations at a place, or those of them that have steps there."""

    place: Place | None
    """None for where the sets are searched."""
    cases: Sequence[Case]
    """All of them, with their steps there."""
    rows: Tensor
    """Those that have any; a condition never holds in the others."""
    activations: Mapping[Site, Tensor]
    """By layer, `(n, width)` means over the steps."""
    kept: Sequence[StepsRead] = ()
    """Activations of the steps of `rows`, where they fit into 2 GiB."""


@dataclass(frozen=True, eq=False)
class Material:
    """Two sets of conversations with their features."""

    cases: Sequence[Case]
    positive: Tensor
    """`(n,)` bool."""
    chosen: Tensor
    """Rows to choose on."""
    held: Tensor
    """Rows to report on."""
    table: Mapping[Site, Tensor]
    """By layer, `(n, d_sae)` largest values over the place."""
    usual: Mapping[Site, Tensor]
    """By layer, `(d_sae,)` what the features are in the negatives: their mean over steps, where is chosen."""
    groups: Sequence[int] = ()
    """Group of each row: the conversations that it is a copy of (default: `copies_among`)."""
    activations: Mapping[Site, Tensor] = field(default_factory=dict)
    """By layer, `(n, width)` its mean activations over the place (default: none were read)."""
    results: Reading | None = None
    """The conversations at the results of tools before their steps; None where too few have some."""
    notes: tuple[str, ...] = ()
    """Notes on conversations that were left out or count once."""

    def __post_init__(self) -> None:
        if not self.groups:
            object.__setattr__(self, "groups", copies_among(self.cases).groups)

    @property
    def readings(self) -> list[Reading]:
        """Where raw activations can be read, where the sets are searched first; none if they were not read."""
        if not self.activations:
            return []
        here = Reading(None, self.cases, torch.arange(len(self.cases)), self.activations)
        return [here] if self.results is None else [here, self.results]

    @cached_property
    def weights(self) -> Tensor:
        """`(n,)` by which the copies of a conversation count once together."""
        return weights_of(self.groups, self.positive)

    def values(self, feature: Feature) -> Tensor:
        """`(n,)` of a feature."""
        return self.table[feature.site][:, feature.index]

    def counts(self, rows: Tensor) -> tuple[int, int]:
        """Positives and negatives among some rows; copies count once."""
        found = [len({self.groups[row] for row in rows.tolist() if bool(self.positive[row]) is side}) for side in SIDES]
        return found[0], found[1]


def copies_among(cases: Sequence[Case]) -> Copies:
    """Conversations that are equal, near-copies, or of one group as their rows say."""
    return copies_of([[case.read] for case in cases], [case.said for case in cases], [case.group for case in cases])


def read_material(
    loaded: LoadedModel,
    saes: SaeSet,
    positives: Sequence[Case],
    negatives: Sequence[Case],
    *,
    held_out: float = 0.5,
    seed: int = 0,
    report: Report | None = None,
) -> Material:
    """Read both sets in one pass of the model (see `place_maxima` for what is held), and split them.

    Exact copies are dropped, and so are conversations that stand in both sets; groups of near-copies, and of rows that
    name one group, fall on one side of the split and count once.

    Raises:
        SaeError: too few conversations, or so many that the table does not fit.
    """
    check_sites(saes)
    sets, notes = _distinct(positives, negatives)
    cases = [*sets[0], *sets[1]]
    positive = torch.tensor([True] * len(sets[0]) + [False] * len(sets[1]), dtype=torch.bool)
    groups, alike = copies_among(cases)
    for name, some, side in (("positive", positives, True), ("negative", negatives, False)):
        notes += _counted(name, len(some), [g for g, one in zip(groups, positive.tolist(), strict=True) if one is side])
    if 2 * alike > len(cases):
        notes.append(
            f"{alike} of {len(cases)} conversations are much like another; where they were made from few templates, "
            f"give the rows of each a key group, so that it counts once"
        )
    chosen, held = split(groups, positive, held_out, seed)
    for rows in (chosen, held):
        sides = [{groups[row] for row in rows.tolist() if bool(positive[row]) is side} for side in SIDES]
        if min(map(len, sides)) < 2:
            raise SaeError(
                "got too few different conversations to choose on some and report on others; expected more of each set"
            )
    usual = [row for row in chosen.tolist() if not positive[row]]
    at = place_maxima(loaded, saes, cases, usual, report)
    results = _results(loaded, saes, cases, positive)
    return Material(cases, positive, chosen, held, at.largest, at.mean, groups, at.activations, results, tuple(notes))


def _results(loaded: LoadedModel, saes: SaeSet, cases: Sequence[Case], positive: Tensor) -> Reading | None:
    """What stands in the results of tools before the steps, where all positives and enough negatives have some."""
    placed = [
        case._replace(steps=tuple(step for step in steps_at(loaded, case, RESULT) if step < case.steps[0]))
        for case in cases
    ]
    present = torch.tensor([bool(case.steps) for case in placed])
    if not present[positive].all() or int(present[~positive].sum()) < FEWEST:
        return None
    rows = present.nonzero().squeeze(-1)
    means = {site: torch.zeros(len(cases), sae.d_in) for site, sae in saes.items()}
    tokens = sum(len(case.steps) for case in placed)
    fits = tokens * sum(sae.d_in for sae in saes.values()) * loaded.model.dtype.itemsize <= MOST_BYTES
    kept = list[StepsRead]()
    for owners, by_site in step_activations(loaded, saes, [placed[row] for row in rows.tolist()], None):
        for site, x in by_site.items():
            means[site].index_add_(0, rows[owners], x.float().cpu())
        if fits:
            kept.append((owners, {site: x.cpu() for site, x in by_site.items()}))
    counts = torch.tensor([len(case.steps) for case in placed]).clamp(min=1).unsqueeze(-1)
    return Reading(RESULT, placed, rows, {site: total / counts for site, total in means.items()}, kept)


def _counted(name: str, rows: int, groups: Sequence[int]) -> list[str]:
    """Notes on the copies in a set. Raises SaeError where too few conversations are left of it."""
    if rows < FEWEST:
        raise SaeError(f"{name}: got {rows} conversations with a step at the place, expected at least {FEWEST}")
    different = len(set(groups))
    if different < FEWEST:
        raise SaeError(
            f"{name}: got too few different conversations, {different} among {rows} rows with a step at the place "
            f"(copies and near-copies count once, unless rows name a group of their own), expected at least {FEWEST}"
        )
    if different == len(groups):
        return []
    return [
        f"{name}: {len(groups)} conversations are {different} groups of near-copies, or of rows that name one group; "
        f"each counts once"
    ]


def _distinct(positives: Sequence[Case], negatives: Sequence[Case]) -> tuple[list[list[Case]], list[str]]:
    """Both sets without copies and without what stands in both, and what was dropped, in words."""
    both = {case.read for case in positives} & {case.read for case in negatives}
    found, notes = [], list[str]()
    for name, cases in (("positive", positives), ("negative", negatives)):
        unique = list({case.read: case for case in reversed(cases)}.values())[::-1]
        found.append([case for case in unique if case.read not in both])
        if len(unique) < len(cases):
            notes.append(
                f"{name}: {len(cases) - len(unique)} of {len(cases)} conversations are copies of others; dropped"
            )
    if both:
        notes.append(f"{len(both)} conversations stand in both sets, so that they show neither; dropped from both")
    return found, notes
