"""Gates over flat tokens: readings within bounds, latches, windows, terms, how long a gate stays open, and its memory.

The arithmetic is written once: forward hooks call it with tables that all tokens share, steps of fixed shape with
tables of each row, and kernels are tested against those. Nothing is changed in place, so a memory is also its own
snapshot.

Shapes: N tokens of G segments, l readings, k of them over windows of at most W tokens, M terms, r rules. A table of one
reading or rule is `(l,)` or `(r,)` for all tokens, or has a first dimension of N.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import torch
from torch import Tensor

from steerkit.steer import ops
from steerkit.steer.batch import Batch, Segments

FOREVER: Final = 1 << 39
"""More tokens than any turn has."""

NEVER: Final = -2 * FOREVER
"""Number of the token at which a gate was last open, for one that never was."""


class Windows(NamedTuple):
    """Readings over several tokens."""

    readings: Tensor | None
    """`(k,)` which readings these are; None for all of them, where `several` says which."""
    spans: Tensor
    """`(k, W)` which of the last W tokens a reading goes over; the token itself is the last of them."""
    means: Tensor | bool
    """`(k,)` True for the mean of the window, False for its largest value; one value where all agree."""
    several: Tensor | None = None
    """`(l,)` readings that go over more than one token; None with `readings`."""


class Gates(NamedTuple):
    """Tables of some gates."""

    low: Tensor
    high: Tensor
    """`(l,)` each: a reading holds strictly between them."""
    bounded: bool
    """True if any reading must also be below something."""
    off: Tensor | None
    """`(l,)` where a latched reading closes, NaN for one without hysteresis; None if there is none."""
    windows: Windows | None
    wanted: Tensor | None
    """`(l, M)` 1 where the term wants the reading to hold, -1 where it wants it not to; None: a reading per rule."""
    wants: Tensor
    """`(M,)` how many readings a term wants to hold."""
    terms: Tensor
    """`(M, r)` which terms open which rule."""
    hold: Tensor | None
    """`(r,)` tokens a gate stays open; None where all hold for one."""
    remembers: bool
    """True if it is kept when each gate was last open: some hold for more than a token, or act later."""

    @property
    def stateful(self) -> bool:
        """True if earlier tokens matter."""
        return self.off is not None or self.windows is not None or self.remembers

    @property
    def simple(self) -> bool:
        """True if each rule opens where the one reading of its own is above something, whatever was before."""
        return self.wanted is None and not self.bounded and not self.stateful


class GateMemory(NamedTuple):
    """The state of gates after some tokens, for G sequences."""

    latched: Tensor
    """`(G, l)` readings that are latched."""
    values: Tensor
    """`(G, k, W - 1)` of the readings over windows, at the last tokens."""
    counted: Tensor
    """`(G, k, W - 1)` tokens that count for them."""
    last_open: Tensor
    """`(G, r)` number of the token at which each gate last opened; `NEVER` at first."""

    @classmethod
    def empty(cls, gates: Gates, sequences: int, device: torch.device) -> GateMemory:
        """The memory before the first token."""
        k, W = (0, 1) if gates.windows is None else gates.windows.spans.shape
        values = torch.zeros(sequences, k, W - 1, device=device)
        return cls(
            torch.zeros(sequences, gates.low.shape[-1], dtype=torch.bool, device=device),
            values,
            torch.zeros_like(values, dtype=torch.bool),
            torch.full((sequences, gates.terms.shape[-1]), NEVER, device=device),
        )

    def tensors(self) -> Iterator[Tensor]:
        """All that it holds."""
        yield from self

    def take(self, slot: Tensor | None) -> GateMemory:
        """The memory of some slots."""
        return self if slot is None else GateMemory(*(part[slot] for part in self))

    def joined(self, more: GateMemory) -> GateMemory:
        """This memory with more slots after its own."""
        return GateMemory(*(torch.cat(parts) for parts in zip(self, more, strict=True)))

    def put(self, slot: Tensor | None, new: GateMemory) -> GateMemory:
        """This memory with that of some slots replaced."""
        if slot is None:
            return new
        return GateMemory(*(part.index_copy(0, slot, one) for part, one in zip(self, new, strict=True)))


def open_gates(
    gates: Gates,
    memory: GateMemory,
    sums: Tensor,
    counts: Tensor,
    may: Tensor,
    number: Tensor,
    segments: Segments | None,
) -> tuple[Tensor, GateMemory]:
    """Gates `(N, r)` that are open at each token, and their memory after the last one.

    Args:
        gates: their tables.
        memory: of each segment, before its first token.
        sums: `(N, l)` of the readings.
        counts: `(N, l)` tokens that count for a reading's window and latch; not looked at where there is neither.
        may: `(N, r)` tokens at which a gate may open.
        number: `(N,)` of each token in its sequence.
        segments: tokens of one sequence; None where each token is the only one of its sequence.
    """
    latched, values, counted, last_open = memory
    if gates.windows is not None:
        sums, values, counted = _over_windows(gates.windows, sums, counts, segments, memory)
    holds = ops.within(sums, gates.low, gates.high) if gates.bounded else sums > gates.low
    if gates.off is not None:
        counts = counts | gates.off.isnan()
        opens = holds & counts
        # A plain reading closes where it does not hold; a latched one where its sum falls below `off`.
        closes = torch.where(gates.off.isnan(), ~holds, ((sums < gates.off) | (sums >= gates.high)) & counts)
        holds = ops.latch(opens, closes, memory.latched, segments)
        latched = _at_end(holds, segments)
    opened = may & (holds if gates.wanted is None else ops.any_term(holds, gates.wanted, gates.wants, gates.terms))
    if not gates.remembers:
        return opened, GateMemory(latched, values, counted, last_open)
    last = ops.last_number(opened, number, memory.last_open, segments)
    if gates.hold is not None:
        opened = (number.unsqueeze(-1) - last) < gates.hold
    return opened, GateMemory(latched, values, counted, _at_end(last, segments))


def held_open(gates: Gates, memory: GateMemory, number: Tensor, segments: Segments | None) -> Tensor:
    """Gates `(N, r)` that earlier passes hold open at the tokens of this one; for rules that act a token late."""
    last = memory.last_open if segments is None else memory.last_open[segments.of]
    return (number.unsqueeze(-1) - last) <= (1 if gates.hold is None else gates.hold)


def _at_end(states: Tensor, segments: Segments | None) -> Tensor:
    """`(G, …)` of states after each token `(N, …)`, those after the segments."""
    return states if segments is None else states[segments.end]


def _over_windows(
    windows: Windows, sums: Tensor, counts: Tensor, segments: Segments | None, memory: GateMemory
) -> tuple[Tensor, Tensor, Tensor]:
    """Readings `(N, l)` over their windows, and the values and counts that the next tokens need."""
    some = windows.readings
    now, now_counted = (sums, counts) if some is None else (sums[:, some], counts[:, some])
    values = ops.look_back(now, memory.values, segments)
    counted = ops.look_back(now_counted, memory.counted, segments)
    found = ops.over_window(values, counted & windows.spans, windows.means)
    if windows.several is not None:
        found = torch.where(windows.several, found, sums)
    elif some is not None:
        found = sums.index_copy(1, some, found)
    if segments is None:
        return found, values[..., 1:], counted[..., 1:]
    seen = (segments.last >= segments.first[segments.end]).view(-1, 1, 1)
    last = segments.last.clamp(min=0)
    return (
        found,
        torch.where(seen, values[last][..., 1:], memory.values),
        torch.where(seen, counted[last][..., 1:], memory.counted),
    )


class GateState:
    """The memory of one site's gates between passes; the last pass can be taken back.

    A prompt in one pass, in chunks or token by token leaves it the same.
    """

    def __init__(self, gates: Gates) -> None:
        self._gates = gates
        self.device: Final = gates.low.device
        """The site's."""
        self.memory: GateMemory | None = None
        """By slot; None before the first pass, and where earlier tokens do not matter."""
        self._last: tuple[GateMemory | None, tuple[Tensor, ...]] | None = None
        """The memory before the last pass, and what it was given; None where that reached no gate."""

    def forget(self) -> None:
        """Forget every sequence."""
        self.memory = None

    def begin_pass(self) -> None:
        """Begin a pass; the one before cannot be taken back any more."""
        self._last = None

    def reserve(self, slots: int, fresh: Tensor) -> None:
        """Make room for some slots, and empty those `(G,)` in which new sequences begin."""
        if not self._gates.stateful:
            return
        if self.memory is None:
            self.memory = self._empty(slots)
        elif (more := slots - len(self.memory.last_open)) > 0:
            self.memory = self.memory.joined(self._empty(more))
        self.memory = self.memory.put(fresh, self._empty(len(fresh)))

    def open(self, sums: Tensor, counts: Tensor, may: Tensor, batch: Batch) -> Tensor:
        """Gates `(N, r)` that are open at the tokens of a pass; arguments as in `open_gates`."""
        gates = self._gates
        if not gates.stateful:
            return open_gates(gates, self._empty(0), sums, counts, may, batch.number, None)[0]
        self._last = self.memory, (sums, counts, may, batch.number)
        memory = self._known(batch)
        opened, new = open_gates(gates, memory.take(batch.slot), sums, counts, may, batch.number, batch.segments)
        self.memory = memory.put(batch.slot, new)
        return opened

    def held(self, batch: Batch) -> Tensor:
        """Gates `(N, r)` that earlier passes hold open at the tokens of this one."""
        memory = self._known(batch).take(batch.slot)
        return held_open(self._gates, memory, batch.number, batch.segments)

    def roll_back(self, sequences: int, tokens: int, batch: Batch) -> None:
        """Return to the first `tokens` of each sequence in the last pass, as if they were all of it.

        `batch` holds them; its numbers are those of that pass.
        """
        if self._last is None:
            return
        self.memory, given = self._last
        if tokens > 0:
            kept = (part.unflatten(0, (sequences, -1))[:, :tokens].flatten(0, 1) for part in given)
            sums, counts, may, number = kept
            self.open(sums, counts, may, batch.to(sums.device)._replace(number=number))

    def _known(self, batch: Batch) -> GateMemory:
        if self.memory is not None:
            return self.memory
        return self._empty(len(batch.number) if batch.segments is None else len(batch.segments.end))

    def _empty(self, slots: int) -> GateMemory:
        return GateMemory.empty(self._gates, slots, self.device)
