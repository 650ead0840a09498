"""Snapshots of steering after a block of a prompt, from which a later turn resumes.

Keys and values are not all that a prefix is: gates fire in it and remember, a trace is read off its activations, and an
audit says where it was edited. A snapshot holds all of that, so that a turn
that resumes from it equals one that prefills it all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from steerkit.chat import GrammarState
from steerkit.sites import Site
from steerkit.steer.gate_state import GateState
from steerkit.steer.gates import GateMemory
from steerkit.steer.positions import Positions
from steerkit.steer.record.recorder import Recorder


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One sequence's block of T tokens, and the state of steering after it."""

    raw: Mapping[Site, Tensor]
    """By site on the recorder, `(1, T, d_in)` activations before any edit."""
    opened: Tensor | None
    """`(1, T, R)` which rules were open; None where no rule could be."""
    gate_states: Mapping[Site, GateMemory]
    """By site at which gates are known, what they remember after the piece."""
    grammar: tuple[GrammarState, ...]
    """State of the grammar after the block; empty where no rule asks."""

    def tensors(self) -> Iterator[Tensor]:
        """All that it holds."""
        yield from self.raw.values()
        yield from () if self.opened is None else (self.opened,)
        for memory in self.gate_states.values():
            yield from memory.tensors()


class Snapshots:
    """Takes snapshots of a generation of one sequence, and resumes another from them."""

    def __init__(self, recorder: Recorder, positions: Positions, gate_states: Mapping[Site, GateState]) -> None:
        self._recorder, self._positions, self._gate_states = recorder, positions, gate_states

    def take(self, start: int, end: int) -> Snapshot:
        """The snapshot of columns `start` to `end`, which have just been read.

        Raises:
            SteeringError: a hook did not run, so the piece is not what its policy makes of it.
        """
        self._recorder.check()
        raw, opened = self._recorder.part(start, end)
        grammar_states = self._positions.grammar_states
        gate_states = {site: state.memory for site, state in self._gate_states.items() if state.memory is not None}
        return Snapshot(raw, opened, gate_states, () if grammar_states is None else grammar_states.snapshot())

    def resume(self, snapshots: Sequence[Snapshot], ends: Sequence[int]) -> None:
        """Stand where the last of these snapshots was taken; they follow each other and end at these columns."""
        for snapshot, start, end in zip(snapshots, (0, *ends), ends, strict=False):
            assert all(raw.shape[1] == end - start for raw in snapshot.raw.values())
            for site, raw in snapshot.raw.items():
                self._recorder.keep_raw(site, raw, start)
            if snapshot.opened is not None:
                self._recorder.keep_open(snapshot.opened, start)
        self._positions.resume(ends[-1])
        for site, noted in snapshots[-1].gate_states.items():
            self._gate_states[site].memory = noted
        if self._positions.grammar_states is not None:
            self._positions.grammar_states.restore(snapshots[-1].grammar)
