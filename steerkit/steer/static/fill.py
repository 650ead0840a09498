"""The host's side of fixed steering: fills the buffers, goes on from a prompt, and says where each token stands."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from steerkit.chat.places import places_of
from steerkit.errors import SteeringError
from steerkit.steer.compile.gates import FOREVER, Leaf
from steerkit.steer.compile.plan import Plan, SiteTable
from steerkit.steer.eager.gate_state import NEVER, GateMemory
from steerkit.steer.eager.window import COLUMN_PLACES
from steerkit.steer.positions import Layout
from steerkit.steer.record.recorder import Tape
from steerkit.steer.static.buffers import FixedSite, FixedSteering
from steerkit.steer.static.capacity import Cut, Share
from steerkit.types import Place

_DECODED: frozenset[Place] = frozenset({"any", "reply"})
"""Places, among those known from columns alone, of every token after the prompt."""


@dataclass(frozen=True, slots=True)
class Handover:
    """What `attach` has come to after a prompt, for whoever goes on in another way."""

    plan: Plan
    tape: Tape
    layout: Layout
    memories: Mapping[int, GateMemory]
    pause: Callable[[], AbstractContextManager[None]]
    """Its hooks do nothing inside this `with`."""
    take_off: Callable[[], None]
    """Takes its hooks off the model."""

    @property
    def rows(self) -> list[int]:
        """Table row of each sequence."""
        rows: list[int] = [] if self.tape.rows is None else self.tape.rows.tolist()
        return rows


class Filling:
    """Some requests in the buffers of a `FixedSteering`; to fill them again, make another."""

    def __init__(self, steering: FixedSteering, cut: Cut, rows: Sequence[int]) -> None:
        """Fill the tables, at the identity before.

        Raises:
            SteeringError: the plan does not fit.
        """
        if (what := steering.room.lacks(cut.needs)) is not None:
            raise SteeringError(f"the plan does not fit the fixed buffers: {what}; make them with more capacity")
        if len(rows) != steering.rows:
            raise SteeringError(f"the fixed buffers are for {steering.rows} requests, but {len(rows)} rows came")
        self.steering, self.cut, self.rows = steering, cut, tuple(rows)
        self.steps = 0
        """Tokens since."""
        self._known: dict[tuple[int, frozenset[Place]], Tensor] = {}
        self._seen: list[frozenset[Place]] = []
        self._handover: Handover | None = None
        steering.clear()
        self._columns, self._leaves = self._numbers_in_the_plan()
        if steering.room.rules:
            self._fill_gates()
            for layer, table in cut.plan.sites.items():
                self._fill_site(steering.sites[layer], table)
        self._stand([_DECODED] * len(rows))

    def go_on(self, handover: Handover) -> None:
        """Go on from a prompt that `attach` has read, which from now on reads no more: its hooks come off."""
        steering, layout, tape = self.steering, handover.layout, handover.tape
        if layout.seen >= steering.columns:
            raise SteeringError(
                f"{layout.seen} tokens came before, but the fixed buffers have {steering.columns} columns"
            )
        steering.column.fill_(layout.seen - 1)
        before = layout.before
        steering.number.copy_(before.unsqueeze(-1) - 1 if isinstance(before, Tensor) else torch.tensor(before - 1))
        if steering.room.remembers:
            self._recall(handover.memories)
        tape.go_on_in(
            {layer: site.raw for layer, site in steering.sites.items() if layer in tape.kept}, steering.columns
        )
        self._handover = handover
        handover.take_off()

    def see(self, tokens: Sequence[int]) -> None:
        """Say which token of each request the next step reads."""
        self.steps += 1
        standings = None if self._handover is None else self._handover.layout.standings
        if standings is not None:
            self._stand([(places_of(one) - COLUMN_PLACES) | _DECODED for one in standings.go_on(tokens)])
        if self._handover is not None:
            self._handover.tape.length += 1

    def settle(self) -> None:
        """Leave on the tape what the steps left in the buffers, which are free for others then."""
        if self._handover is None:
            return
        tape, plan, steering = self._handover.tape, self.cut.plan, self.steering
        tape.leave()
        tape.forwards += self.steps
        for layer in tape.fired:
            tape.fired[layer] += int(self.steering.sites[layer].fired)
        start, end = tape.length - self.steps, tape.length
        opened = torch.zeros(len(self.rows), self.steps, len(plan.rules) + 1, dtype=torch.bool, device=steering.device)
        edited = [layer for layer, table in plan.sites.items() if table.editors is not None]
        for layer in edited if self.steps else ():
            here = steering.sites[layer].opened[:, start:end]
            opened |= torch.zeros_like(opened).scatter_(2, self._columns.unsqueeze(1).expand_as(here), here)
        if edited and self.steps:
            tape.keep_open(opened, start)
        self._handover = None

    def _numbers_in_the_plan(self) -> tuple[Tensor, Tensor]:
        """`(B, R)` column in the plan of each rule, and `(B, L)` of each reading; for none, 0 and one past the end."""
        room, leaves = self.steering.room, self.cut.leaves
        number = {known: n for n, known in enumerate(leaves)}
        columns = self._each(lambda share: [0, *share.columns], room.rules, 0)
        own = self._each(lambda share: [number[known] for known in share.leaves], room.readings, len(leaves))
        return columns, own

    def _each(self, values: Callable[[Share], Iterable[float]], size: int, pad: float) -> Tensor:
        """`(B, size)` values of each request's share, on the device."""
        by_row = {row: (list(values(self.cut.shares[row])) + [pad] * size)[:size] for row in set(self.rows)}
        return torch.tensor([by_row[row] for row in self.rows], device=self.steering.device).view(len(self.rows), size)

    def _fill_gates(self) -> None:
        steering, room = self.steering, self.steering.room
        R, L = room.rules, room.readings
        steering.known.copy_(self._each(lambda s: [-1, *(r.gate.layer if r.gate else -1 for r in s.rules)], R, -1))
        steering.late.copy_(self._each(lambda s: [False, *(rule.late for rule in s.rules)], R, False))
        steering.writes.copy_(self._each(lambda s: [False, *(rule.writes for rule in s.rules)], R, False))
        steering.hold.copy_(self._each(lambda s: [1, *(_hold(r.gate.hold if r.gate else 1) for r in s.rules)], R, 1))
        if not L:
            return
        bounds = self._each(lambda s: chain.from_iterable(_bounds(leaf) for _, leaf in s.leaves), 4 * L, math.nan)
        steering.bounds.copy_(bounds.view(-1, L, 4).permute(2, 0, 1))
        steering.read_at.copy_(self._each(lambda s: [known.layer for known in s.leaves], L, -1))
        windows = self._each(lambda s: [leaf.window for _, leaf in s.leaves], L, 0)
        steering.windowed.copy_(windows > 1)
        steering.means.copy_(self._each(lambda s: [leaf.mean for _, leaf in s.leaves], L, False))
        ages = torch.arange(room.window - 1, -1, -1, device=steering.device)
        steering.spans.copy_(ages < windows.unsqueeze(-1))
        self._fill_terms()

    def _fill_terms(self) -> None:
        room = self.steering.room
        shares = self.cut.shares
        wanted, wants = torch.zeros(len(shares), room.readings, room.terms), torch.full((len(shares), room.terms), -1.0)
        terms = torch.zeros(len(shares), room.terms, room.rules)
        for number, share in enumerate(shares):
            for m, (rule, term) in enumerate(share.terms):
                terms[number, m, rule] = 1
                wants[number, m] = sum(holds for _, holds in term)
                for leaf, holds in term:
                    wanted[number, leaf, m] = 1 if holds else -1
        rows = list(self.rows)
        self.steering.wanted.copy_(wanted[rows])
        self.steering.wants.copy_(wants[rows])
        self.steering.terms.copy_(terms[rows])

    def _fill_site(self, site: FixedSite, table: SiteTable) -> None:
        room, columns = self.steering.room, table.columns
        S = len(table.indices)
        place = self._each(lambda share: share.places[site.layer], room.features, S)  # (B, S), the last one is none
        site.count.copy_(self._each(lambda share: [len(share.places[site.layer])], 1, 0).squeeze(1))
        none = torch.zeros(1, columns.W_dec.shape[1], device=place.device)
        site.W_enc.copy_(torch.cat([columns.W_enc.T, none])[place])
        site.W_dec.copy_(torch.cat([columns.W_dec, none])[place])
        gain, lift = torch.ones(S), torch.zeros(S)
        threshold = torch.full((S,), -math.inf) if columns.threshold is None else columns.threshold
        if columns.gate is not None:
            gain, lift, threshold = columns.gate.r_mag.exp(), columns.gate.b_mag, -columns.gate.b_gate
        units = torch.stack([part.to(place.device) for part in (columns.b_enc, gain, lift, threshold)])
        site.units.copy_(torch.cat([units, units.new_zeros(4, 1)], dim=1)[:, place])
        if table.gates is not None and room.readings:
            weights = torch.nn.functional.pad(table.gates, (0, 1, 0, 1))
            site.weights.copy_(weights[place.unsqueeze(-1), self._leaves.unsqueeze(1)])
        if table.editors is not None:
            self._fill_edits(site, table, place)

    def _fill_edits(self, site: FixedSite, table: SiteTable, place: Tensor) -> None:
        """The edits of each request, its rules by their numbers in its share."""
        assert table.editors is not None  # the caller looked
        rows = torch.tensor(self.rows, device=place.device)
        b = torch.arange(len(rows), device=place.device)
        own = torch.zeros(len(rows), len(self.cut.plan.rules) + 1, dtype=torch.long, device=place.device)
        own.scatter_(
            1, self._columns, torch.arange(self._columns.shape[1], device=place.device).expand_as(self._columns)
        )
        own[:, 0] = 0
        depth = len(table.owner)
        some = place < len(table.indices)
        place = torch.where(some, place, 0)
        owner = table.owner[:, rows.unsqueeze(-1), place]
        site.owner[:depth].copy_(torch.where(some, own[b.view(1, -1, 1), owner], 0))
        numbers = table.numbers[:, :, rows.unsqueeze(-1), place]
        site.numbers[:, :depth].copy_(torch.where(some, numbers, site.numbers[:, :depth]))
        site.editors.copy_(table.editors[self._columns])

    def _recall(self, memories: Mapping[int, GateMemory]) -> None:
        """Put what the gates of every layer remember in the buffers."""
        steering, cut, B = self.steering, self.cut, len(self.rows)
        W, device = steering.room.window, steering.device
        latched = torch.zeros(B, len(cut.leaves) + 1, dtype=torch.bool, device=device)
        tail = torch.zeros(B, len(cut.leaves) + 1, W, device=device)
        counts = torch.zeros_like(tail, dtype=torch.bool)
        last_open = torch.full((B, len(cut.plan.rules) + 1), NEVER, device=device)
        for memory in memories.values():
            noted, table = memory.noted(), memory.table
            if noted.latched is not None:
                latched[:, table.leaves] = noted.latched
            if noted.last_open is not None:
                last_open[:, table.rules] = noted.last_open
            for reading, (values, counted) in noted.tails.items():
                if (size := values.shape[1]) > 0:
                    tail[:, table.leaves.start + reading, W - size :] = values
                    counts[:, table.leaves.start + reading, W - size :] = counted
        b = torch.arange(B, device=device).unsqueeze(-1)
        steering.latched.copy_(latched[b, self._leaves])
        steering.last_open.copy_(last_open[b, self._columns])
        steering.tail.copy_(tail[b, self._leaves])
        steering.tail_counts.copy_(counts[b, self._leaves])

    def _stand(self, places: list[frozenset[Place]]) -> None:
        """Set the masks of tokens that stand at these places, if they are not those of the token before."""
        if not self.steering.room.rules or places == self._seen:
            return
        self._seen = places
        masks = torch.stack([self._mask(row, here) for row, here in zip(self.rows, places, strict=True)])
        self.steering.masks.copy_(masks, non_blocking=True)

    def _mask(self, row: int, here: frozenset[Place]) -> Tensor:
        """`(2 R + L,)` what a row's rules may do at a token that stands at these places."""
        if (row, here) not in self._known:
            room, share = self.steering.room, self.cut.shares[row]
            allowed = [False, *(rule.place in here for rule in share.rules)]
            reads = [False, *(rule.reads_at in here for rule in share.rules)]
            counts = [leaf.at is None or leaf.at in here for _, leaf in share.leaves]
            padded = zip((allowed, reads, counts), (room.rules, room.rules, room.readings), strict=True)
            flat = [value for part, size in padded for value in part + [False] * (size - len(part))]
            self._known[row, here] = torch.tensor(flat, dtype=torch.bool)
        return self._known[row, here]


def _hold(tokens: float) -> int:
    return int(min(tokens, FOREVER))


def _bounds(leaf: Leaf) -> tuple[float, float, float, float]:
    return leaf.bias, leaf.low, leaf.high, math.nan if leaf.off is None else leaf.off
