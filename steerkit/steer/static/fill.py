"""The host's side of static steering: fills the buffers, resumes after a prefill, and sets the places of each token."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor

from steerkit.errors import SteeringError
from steerkit.sites import Site
from steerkit.steer.batch import COLUMN_PLACES
from steerkit.steer.compile.gates import Leaf
from steerkit.steer.compile.plan import SiteTable
from steerkit.steer.eager.attached import PrefillState
from steerkit.steer.gates import FOREVER, NEVER, GateState
from steerkit.steer.static.buffers import StaticSite, StaticSteering
from steerkit.steer.static.capacity import PackedPlan, PlanSlice
from steerkit.types import Place

_DECODED: frozenset[Place] = frozenset({"any", "reply"})
"""Places, among those known from columns alone, of every token after the prompt."""


class Fill:
    """Some requests in the buffers of a `StaticSteering`; to fill them again, make another."""

    def __init__(self, steering: StaticSteering, packed: PackedPlan, rows: Sequence[int]) -> None:
        """Fill the tables, at the identity before.

        Raises:
            SteeringError: the plan does not fit.
        """
        if (what := packed.needs.exceeds(steering.capacity)) is not None:
            raise SteeringError(f"the plan does not fit the static buffers: {what}; make them with more capacity")
        if len(rows) != steering.rows:
            raise SteeringError(f"the static buffers are for {steering.rows} requests, but {len(rows)} rows came")
        self.steering, self.packed, self.rows = steering, packed, tuple(rows)
        self.steps = 0
        """Tokens since."""
        self._known: dict[tuple[int, frozenset[Place]], Tensor] = {}
        self._seen: list[frozenset[Place]] = []
        self._prefill_state: PrefillState | None = None
        steering.clear()
        self._columns, self._leaves = self._numbers_in_the_plan()
        if steering.capacity.rules:
            self._fill_gates()
            for site, table in packed.plan.sites.items():
                self._fill_site(steering.sites[site], table)
        self._stand([_DECODED] * len(rows))

    def resume(self, prefill_state: PrefillState) -> None:
        """Resume after a prompt that `attach` prefilled; its hooks are removed."""
        steering, positions, recorder = self.steering, prefill_state.positions, prefill_state.recorder
        if positions.seen >= steering.columns:
            raise SteeringError(
                f"{positions.seen} tokens came before, but the static buffers have {steering.columns} columns"
            )
        steering.column.fill_(positions.seen - 1)
        before = positions.before
        steering.number.copy_(before.unsqueeze(-1) - 1 if isinstance(before, Tensor) else torch.tensor(before - 1))
        if steering.capacity.remembers:
            self._recall(prefill_state.gate_states)
        recorder.record_into(
            {site: own.raw for site, own in steering.sites.items() if site in recorder.kept}, steering.columns
        )
        self._prefill_state = prefill_state
        prefill_state.take_off()

    def see(self, tokens: Sequence[int]) -> None:
        """Advance by one token of each request, the input of the next step."""
        self.steps += 1
        grammar_states = None if self._prefill_state is None else self._prefill_state.positions.grammar_states
        if grammar_states is not None:
            self._stand([(here - COLUMN_PLACES) | _DECODED for here in grammar_states.resume(tokens)])
        if self._prefill_state is not None:
            self._prefill_state.recorder.length += 1

    def settle(self) -> None:
        """Copy the steps from the buffers to the recorder; the buffers are free then."""
        if self._prefill_state is None:
            return
        recorder, plan, steering = self._prefill_state.recorder, self.packed.plan, self.steering
        recorder.leave()
        recorder.forwards += self.steps
        for site in recorder.fired:
            recorder.fired[site] += int(self.steering.sites[site].fired)
        start, end = recorder.length - self.steps, recorder.length
        opened = torch.zeros(len(self.rows), self.steps, len(plan.rules) + 1, dtype=torch.bool, device=steering.device)
        edited = [site for site, table in plan.sites.items() if table.editors is not None]
        for site in edited if self.steps else ():
            here = steering.sites[site].opened[:, start:end]
            opened |= torch.zeros_like(opened).scatter_(2, self._columns.unsqueeze(1).expand_as(here), here)
        if edited and self.steps:
            recorder.keep_open(opened, start)
        self._prefill_state = None

    def _numbers_in_the_plan(self) -> tuple[Tensor, Tensor]:
        """`(B, R)` column in the plan of each rule, and `(B, L)` of each reading; for none, 0 and one past the end."""
        capacity, leaves = self.steering.capacity, self.packed.leaves
        number = {known: n for n, known in enumerate(leaves)}
        columns = self._each(lambda plan_slice: [0, *plan_slice.columns], capacity.rules, 0)
        own = self._each(
            lambda plan_slice: [number[known] for known in plan_slice.leaves], capacity.readings, len(leaves)
        )
        return columns, own

    def _each(self, values: Callable[[PlanSlice], Iterable[float]], size: int, pad: float) -> Tensor:
        """`(B, size)` values of each request's plan_slice, on the device."""
        by_row = {row: (list(values(self.packed.slices[row])) + [pad] * size)[:size] for row in set(self.rows)}
        return torch.tensor([by_row[row] for row in self.rows], device=self.steering.device).view(len(self.rows), size)

    def _fill_gates(self) -> None:
        steering, capacity = self.steering, self.steering.capacity
        R, L = capacity.rules, capacity.readings
        steering.known.copy_(self._each(lambda s: [-1, *(r.gate.site.order if r.gate else -1 for r in s.rules)], R, -1))
        steering.late.copy_(self._each(lambda s: [False, *(rule.late for rule in s.rules)], R, False))
        steering.writes.copy_(self._each(lambda s: [False, *(rule.writes for rule in s.rules)], R, False))
        steering.hold.copy_(self._each(lambda s: [1, *(_hold(r.gate.hold if r.gate else 1) for r in s.rules)], R, 1))
        if not L:
            return
        bounds = self._each(lambda s: chain.from_iterable(_bounds(leaf) for _, leaf in s.leaves), 4 * L, math.nan)
        steering.bounds.copy_(bounds.view(-1, L, 4).permute(2, 0, 1))
        steering.read_at.copy_(self._each(lambda s: [known.site.order for known in s.leaves], L, -1))
        windows = self._each(lambda s: [leaf.window for _, leaf in s.leaves], L, 0)
        steering.windowed.copy_(windows > 1)
        steering.means.copy_(self._each(lambda s: [leaf.mean for _, leaf in s.leaves], L, False))
        ages = torch.arange(capacity.window - 1, -1, -1, device=steering.device)
        steering.spans.copy_(ages < windows.unsqueeze(-1))
        self._fill_terms()

    def _fill_terms(self) -> None:
        capacity = self.steering.capacity
        slices = self.packed.slices
        wanted, wants = (
            torch.zeros(len(slices), capacity.readings, capacity.terms),
            torch.full((len(slices), capacity.terms), -1.0),
        )
        terms = torch.zeros(len(slices), capacity.terms, capacity.rules)
        for number, plan_slice in enumerate(slices):
            for m, (rule, term) in enumerate(plan_slice.terms):
                terms[number, m, rule] = 1
                wants[number, m] = sum(holds for _, holds in term)
                for leaf, holds in term:
                    wanted[number, leaf, m] = 1 if holds else -1
        rows = list(self.rows)
        self.steering.wanted.copy_(wanted[rows])
        self.steering.wants.copy_(wants[rows])
        self.steering.terms.copy_(terms[rows])

    def _fill_site(self, site: StaticSite, table: SiteTable) -> None:
        capacity, columns = self.steering.capacity, table.columns
        S = len(table.latents)
        place = self._each(
            lambda plan_slice: plan_slice.places[site.site], capacity.features, S
        )  # (B, S), the last one is none
        site.count.copy_(self._each(lambda plan_slice: [len(plan_slice.places[site.site])], 1, 0).squeeze(1))
        none = torch.zeros(1, columns.W_dec.shape[1], device=place.device)
        site.W_enc.copy_(torch.cat([columns.W_enc.T, none])[place])
        site.W_dec.copy_(torch.cat([columns.W_dec, none])[place])
        gain, lift = torch.ones(S), torch.zeros(S)
        threshold = torch.full((S,), -math.inf) if columns.threshold is None else columns.threshold
        if columns.gate is not None:
            gain, lift, threshold = columns.gate.r_mag.exp(), columns.gate.b_mag, -columns.gate.b_gate
        units = torch.stack([part.to(place.device) for part in (columns.b_enc, gain, lift, threshold)])
        site.units.copy_(torch.cat([units, units.new_zeros(4, 1)], dim=1)[:, place])
        if table.gates is not None and capacity.readings:
            weights = torch.nn.functional.pad(table.gates, (0, 1, 0, 1))
            site.weights.copy_(weights[place.unsqueeze(-1), self._leaves.unsqueeze(1)])
        if table.editors is not None:
            self._fill_edits(site, table, place)

    def _fill_edits(self, site: StaticSite, table: SiteTable, place: Tensor) -> None:
        """The edits of each request, its rules by their numbers in its plan_slice."""
        assert table.editors is not None  # the caller looked
        rows = torch.tensor(self.rows, device=place.device)
        b = torch.arange(len(rows), device=place.device)
        own = torch.zeros(len(rows), len(self.packed.plan.rules) + 1, dtype=torch.long, device=place.device)
        own.scatter_(
            1, self._columns, torch.arange(self._columns.shape[1], device=place.device).expand_as(self._columns)
        )
        own[:, 0] = 0
        depth = len(table.owner)
        some = place < len(table.latents)
        place = torch.where(some, place, 0)
        owner = table.owner[:, rows.unsqueeze(-1), place]
        site.owner[:depth].copy_(torch.where(some, own[b.view(1, -1, 1), owner], 0))
        numbers = table.numbers[:, :, rows.unsqueeze(-1), place]
        site.numbers[:, :depth].copy_(torch.where(some, numbers, site.numbers[:, :depth]))
        site.editors.copy_(table.editors[self._columns])

    def _recall(self, gate_states: Mapping[Site, GateState]) -> None:
        """Copy the memory of all gates to the buffers."""
        steering, packed, B = self.steering, self.packed, len(self.rows)
        W, device = steering.capacity.window, steering.device
        latched = torch.zeros(B, len(packed.leaves) + 1, dtype=torch.bool, device=device)
        tail = torch.zeros(B, len(packed.leaves) + 1, W, device=device)
        counts = torch.zeros_like(tail, dtype=torch.bool)
        last_open = torch.full((B, len(packed.plan.rules) + 1), NEVER, device=device)
        for site, state in gate_states.items():
            memory, table = state.memory, packed.plan.gates[site]
            if memory is None:
                continue
            latched[:, table.leaves], last_open[:, table.rules] = memory.latched, memory.last_open
            if table.gates.windows is not None and table.gates.windows.readings is not None:
                over = table.leaves.start + table.gates.windows.readings
                tail[:, over, W - memory.values.shape[-1] :] = memory.values
                counts[:, over, W - memory.values.shape[-1] :] = memory.counted
        b = torch.arange(B, device=device).unsqueeze(-1)
        steering.latched.copy_(latched[b, self._leaves])
        steering.last_open.copy_(last_open[b, self._columns])
        steering.tail.copy_(tail[b, self._leaves])
        steering.tail_counts.copy_(counts[b, self._leaves])

    def _stand(self, places: list[frozenset[Place]]) -> None:
        """Set the masks of tokens at these places, if they differ from those of the token before."""
        if not self.steering.capacity.rules or places == self._seen:
            return
        self._seen = places
        masks = torch.stack([self._mask(row, here) for row, here in zip(self.rows, places, strict=True)])
        self.steering.masks.copy_(masks, non_blocking=True)

    def _mask(self, row: int, here: frozenset[Place]) -> Tensor:
        """`(2 R + L,)` masks of a row's rules at a token at these places."""
        if (row, here) not in self._known:
            capacity, plan_slice = self.steering.capacity, self.packed.slices[row]
            allowed = [False, *(rule.place in here for rule in plan_slice.rules)]
            reads = [False, *(rule.reads_at in here for rule in plan_slice.rules)]
            counts = [leaf.at is None or leaf.at in here for _, leaf in plan_slice.leaves]
            padded = zip((allowed, reads, counts), (capacity.rules, capacity.rules, capacity.readings), strict=True)
            flat = [value for part, size in padded for value in part + [False] * (size - len(part))]
            self._known[row, here] = torch.tensor(flat, dtype=torch.bool)
        return self._known[row, here]


def _hold(tokens: float) -> int:
    return int(min(tokens, FOREVER))


def _bounds(leaf: Leaf) -> tuple[float, float, float, float]:
    return leaf.bias, leaf.low, leaf.high, math.nan if leaf.off is None else leaf.off
