"""Steers rows that are decoded together: each joins after a prefill of its own, and leaves when it has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeAlias

import torch
from torch import Tensor, nn

from steerkit.chat import GrammarState, PlaceMachine
from steerkit.errors import SteeringError
from steerkit.policy import Policy, fingerprint
from steerkit.sites import Site
from steerkit.steer.batch import Batch, Segments, TokenPlaces, needs_tokens
from steerkit.steer.compile.plan import Plan, SiteTable
from steerkit.steer.eager.attached import PrefillState
from steerkit.steer.gates import GateMemory
from steerkit.steer.grammar_state import advance
from steerkit.steer.memory import Moved, moved, shared
from steerkit.steer.points import device_of, find_sites
from steerkit.steer.record.recorder import Recorder
from steerkit.steer.steering import Steering
from steerkit.types import PROMPT_PLACES, Place

Key: TypeAlias = tuple[str, ...]
"""Fingerprints of a row's policies."""
PlanOf: TypeAlias = Callable[[Sequence[Sequence[Policy]]], Plan]
"""Compiles rows of policies in their order."""

_MOST_ROWS: Final = 32
"""Rows of policies that a plan holds before those that nobody is under are left out."""


@dataclass(slots=True)
class _Row:
    """One sequence that is decoded."""

    recorder: Recorder
    policies: tuple[Policy, ...]
    reply_start: int
    grammar: GrammarState | None
    """State of the conversation's grammar; None where no rule of its own asks."""
    table_row: int = 0
    column: int = 0
    """Tokens before the pass that runs, and its column on the recorder."""
    key: Key = field(init=False)

    def __post_init__(self) -> None:
        self.key = tuple(map(fingerprint, self.policies))


class JoinedSteering:
    """Rows of one decode, each under policies of its own, on a recorder of its own.

    The hooks are on the model during a pass and not between two, so that other prompts are prefilled there.
    """

    def __init__(self, model: nn.Module, plan_of: PlanOf, machine: PlaceMachine | None) -> None:
        self._sites, self._plan_of, self._machine = find_sites(model), plan_of, machine
        self._device = device_of(self._sites.body) or torch.device("cpu")
        self._rows: list[_Row] = []
        self._held: dict[Key, tuple[Policy, ...]] = {}
        """Rows of the plan, in order."""
        self._own: list[Tensor] = []
        """By table row, the columns of its rules in the plan."""
        self._steering = Steering(plan_of([]), self._device)
        self._asks = self._active = False
        """True if a place is read from tokens, and if a rule may read or edit any of the rows'."""
        self._keeping: dict[Site, list[tuple[int, _Row]]] = {}
        """By site, the rows that keep its activations, and their numbers."""
        self._tables: dict[Site, SiteTable | None] = {}
        """By hooked site, what it is steered by."""
        self._fired: dict[Site, int] = {}
        self._seen: object = None
        """The key of the last pass' places; None where they are to be found again."""
        self._batch: Batch | None = None
        """Its tokens."""

    @property
    def acts_late(self) -> bool:
        """True if a rule acts from the token after its gate on, so that tokens must come one by one."""
        return self._steering.plan.has_late_rules

    def join(self, state: PrefillState) -> None:
        """Take in a sequence after its prefill under `attach`, whose hooks are off; it is the last row."""
        positions, (policies,) = state.positions, state.plan.rows or ((),)
        grammar = positions.grammar_states
        ends = state.recorder.reply_start
        assert isinstance(ends, int)  # one sequence has no padding
        asks = grammar is not None and bool(_in_replies(state.plan))
        row = _Row(state.recorder, policies, ends, grammar.snapshot()[0] if grammar is not None and asks else None)
        self._arrange([*self._rows, row], list(range(len(self._rows))), state)

    def leave(self, index: int) -> None:
        """Let a row go; the last one takes its place."""
        order = list(range(len(self._rows)))
        order[index] = order[-1]
        self._arrange([self._rows[number] for number in order[:-1]], order[:-1])

    @contextmanager
    def reading(self, tokens: Sequence[Sequence[int]]) -> Iterator[None]:
        """Steer the pass inside this `with`, over the next tokens of each row: as many of all.

        Raises:
            SteeringError: a hook did not run.
        """
        self._begin(tokens)
        self._fired = dict.fromkeys(self._tables, 0)
        with ExitStack() as stack:
            for site in self._tables:
                stack.callback(self._sites.hook(site, partial(self._on_pass, site)).remove)
            yield
        if silent := [site.name for site, count in self._fired.items() if count != 1]:
            raise SteeringError(f"{', '.join(silent)}: the hook did not run once in the pass, so it was not steered")
        if self._active:
            self._keep_open(len(tokens[0]))

    def _arrange(self, rows: list[_Row], slots: list[int], joined: PrefillState | None = None) -> None:
        """Set the rows: first those that were in these slots, then the one that joins."""
        before, numbers = self._steering, dict(enumerate(self._held, start=1))
        self._compile(rows)
        plan, place = self._steering.plan, {key: number for number, key in enumerate(self._held, start=1)}
        for row in rows:
            row.table_row = place.get(row.key, 0)
        same = {0: 0} | {number: place[key] for number, key in numbers.items() if key in place}
        for site, state in self._steering.gate_states.items():
            gates, parts = plan.gates[site].gates, []
            old = before.gate_states.get(site)
            if slots and old is not None and old.memory is not None:
                columns = shared(before.plan, plan, site, same)
                parts.append(Moved(old.memory, slots, range(len(slots)), columns))
            own = None if joined is None else joined.gate_states.get(site)
            if joined is not None and own is not None and own.memory is not None:
                columns = shared(joined.plan, plan, site, {1: rows[-1].table_row})
                parts.append(Moved(own.memory, [0], [len(rows) - 1], columns))
            if gates.stateful:
                state.memory = moved(GateMemory.empty(gates, len(rows), state.device), parts)
        self._rows, self._seen = rows, None
        self._steering.gather_for([row.table_row for row in rows])
        reached = _in_replies(plan)
        self._active = any(row.table_row in reached for row in rows)
        kept = sorted({site for row in rows for site in row.recorder.kept})
        self._keeping = {site: [one for one in enumerate(rows) if site in one[1].recorder.kept] for site in kept}
        self._tables = {**dict.fromkeys(kept), **(plan.sites if self._active else {})}

    def _compile(self, rows: Sequence[_Row]) -> None:
        """Have a plan that holds the policies of all rows: the one that there is, if it does."""
        wanted = {row.key: row.policies for row in rows if row.policies}
        if wanted.keys() <= self._held.keys():
            return
        both = {**self._held, **wanted}
        kept = both if len(both) <= _MOST_ROWS else wanted
        self._held = dict(sorted(kept.items()))  # one order, so that compiled plans are found again
        plan = self._plan_of(list(self._held.values()))
        self._steering = Steering(plan, self._device)
        columns: list[list[int]] = [[0] for _ in range(len(plan.rows) + 1)]
        for column, rule in enumerate(plan.rules, start=1):
            columns[rule.row].append(column)
        self._own = [torch.tensor(some, device=self._device) for some in columns]
        self._asks = any(needs_tokens([rule.place, rule.reads_at]) for rule in plan.rules)

    def _begin(self, tokens: Sequence[Sequence[int]]) -> None:
        """Note the tokens of a pass, and open the rules that are open before any site has run."""
        width = len(tokens[0])
        for row in self._rows:
            row.column = row.recorder.resume_pass(width)
        if not self._active:
            return
        grammar = self._read(tokens) if self._asks else None
        key, batch = (width, None if grammar is None else grammar.key), self._batch
        same = key == self._seen
        if batch is None or not same or self._steering.plan.remembers:
            batch = self._batch = self._tokens(width)
        if not same:
            self._seen = key
            self._steering.place(batch, grammar, keeps=True)
        self._steering.begin(batch)

    def _read(self, tokens: Sequence[Sequence[int]]) -> TokenPlaces:
        """Advance the grammar of each row whose rules ask for it; the places of the tokens of all."""
        places = list[list[frozenset[Place]]]()
        for row, own in zip(self._rows, tokens, strict=True):
            here: list[frozenset[Place]] = [frozenset()] * len(own)
            if row.grammar is not None:
                assert self._machine is not None  # its prefill asked for one
                states, here = advance(self._machine, row.grammar, own)
                row.grammar = states[-1]
            places.append(here)
        return TokenPlaces(places, self._device)

    def _tokens(self, width: int) -> Batch:
        known = [(row.table_row, row.column, row.reply_start) for row in self._rows]
        table, first, ends = torch.tensor(known, device=self._device).unbind(-1)
        segments = None
        if width > 1:
            first = (first.unsqueeze(-1) + torch.arange(width, device=self._device)).flatten()
            table, ends = table.repeat_interleave(width), ends.repeat_interleave(width)
            segments = Segments.equal(len(known), width, self._device)
        return Batch(table, first, first, ends, segments)

    def _on_pass(self, site: Site, y: Tensor) -> Tensor | None:
        self._fired[site] += 1
        table = self._tables[site]
        out = None if table is None else self._steering.steer(table, y)
        if keeping := self._keeping.get(site):
            # What is edited is ours alone: the model continues with another tensor.
            own = (y.clone() if out is None else y).chunk(len(self._rows))
            for number, row in keeping:
                row.recorder.keep_raw(site, own[number], row.column, ours=True)
        return out

    def _keep_open(self, width: int) -> None:
        """Keep which rules were open at the tokens of the pass, of each row its own."""
        opened = self._steering.opened.unflatten(0, (len(self._rows), width))
        by_table = {row: opened[..., self._own[row]] for row in {one.table_row for one in self._rows} if row}
        for number, row in enumerate(self._rows):
            if row.table_row:
                row.recorder.keep_open(by_table[row.table_row][number : number + 1], row.column)


def _in_replies(plan: Plan) -> frozenset[int]:
    """Table rows with a rule that may read or edit a token after the prompt."""
    before = PROMPT_PLACES | {"reply.start"}
    return frozenset(rule.row for rule in plan.rules if not before.issuperset((rule.place, rule.reads_at)))
