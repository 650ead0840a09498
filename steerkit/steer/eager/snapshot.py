"""What steering leaves behind when a piece of a prompt was read, so that a later turn can go on from there.

Keys and values are not all that a prefix is: gates fire in it and remember, a trace is read off its activations, and an
audit says where it was edited. A mark holds all of that; whoever goes on from it cannot be told from who read it all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from steerkit.chat.places import Standing
from steerkit.steer.eager.gate_state import GateMemory, Remembered
from steerkit.steer.positions import Layout
from steerkit.steer.record.recorder import Tape


@dataclass(frozen=True, slots=True)
class Mark:
    """One sequence's piece of T tokens, and where steering stood after it."""

    raw: Mapping[int, Tensor]
    """By layer on the tape, `(1, T, d_in)` activations before any edit."""
    opened: Tensor | None
    """`(1, T, R)` which rules were open; None where no rule could be."""
    memories: Mapping[int, Remembered]
    """By layer at which gates are known, what they remember after the piece."""
    standing: tuple[Standing, ...]
    """Where the sequence stands after the piece; empty where no rule asks."""

    def tensors(self) -> Iterator[Tensor]:
        """All that it holds."""
        yield from self.raw.values()
        yield from () if self.opened is None else (self.opened,)
        for memory in self.memories.values():
            yield from memory.tensors()


class Marks:
    """Takes marks of a generation of one sequence, and lets another go on from them."""

    def __init__(self, tape: Tape, layout: Layout, memories: Mapping[int, GateMemory]) -> None:
        self._tape, self._layout, self._memories = tape, layout, memories

    def take(self, start: int, end: int) -> Mark:
        """The mark of columns `start` to `end`, which have just been read.

        Raises:
            SteeringError: a hook did not run, so the piece is not what its policy makes of it.
        """
        self._tape.check()
        raw, opened = self._tape.part(start, end)
        standings = self._layout.standings
        memories = {layer: memory.noted() for layer, memory in self._memories.items()}
        return Mark(raw, opened, memories, () if standings is None else standings.noted())

    def go_on(self, marks: Sequence[Mark], ends: Sequence[int]) -> None:
        """Stand where the last of these marks was taken; they follow each other and end at these columns."""
        for mark, start, end in zip(marks, (0, *ends), ends, strict=False):
            assert all(raw.shape[1] == end - start for raw in mark.raw.values())
            for layer, raw in mark.raw.items():
                self._tape.keep_raw(layer, raw, start)
            if mark.opened is not None:
                self._tape.keep_open(mark.opened, start)
        self._layout.go_on(ends[-1])
        for layer, noted in marks[-1].memories.items():
            self._memories[layer].recall(noted)
        if self._layout.standings is not None:
            self._layout.standings.recall(marks[-1].standing)
