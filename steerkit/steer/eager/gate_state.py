"""What gates remember of earlier tokens: latches, windows and how long ago each gate was last open.

One memory per site at which gates are known. Feeding a prompt whole, in chunks or token by token leaves it the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from steerkit.steer import ops
from steerkit.steer.compile.gates import FOREVER, GateTable

NEVER = -2 * FOREVER
"""Number of the token at which a gate was last open, for one that never was."""


class GateSnapshot(NamedTuple):
    """What one site's gates remember after some token; fields as in `GateState`."""

    latched: Tensor | None
    tails: Mapping[int, tuple[Tensor, Tensor]]
    last_open: Tensor | None

    def tensors(self) -> Iterator[Tensor]:
        """All that it holds."""
        yield from (part for part in (self.latched, self.last_open) if part is not None)
        for values, counts in self.tails.values():
            yield from (values, counts)


class GateState:
    """The memory of one site's gates, for B sequences; empty until the first pass."""

    def __init__(self, table: GateTable) -> None:
        self.table = table
        self._latched: Tensor | None = None
        """`(B, l)` whether each reading is latched."""
        self._tails: dict[int, tuple[Tensor, Tensor]] = {}
        """By reading with a window, the values and whether they count, `(B, size - 1)`."""
        self._last_open: Tensor | None = None
        """`(B, r)` number of the token at which each gate last opened."""
        self._before: GateSnapshot | None = None
        """What was remembered before the last pass; None where that read nothing."""
        self._read: tuple[Tensor, Tensor] = ()  # type: ignore[assignment]
        self._kept: tuple[Tensor, Tensor] | None = None
        """What the last pass read and kept: the arguments of `read` and `keep`."""

    def forget(self) -> None:
        """A new sequence begins."""
        self._latched, self._tails, self._last_open = None, {}, None

    def begin_pass(self) -> None:
        """A pass begins; the one before cannot be taken back any more."""
        self._before, self._kept = None, None

    def roll_back(self, tokens: int, ends: Tensor) -> None:
        """Stand where the last pass stood after its first tokens, as if that were all; `ends` as in `read`."""
        if self._before is None:
            return
        before, (sums, counts), kept = self._before, self._read, self._kept
        self.restore(before)
        if tokens > 0:
            self.read(sums[:, :tokens], counts[:, :tokens], ends)
            if kept is not None:
                self.keep(*(part[:, :tokens] for part in kept))

    def snapshot(self) -> GateSnapshot:
        """A copy of all that is remembered."""
        tails = {reading: (values.clone(), counts.clone()) for reading, (values, counts) in self._tails.items()}
        latched, last_open = (None if part is None else part.clone() for part in (self._latched, self._last_open))
        return GateSnapshot(latched, tails, last_open)

    def restore(self, noted: GateSnapshot) -> None:
        """Go on from what was noted."""
        self._latched, self._tails, self._last_open = noted.latched, dict(noted.tails), noted.last_open

    def remembered(self, numbers: Tensor) -> Tensor:
        """`(B, T, r)` which gates earlier passes hold open at tokens of these numbers `(B, T)`, the next ones on."""
        if self._last_open is None:
            return torch.zeros(*numbers.shape, self.table.terms.shape[1], dtype=torch.bool, device=numbers.device)
        hold = self.table.hold
        age = numbers.unsqueeze(-1) - self._last_open.unsqueeze(1)
        return age <= (1 if hold is None else hold)

    def read(self, sums: Tensor, counts: Tensor, ends: Tensor) -> Tensor:
        """Which gates `(B, T, r)` hold at each token.

        Args:
            sums: `(B, T, l)` of the readings.
            counts: `(B, T, l)` which tokens count for a reading's window and latch.
            ends: `(B,)` offset of each sequence's last token in this pass that is no padding, -1 if all are.
        """
        table = self.table
        self._before, self._read = GateSnapshot(self._latched, dict(self._tails), self._last_open), (sums, counts)
        if table.windows:
            sums = self._windowed(sums, counts, ends)
        holds = ops.within(sums, table.low, table.high) if table.bounded else sums > table.low
        if table.off is not None:
            holds = self._latch(sums, holds, counts)
        return holds if table.wanted is None else ops.any_term(holds, table.wanted, table.wants, table.terms)

    def keep(self, opened: Tensor, numbers: Tensor) -> Tensor:
        """`(B, T, r)` which gates are open once they are held: opened at a token, or not too long before it."""
        self._kept = opened, numbers
        here = torch.where(opened, numbers.unsqueeze(-1), NEVER)
        if self._last_open is not None:
            here[:, 0] = torch.maximum(here[:, 0], self._last_open)
        last = here.cummax(dim=1).values
        self._last_open = last[:, -1]
        hold = self.table.hold
        return opened if hold is None else (numbers.unsqueeze(-1) - last) < hold

    def _latch(self, sums: Tensor, holds: Tensor, counts: Tensor) -> Tensor:
        off = self.table.off
        assert off is not None  # the caller looked
        before = self._latched if self._latched is not None else torch.zeros_like(holds[:, 0])
        # A plain reading closes where it does not hold; a latched one where its sum falls below `off`.
        closes = torch.where(off.isnan(), ~holds, (sums < off) | (sums >= self.table.high))
        closes &= ~holds & (counts | off.isnan())
        latched = ops.latch(holds & (counts | off.isnan()), closes, before)
        self._latched = latched[:, -1]
        return latched

    def _windowed(self, sums: Tensor, counts: Tensor, ends: Tensor) -> Tensor:
        sums = sums.clone()
        for reading, size, mean in self.table.windows:
            tail, tail_counts = self._tail(reading, size, sums)
            values = torch.cat([tail, sums[..., reading]], dim=1)
            counted = torch.cat([tail_counts, counts[..., reading]], dim=1)
            # The next pass goes on after the last token that is no padding.
            places = ends.unsqueeze(-1) + 1 + torch.arange(size - 1, device=ends.device)
            self._tails[reading] = values.gather(1, places), counted.gather(1, places)
            sums[..., reading] = ops.over_window(values, counted, size, mean)
        return sums

    def _tail(self, reading: int, size: int, sums: Tensor) -> tuple[Tensor, Tensor]:
        if reading in self._tails:
            return self._tails[reading]
        empty = sums.new_zeros(len(sums), size - 1)
        return empty, torch.zeros_like(empty, dtype=torch.bool)
