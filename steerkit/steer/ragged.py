"""Ragged passes: tokens of several requests one after the other, as engines with continuous batching feed them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

import torch
from torch import Tensor

from steerkit.chat import GrammarState, PlaceMachine
from steerkit.errors import SteeringError
from steerkit.sites import Site
from steerkit.steer.arrangement import Arrangement, arranged
from steerkit.steer.batch import PADDING, Batch, Segments, TokenPlaces, Window, needs_tokens
from steerkit.steer.compile.plan import Plan
from steerkit.steer.grammar_state import advance
from steerkit.steer.record.recorder import Recorder
from steerkit.steer.steering import Steering
from steerkit.types import Place

_Places: TypeAlias = "list[frozenset[Place]]"
_START: Final = GrammarState()
"""The state of the grammar before the first token."""


class Piece(NamedTuple):
    """The tokens of one request in one pass."""

    request: str
    start: int
    """Tokens of the request before them; 0 where it is prefilled from the beginning, also after a preemption."""
    length: int
    prompt_length: int


@dataclass(slots=True)
class _Sequence:
    """One request between passes."""

    row: int
    slot: int
    """Slot of its gate memory."""
    seen: int = 0
    """Tokens so far."""
    state: GrammarState = _START
    """State of the grammar after them."""


class RaggedRecorders:
    """A recorder for each request, which keeps of it what `attach` keeps of one sequence.

    It keeps those of requests that are done until they are taken. Requests that neither a policy nor a trace asks for
    have none.

    Args:
        plan: compiled policies; the sites that they edit are kept.
        trace: more sites to keep.
        rows: by table row, all sites to keep of its requests; of other rows nothing is recorded (default: all of the
            above, of requests under policies, and with `trace` of all).
        copies: True where the engine reuses the memory of activations within a pass, so that they are copied at once.
    """

    def __init__(
        self,
        plan: Plan,
        trace: Iterable[Site | int] = (),
        *,
        rows: Mapping[int, Collection[Site]] | None = None,
        copies: bool = False,
    ) -> None:
        traced = {Site.of(one) for one in trace}
        self._editors = {site: table.editors for site, table in plan.sites.items() if table.editors is not None}
        if rows is None:
            sites = {*traced, *self._editors}
            rows = dict.fromkeys(range(0 if traced else 1, len(plan.rows) + 1), sites)
        self._rows, self._copies = rows, copies
        self.kept: Final = frozenset(site for sites in rows.values() for site in sites)
        """Sites whose raw activations are kept."""
        self._recorders: dict[str, Recorder] = {}
        self._parts: dict[int, tuple[Recorder, slice, int]] = {}
        """By number of a piece, its tokens in the pass and the position of the first."""
        self._decodes = False
        """True if the pass has one token of each request."""

    def take(self, request: str) -> Recorder:
        """The recorder of a request, which is forgotten here. Raises KeyError where there is none."""
        return self._recorders.pop(request)

    def pop(self, request: str) -> Recorder | None:
        """The recorder of a request, which is forgotten here; None where there is none."""
        return self._recorders.pop(request, None)

    def of(self, request: str) -> Recorder:
        """The recorder of a request that is not done. Raises KeyError where there is none."""
        return self._recorders[request]

    def begin_pass(self, pieces: Sequence[Piece], rows: Sequence[int], device: torch.device) -> None:
        """A pass over these pieces, in these table rows, is about to run."""
        self._parts, end = {}, 0
        self._decodes = all(piece.length == 1 for piece in pieces)
        for number, (piece, row) in enumerate(zip(pieces, rows, strict=True)):
            part = slice(end, end := end + piece.length)
            if row not in self._rows:
                continue
            recorder = self._recorders.get(piece.request)
            if recorder is None:
                recorder = self._recorders[piece.request] = Recorder(self._rows[row], (), self._editors)
            fresh, reply_start = piece.start == 0, piece.prompt_length - 1
            at = torch.tensor([row], device=device) if fresh or recorder.rows is None else recorder.rows
            recorder.begin_pass(Window(piece.start, piece.length, at, None, piece.start, reply_start, fresh))
            self._parts[number] = recorder, part, piece.start

    def keep_open(self, opened: Tensor, first: Mapping[int, int]) -> None:
        """Keep which rules are open at the tokens of the pass, in `opened` from these on by number of their piece; they
        are read when it is over. At tokens of other pieces none is."""
        for number, place in first.items():
            if number in self._parts:
                recorder, part, start = self._parts[number]
                recorder.keep_open(opened[place : place + part.stop - part.start].unsqueeze(0), start)

    def keep_raw(self, site: Site, y: Tensor, *, ours: bool) -> None:
        """Keep the activations `(…, d_in)` of the pass's N tokens at a site, see `Recorder.keep_raw`."""
        flat = y.reshape(1, -1, y.shape[-1])
        for recorder, part, start in self._parts.values() if site in self.kept else ():
            if site not in recorder.kept:
                continue
            alone = ours and self._decodes and not self._copies  # not a prefill with them
            recorder.keep_raw(site, flat[:, part], start, ours=alone)


class RaggedSteering:
    """A plan over ragged passes; requests come and go, are prefilled in chunks, preempted and prefilled again.

    Args:
        plan: compiled policies.
        device: device of the decoder's inputs.
        row_of: table row of a request, by its id.
        machine: the tokenizer's place machine; needed where a rule's place follows from tokens.
        recorders: of the requests (default: of those under policies, at the sites that these edit).
        unshared: how the engine is told not to share blocks between requests; None where it shares those alone that
            nothing steered, so that requests without a rule may begin after tokens that are in them.
    """

    def __init__(
        self,
        plan: Plan,
        device: torch.device,
        row_of: Callable[[str], int],
        machine: PlaceMachine | None = None,
        recorders: RaggedRecorders | None = None,
        unshared: str | None = None,
    ) -> None:
        self.steering = Steering(plan, device)
        self.recorders = RaggedRecorders(plan) if recorders is None else recorders
        self._unshared, self._ruled = unshared, {rule.row for rule in plan.rules}
        self.sites: Final = sorted({*plan.sites, *self.recorders.kept})
        """Sites whose activations come to `steer` in every pass."""
        self._row_of, self._machine, self._remembers = row_of, machine, plan.remembers
        self._sequences: dict[str, _Sequence] = {}
        self._free: list[int] = []
        self._by_tokens: set[int] = set()
        """Rows with rules whose places follow from tokens."""
        self.active = False
        """True if any rule may read or edit a token of the pass."""
        self._order = Arrangement([], [], [], {})
        """The order in which its tokens are steered, if so."""
        for rule in plan.rules:
            name = f"policy {rule.policy} steer '{rule.name}'"
            if rule.late:
                raise SteeringError(
                    f"{name}: its gate reads a higher layer than it edits and acts from the next token on, so the last "
                    f"prompt token must be fed alone, which continuous batching does not do; use a runtime on "
                    f"transformers, or attach"
                )
            if needs_tokens([rule.place, rule.reads_at]):
                self._by_tokens.add(rule.row)
                if machine is None:
                    raise SteeringError(f"{name}: its place is read from tokens; give places=…")

    def begin(self, pieces: Sequence[Piece], ids: Tensor) -> None:
        """Begin a pass over the tokens `(N,)` of some requests, in the order of its pieces.

        Raises:
            SteeringError: tokens of a request came out of order, or from a cache that another request filled.
        """
        sequences = [self._sequence(piece) for piece in pieces]
        rows, lengths = [one.row for one in sequences], [piece.length for piece in pieces]
        self.active = any(row in self._ruled for row in rows)
        self.recorders.begin_pass(pieces, rows, ids.device)
        if not self.active:
            return
        if self._remembers:
            self._reserve([one.slot for one, piece in zip(sequences, pieces, strict=True) if piece.start == 0])
        grammar = self._read(sequences, pieces, ids) if self._by_tokens else None
        self._order = order = arranged(rows, lengths, self._ruled, ids.device)
        self.steering.gather_for(order.rows)
        batch = self._batch(order, sequences, pieces, ids.device)
        self.steering.place(batch, None if grammar is None else _in_order(grammar, order, ids.device), keeps=False)
        self.steering.begin(batch)
        self.recorders.keep_open(self.steering.opened, order.first)

    def _batch(
        self, order: Arrangement, sequences: Sequence[_Sequence], pieces: Sequence[Piece], device: torch.device
    ) -> Batch:
        """The tokens of a pass in the order in which they are steered."""
        known = [(sequences[number].row, sequences[number].slot, *pieces[number][1:]) for number in order.pieces]
        row, slot, start, length, prompt = torch.tensor(known, device=device).unbind(-1)
        segments = Segments.ragged([pieces[number].length for number in order.pieces], device, order.padding)
        offset, of = torch.arange(len(segments.of), device=device) - segments.first, segments.of
        position = start[of] + offset
        if padded := any(order.padding):
            position = torch.where(offset < length[of], position, PADDING)
        several = padded or any(pieces[number].length > 1 for number in order.pieces)
        return Batch(
            row[of],
            position,
            position,
            prompt[of] - 1,
            segments if self._remembers and several else None,
            slot if self._remembers else None,
        )

    def steer(self, site: Site, y: Tensor) -> Tensor | None:
        """The activations `(…, d_in)` of the pass's N tokens at a site with their edits; None where it is only read."""
        table = self.steering.plan.sites.get(site) if self.active else None
        self.recorders.keep_raw(site, y, ours=table is not None and table.editors is not None)
        if table is None:
            return None
        flat = y.reshape(-1, y.shape[-1])
        written = self.steering.steer(table, self._order.taken(flat))
        return None if written is None else self._order.put_back(flat, written).view_as(y)

    def keep(self, requests: Collection[str]) -> None:
        """Forget all requests but these."""
        for request in self._sequences.keys() - set(requests):
            self.forget(request)

    def forget(self, request: str) -> None:
        """Forget a request; its recorder is kept until it is taken."""
        if (found := self._sequences.pop(request, None)) is not None:
            self._free.append(found.slot)

    def gap(self, piece: Piece) -> str | None:
        """Reason why tokens of a request cannot be steered: not all before them were seen; None where they can."""
        found = self._sequences.get(piece.request)
        row, seen = (self._row_of(piece.request), 0) if found is None else (found.row, found.seen)
        if piece.start in (0, seen) or (self._unshared is None and row not in self._ruled):
            return None
        said = f"request {piece.request}: tokens from {piece.start} on came after {seen}; "
        if self._unshared is None:
            return f"{said}a request under a rule must be read from its beginning"
        return (
            f"{said}a prefix that another request computed may hold its policy's edits, so blocks must not be shared "
            f"between requests: {self._unshared}"
        )

    def _sequence(self, piece: Piece) -> _Sequence:
        if (why := self.gap(piece)) is not None:
            raise SteeringError(why)
        found = self._sequences.get(piece.request)
        if found is None:
            slot = self._free.pop() if self._free else len(self._sequences)
            found = self._sequences[piece.request] = _Sequence(self._row_of(piece.request), slot)
        if piece.start == 0:
            found.state = _START
        found.seen = piece.start + piece.length
        return found

    def _reserve(self, fresh: Sequence[int]) -> None:
        slots = len(self._sequences) + len(self._free)
        for state in self.steering.gate_states.values():
            state.reserve(slots, torch.tensor(fresh, dtype=torch.long, device=state.device))

    def _read(self, sequences: Sequence[_Sequence], pieces: Sequence[Piece], ids: Tensor) -> list[_Places]:
        """Advance the grammar of each request whose rules ask for it; the places of each piece's tokens."""
        tokens, found, first = ids.tolist(), list[_Places](), 0
        for one, piece in zip(sequences, pieces, strict=True):
            here: _Places = [frozenset()] * piece.length
            if one.row in self._by_tokens:
                assert self._machine is not None  # said above, for the type checker
                own, reply_start = tokens[first : first + piece.length], piece.prompt_length - 1 - piece.start
                states, here = advance(self._machine, one.state, own, reply_start)
                one.state = states[-1]
            found.append(here)
            first += piece.length
        return found


def _in_order(places: Sequence[_Places], order: Arrangement, device: torch.device) -> TokenPlaces:
    """The places of each piece's tokens, in the order in which these are steered."""
    nowhere: _Places = [frozenset()]
    each = zip(order.pieces, order.padding, strict=True)
    return TokenPlaces([[*places[number], *nowhere * padding] for number, padding in each], device)
