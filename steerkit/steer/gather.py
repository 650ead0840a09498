"""One site's tables, gathered for the rows of a batch, and the edits of flat tokens over them.

Where all tokens are under the same policies they form one group. Where they are not, each sequence (or each token) is a
group with the features that its own policies name, so that none is multiplied by another's.

Shapes: N tokens in Q groups of M, N = Q * M; P sets of columns, one for each group or 1 for all; S features of a group,
l readings that the site adds to, R rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import torch
from torch import Tensor

from steerkit.sae import Columns, Sae
from steerkit.steer import ops
from steerkit.steer.compile.plan import SiteTable

_MOST_BYTES: Final = 16 << 20
"""Largest gathered columns of one site, for groups that differ; above, all tokens are multiplied by all columns."""
READ: Final = 7
"""Rows that a column is multiplied by in the time that it takes to be loaded from memory, about."""


class Edits(NamedTuple):
    """One edit at most of each feature, `(Q, 1, S)` each."""

    owner: Tensor
    """Column of the rule that edits the feature; 0 where none does."""
    scale: Tensor | None
    """None where it is 0 for all edits of the site."""
    shift: Tensor
    bounds: tuple[Tensor, Tensor] | None
    """Floor and ceiling; None where no edit of the site has any."""


class OpenEdits(NamedTuple):
    """The edits at one site whose rules are open."""

    on: tuple[Tensor | None, ...]
    """For each `Edits`, the features that are edited `(Q, M, S)`, or the tokens `(Q, M, 1)` where all are; None where
    all are known to be."""
    rebuilt: Tensor | None
    """`(1, N)` tokens whose activation is reconstructed; None where no rule does that."""
    always: bool = False
    """True if every feature is known to be edited, at every token."""

    def checked(self) -> OpenEdits:
        """These, with None where all are on. It waits for the device: for what holds for many tokens."""
        on = tuple(None if one is None or bool(one.all()) else one for one in self.on)
        return self._replace(on=on, always=any(one is None for one in on))


class Rebuild(NamedTuple):
    """A site's rules that write the SAE's reconstruction instead of a delta."""

    sae: Sae
    indices: Tensor
    """Features of the site, the first of the S columns."""
    rules: Tensor
    """`(R,)` rules that do so."""
    all: bool
    """True if all editors of the site do."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """One site's tables for the rows of a batch; its tensors live on the site's device."""

    columns: Columns
    """`(P, d_in, S)`, `(P, S, d_in)` and `(P, 1, S)`; with `only_rule`, features that it does not edit decode to 0."""
    weights: Tensor | None
    """`(P, S, l)` of the features in the readings' sums; None where no gate reads this site."""
    readings: slice
    """The l readings among all."""
    edits: tuple[Edits, ...]
    """The edits that act last, of those on one feature, come first."""
    groups: int
    """Q."""
    sets: int
    """P."""
    only_rule: int | Tensor | None = None
    """Column of the one rule that edits a group's features here, `(Q, 1, 1)` of many; None where there may be more."""
    rebuild: Rebuild | None = None

    def read(self, x: Tensor) -> Tensor:
        """Features `(P, N / P, S)` of activations `x` `(P, N / P, d_in)` in float32."""
        return ops.read_grouped(x, self.columns)

    def weigh(self, features: Tensor, sums: Tensor) -> None:
        """Add the weighted features to the readings' sums `(N, L)`, in place."""
        assert self.weights is not None  # the caller looked
        own = sums[:, self.readings]
        if self.sets == 1:
            own.addmm_(features[0], self.weights[0])
        else:  # in place, torch would go through the groups one by one
            own.add_(torch.bmm(features, self.weights).view_as(own))

    def open(self, opened: Tensor) -> OpenEdits:
        """The edits of the `opened` rules `(N, R)`."""
        grouped = opened.view(self.groups, -1, opened.shape[-1])
        if self.only_rule is not None:
            return OpenEdits((self._only(grouped),), None)
        shape = (*grouped.shape[:2], self.edits[0].owner.shape[-1])
        on = tuple(grouped.gather(2, edits.owner.expand(shape)) for edits in self.edits)
        return OpenEdits(on, None if self.rebuild is None else (opened & self.rebuild.rules).any(dim=-1).view(1, -1))

    def _only(self, grouped: Tensor) -> Tensor:
        if isinstance(self.only_rule, int):
            found = grouped[..., self.only_rule : self.only_rule + 1]
            return found.clone() if torch.is_grad_enabled() else found  # gradients need it as it was at this site
        assert self.only_rule is not None  # the caller looked
        return grouped.gather(2, self.only_rule.expand(*grouped.shape[:2], 1))

    def write(self, y: Tensor, x: Tensor, features: Tensor, opened: OpenEdits) -> Tensor:
        """Activations `y` `(P, N / P, d_in)`, in float32 `x`, after the open edits.

        Of two on one feature the first acts. A token keeps its bits where no rule is open; where there may be several,
        also if they change no feature.
        """
        if self.only_rule is not None:
            (edits,), (tokens,) = self.edits, opened.on
            edited = ops.feature_change(features, None, edits.scale, edits.shift, edits.bounds)
            return ops.write_grouped(y, x, edited, self.columns.W_dec, tokens)
        own = features if self.groups == self.sets else features.view(self.groups, -1, features.shape[-1])
        change: Tensor | float = 0.0
        for (_, scale, shift, bounds), on in zip(self.edits, opened.on, strict=True):
            change = ops.feature_change(own, on, scale, shift, bounds, change)
        assert isinstance(change, Tensor)  # there are some edits
        change = change.view_as(features)
        out, rebuild = y, self.rebuild
        if rebuild is None or not rebuild.all:
            tokens = None if opened.always else change.any(dim=-1, keepdim=True)
            out = ops.write_grouped(y, x, change, self.columns.W_dec, tokens)
        if rebuild is None or opened.rebuilt is None:
            return out
        W_dec = self.columns.W_dec
        return ops.write_reconstruction(y, out, opened.rebuilt, change, rebuild.indices, rebuild.sae, W_dec)


def gather(table: SiteTable, rows: Sequence[int]) -> Gathered:
    """A site's tables for groups in these table rows: one group if all are the same row, else one for each.

    Where rows differ, columns stay shared if they would take too much memory, if the complete dictionary is needed
    anyway, or if few policies belong to many groups, so that multiplying all by all costs less than loading each one's.
    """
    rows = rows[:1] if len(set(rows)) == 1 else rows
    every = len(table.latents)
    size = max(1, *(len(table.held[row]) for row in rows))
    taken = 8 * len(rows) * size * table.columns.W_dec.shape[1]
    complete = table.columns.whole is not None or table.reconstructs is not None
    few = every * (READ + len(rows)) <= READ * len(rows) * size
    shared = len(rows) > 1 and (few or taken > _MOST_BYTES)
    if complete or shared or (len(rows) == 1 and size == every):
        return _by_token(table, _shared(table, rows), rows)
    return _by_token(table, _own(table, rows, size), rows)


def edits_of(owner: Tensor, numbers: Tensor, *, scaled: bool = True, bounded: bool = True) -> tuple[Edits, ...]:
    """The edits of owners `(K, Q, S)` and numbers `(4, K, Q, S)`, as views."""
    ranks = zip(owner.unsqueeze(2).unbind(), *(part.unbind() for part in numbers.unsqueeze(3)), strict=True)
    return tuple(
        Edits(own, scale if scaled else None, shift, (floor, ceiling) if bounded else None)
        for own, scale, shift, floor, ceiling in reversed(list(ranks))
    )


def _by_token(table: SiteTable, found: Gathered, rows: Sequence[int]) -> Gathered:
    """The tables, to be written by token where one rule edits in each group: there all its edits act, or none."""
    alone = [table.alone[row] for row in rows]
    only = [column for column in alone if column is not None]
    if table.editors is None or table.reconstructs is not None or len(only) < len(rows) or len(rows) > found.sets:
        return found
    first = found.edits[-1]
    written = torch.where((first.owner > 0).mT, found.columns.W_dec, 0.0)
    rule = only[0] if len(only) == 1 else torch.tensor(only, device=written.device).view(-1, 1, 1)
    return replace(found, columns=found.columns._replace(W_dec=written), edits=(first,), only_rule=rule)


def _shared(table: SiteTable, rows: Sequence[int]) -> Gathered:
    """Groups that share the columns of all features of the site."""
    columns, weights = table.columns, table.gates
    at = torch.tensor(rows, device=table.owner.device)
    one = Columns(
        columns.W_enc.unsqueeze(0),
        columns.b_enc.view(1, 1, -1),
        columns.W_dec.unsqueeze(0),
        columns.threshold,
        columns.gate,
        columns.whole,
        columns.indices,
    )
    return Gathered(
        one,
        None if weights is None else weights[:, table.leaves].unsqueeze(0),
        table.leaves,
        edits_of(table.owner[:, at], table.numbers[:, :, at], scaled=table.scaled, bounded=table.bounded),
        len(rows),
        1,
        rebuild=_rebuild(table),
    )


def _own(table: SiteTable, rows: Sequence[int], size: int) -> Gathered:
    """Groups with columns of their own; those with fewer features are padded with some that no rule of theirs edits."""
    device = table.owner.device
    places = torch.tensor([[*table.held[row], *[0] * (size - len(table.held[row]))] for row in rows], device=device)
    real = torch.tensor([[s < len(table.held[row]) for s in range(size)] for row in rows], device=device)
    at = torch.tensor(rows, device=device).unsqueeze(-1)
    owner, numbers = torch.where(real, table.owner[:, at, places], 0), table.numbers[:, :, at, places]
    weights = None
    if table.gates is not None:
        weights = torch.where(real.unsqueeze(-1), table.gates[places][..., table.leaves], 0.0)
    return Gathered(
        table.columns.in_lanes(places),
        weights,
        table.leaves,
        edits_of(owner, numbers, scaled=table.scaled, bounded=table.bounded),
        len(rows),
        len(rows),
    )


def _rebuild(table: SiteTable) -> Rebuild | None:
    if table.reconstructs is None:
        return None
    assert table.sae is not None  # reconstructing rules edit features of it
    return Rebuild(table.sae, table.indices, table.reconstructs, table.all_reconstruct)
