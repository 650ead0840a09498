"""The state of an attached steering after its prefill, from which another way of decoding resumes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from steerkit.sites import Site
from steerkit.steer.compile.plan import Plan
from steerkit.steer.gate_state import GateState
from steerkit.steer.positions import Positions
from steerkit.steer.record.recorder import Recorder


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
