"""The value of `attach`: its recorder, the state after the prompt, and snapshots of prompt blocks.

Keys and values are not all that a prefix is: gates fire in it and remember, a trace is read off its activations, and an
audit says where it was edited. A snapshot holds all of that, so that a turn that resumes from it equals one that
prefills it all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from torch import Tensor

from steerkit.chat import GrammarState
from steerkit.sites import Site
from steerkit.steer.compile.plan import Plan
from steerkit.steer.gates import GateMemory, GateState
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
    """Takes snapshots of a generation of one sequence, and resumes another from them; or skips what is known."""

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

    def skip(self, ids: Tensor, valid: Tensor) -> None:
        """Stand after columns `(B, T)` of prompts at which no rule reads or writes, `valid` is no padding."""
        self._recorder.skip(valid)
        self._positions.skip(ids, valid)


@dataclass(frozen=True, slots=True)
class PrefillState:
    """The state of `attach` after a prefill, for whoever decodes in another way."""

    plan: Plan
    recorder: Recorder
    positions: Positions
    gate_states: Mapping[Site, GateState]
    pause: Callable[[], AbstractContextManager[None]]
    """Its hooks do nothing inside this `with`."""
    take_off: Callable[[], None]
    """Takes its hooks off the model."""

    @property
    def rows(self) -> list[int]:
        """Table row of each sequence."""
        rows: list[int] = [] if self.recorder.rows is None else self.recorder.rows.tolist()
        return rows


@dataclass(frozen=True, slots=True)
class Attached:
    """The value of `with attach(…)`."""

    recorder: Recorder
    """Activations and open rules of the last generation."""
    snapshots: Snapshots
    """Snapshots at the ends of prompt blocks, and the way back to one."""
    prefill_state: PrefillState
    """The state after the prompt, for a decode loop that resumes without these hooks."""
    off: Callable[[], AbstractContextManager[None]]
    """Its hooks are off the model inside this `with`, between two passes."""
