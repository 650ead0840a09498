"""The memory of gates by slot, kept between passes, with the last pass to be taken back."""

from __future__ import annotations

from torch import Tensor

from steerkit.steer.batch import Batch
from steerkit.steer.compile.gates import GateTable
from steerkit.steer.gates import GateMemory, held_open, open_gates


class GateState:
    """The memory of one site's gates; a prompt in one pass, in chunks or token by token leaves it the same."""

    def __init__(self, table: GateTable) -> None:
        self.table = table
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
        if not self.table.gates.stateful:
            return
        if self.memory is None:
            self.memory = self._empty(slots)
        elif (more := slots - len(self.memory.last_open)) > 0:
            self.memory = self.memory.joined(self._empty(more))
        self.memory = self.memory.put(fresh, self._empty(len(fresh)))

    def open(self, sums: Tensor, counts: Tensor, may: Tensor, batch: Batch) -> Tensor:
        """Gates `(N, r)` that are open at the tokens of a pass; arguments as in `open_gates`."""
        gates = self.table.gates
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
        return held_open(self.table.gates, memory, batch.number, batch.segments)

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
        return GateMemory.empty(self.table.gates, slots, self.table.gates.low.device)
