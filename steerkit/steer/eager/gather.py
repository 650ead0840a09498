"""A site's tables for the requests of one batch, and the arithmetic of a pass over them.

Where all requests are under the same policies there is one lane for all tokens. Where they are not, each request has a
lane of its own with the features that its own policies name, so that none is multiplied by another's.

Shapes: Q lanes (1 or B) of M tokens each, N = Q * M; P sets of columns, one for each lane or 1 for all; S features
of a lane, K edits of one feature, l readings that this site adds to, R rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import torch
from torch import Tensor

from steerkit.sae import Columns
from steerkit.steer import ops
from steerkit.steer.compile.plan import SiteTable

_MOST_BYTES: Final = 16 << 20
"""Of the columns of one site, gathered for requests that differ; above, all are multiplied by all."""
_READ: Final = 7
"""By how many rows a column is multiplied in the time that it takes to be read, about."""


class Level(NamedTuple):
    """One edit at most of each feature, `(Q, 1, S)` each."""

    owner: Tensor
    """Column of the rule that edits the feature; 0 where none does."""
    scale: Tensor | None
    """None where it is 0 for all edits of the site."""
    shift: Tensor
    bounds: tuple[Tensor, Tensor] | None
    """Floor and ceiling; None where no edit of the site has any."""


class Acting(NamedTuple):
    """What the rules that are open do at one site."""

    edits: tuple[Tensor | None, ...]
    """By level, which edits act `(Q, M, S)`, or `(Q, M, 1)` at which tokens all do; None where all are known to."""
    whole: Tensor | None
    """`(1, N)` tokens whose activation is rebuilt; None where no rule does that."""

    always: bool = False
    """Whether every feature is known to be edited, at every token."""

    def looked_at(self) -> Acting:
        """The same, once it was asked where all act: worth it for what holds for many tokens."""
        edits = tuple(None if on is None or bool(on.all()) else on for on in self.edits)
        return self._replace(edits=edits, always=any(on is None for on in edits))


@dataclass(frozen=True, slots=True)
class Lanes:
    """What one site does to a batch; its tensors live on the site's device."""

    table: SiteTable
    columns: Columns
    """`(P, d_in, S)`, `(P, S, d_in)` and `(P, 1, S)`; with `alone`, features that it does not edit decode to 0."""
    indices: Tensor | None
    """`(S,)` which features these are, where lanes share them."""
    gates: Tensor | None
    """`(P, S, l)` their weights in the readings' sums; None where no gate reads this site."""
    levels: tuple[Level, ...]
    """The edit that goes last of those on one feature first."""
    number: int
    """Q."""
    sharing: int
    """P."""
    alone: int | Tensor | None = None
    """Column of the one rule that edits a lane's features here, `(Q, 1, 1)` of many; None where there may be more."""

    def read(self, x: Tensor) -> Tensor:
        """Features `(P, N / P, S)` of activations `x` `(P, N / P, d_in)` in float32."""
        return ops.read_lanes(x, self.columns)

    def weigh(self, features: Tensor, sums: Tensor) -> None:
        """Add what features weigh to the readings' sums `(N, L)`."""
        assert self.gates is not None  # the caller looked
        own = sums[:, self.table.leaves]
        if self.sharing == 1:
            own.addmm_(features[0], self.gates[0])
        else:  # in place, torch would go through the lanes one by one
            own.add_(torch.bmm(features, self.gates).view_as(own))

    def acting(self, opened: Tensor) -> Acting:
        """What the `opened` rules `(N, R)` do here."""
        by_lane = opened.view(self.number, -1, opened.shape[-1])
        if self.alone is not None:
            return Acting((self._alone_in(by_lane),), None)
        shape = (*by_lane.shape[:2], self.levels[0].owner.shape[-1])
        edits = tuple(by_lane.gather(2, level.owner.expand(shape)) for level in self.levels)
        rebuilds = self.table.reconstructs
        return Acting(edits, None if rebuilds is None else (opened & rebuilds).any(dim=-1).view(1, -1))

    def _alone_in(self, by_lane: Tensor) -> Tensor:
        if isinstance(self.alone, int):
            found = by_lane[..., self.alone : self.alone + 1]
            return found.clone() if torch.is_grad_enabled() else found  # gradients need it as it was at this layer
        assert self.alone is not None  # the caller looked
        return by_lane.gather(2, self.alone.expand(*by_lane.shape[:2], 1))

    def write(self, y: Tensor, x: Tensor, features: Tensor, acting: Acting) -> Tensor:
        """Activations `y` `(P, N / P, d_in)`, in float32 `x`, after the edits that act.

        Of two on one feature the first acts. A token keeps its bits where no rule is open; where there may be several,
        also if they change no feature.
        """
        if self.alone is not None:
            (level,), (tokens,) = self.levels, acting.edits
            edited = ops.feature_change(features, None, level.scale, level.shift, level.bounds)
            return ops.write_lanes(y, x, edited, self.columns.W_dec, tokens)
        own = features if self.number == self.sharing else features.view(self.number, -1, features.shape[-1])
        change: Tensor | float = 0.0
        for (_, scale, shift, bounds), on in zip(self.levels, acting.edits, strict=True):
            change = ops.feature_change(own, on, scale, shift, bounds, change)
        assert isinstance(change, Tensor)  # there is at least one level
        change = change.view_as(features)
        out = y
        if acting.whole is None or not self.table.all_reconstruct:
            tokens = None if acting.always else change.any(dim=-1, keepdim=True)
            out = ops.write_lanes(y, x, change, self.columns.W_dec, tokens)
        if acting.whole is None:
            return out
        assert self.indices is not None  # such sites' columns are shared
        return ops.write_reconstruction(y, out, acting.whole, change, self.indices, self.table.sae)


def lanes_of(table: SiteTable, rows: Sequence[int]) -> Lanes:
    """The lanes of requests in these table rows: of all of them if they are the same row, else of each.

    Where rows differ, columns stay shared if they would take too much room, if the whole dictionary is needed anyway,
    or if few policies are held by many requests, so that to multiply all by all takes less than to read each one's own.
    """
    rows = rows[:1] if len(set(rows)) == 1 else rows
    every = len(table.indices)
    size = max(1, *(len(table.held[row]) for row in rows))
    taken = 8 * len(rows) * size * table.columns.W_dec.shape[1]
    whole = table.columns.whole is not None or table.reconstructs is not None
    few = every * (_READ + len(rows)) <= _READ * len(rows) * size
    shared = len(rows) > 1 and (few or taken > _MOST_BYTES)
    if whole or shared or (len(rows) == 1 and size == every):
        return _by_token(_shared(table, rows), rows)
    return _by_token(_own(table, rows, size), rows)


def _by_token(lanes: Lanes, rows: Sequence[int]) -> Lanes:
    """The same lanes, prepared to be written by token where one rule edits in each: all its edits act, or none."""
    table, columns = lanes.table, [lanes.table.alone[row] for row in rows]
    found = [column for column in columns if column is not None]
    if table.editors is None or table.reconstructs is not None or len(found) < len(rows) or len(rows) > lanes.sharing:
        return lanes
    first = lanes.levels[-1]
    written = torch.where((first.owner > 0).mT, lanes.columns.W_dec, 0.0)
    alone = found[0] if len(found) == 1 else torch.tensor(found, device=written.device).view(-1, 1, 1)
    return replace(lanes, columns=lanes.columns._replace(W_dec=written), levels=(first,), alone=alone)


def _shared(table: SiteTable, rows: Sequence[int]) -> Lanes:
    """Lanes that share the columns of all features of the site."""
    columns, gates = table.columns, table.gates
    at = torch.tensor(rows, device=table.owner.device)
    levels = _levels(table, table.owner[:, at], table.numbers[:, :, at])
    one = Columns(
        columns.W_enc.unsqueeze(0),
        columns.b_enc.view(1, 1, -1),
        columns.W_dec.unsqueeze(0),
        columns.threshold,
        columns.gate,
        columns.whole,
        columns.indices,
    )
    weights = None if gates is None else gates[:, table.leaves].unsqueeze(0)
    return Lanes(table, one, table.indices, weights, levels, len(rows), 1)


def _own(table: SiteTable, rows: Sequence[int], size: int) -> Lanes:
    """Lanes with columns of their own; one with fewer features is filled up with some that no rule of its edits."""
    columns, device = table.columns, table.owner.device
    places = torch.tensor([[*table.held[row], *[0] * (size - len(table.held[row]))] for row in rows], device=device)
    real = torch.tensor([[s < len(table.held[row]) for s in range(size)] for row in rows], device=device)
    at = torch.tensor(rows, device=device).unsqueeze(-1)
    levels = _levels(table, torch.where(real, table.owner[:, at, places], 0), table.numbers[:, :, at, places])
    own = columns.in_lanes(places)
    weights = None
    if table.gates is not None:
        weights = torch.where(real.unsqueeze(-1), table.gates[places][..., table.leaves], 0.0)
    return Lanes(table, own, places[0] if len(rows) == 1 else None, weights, levels, len(rows), len(rows))


def _levels(table: SiteTable, owner: Tensor, numbers: Tensor) -> tuple[Level, ...]:
    """Of owners `(K, Q, S)` and numbers `(4, K, Q, S)`."""
    by_level = zip(owner.unsqueeze(2).unbind(), *(part.unbind() for part in numbers.unsqueeze(3)), strict=True)
    return tuple(
        Level(own, scale if table.scaled else None, shift, (floor, ceiling) if table.bounded else None)
        for own, scale, shift, floor, ceiling in reversed(list(by_level))
    )
