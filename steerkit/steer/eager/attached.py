"""Steering that is attached to a model."""

from __future__ import annotations

from dataclasses import dataclass

from steerkit.steer.eager.prefill_state import PrefillState
from steerkit.steer.eager.snapshot import Snapshots
from steerkit.steer.record.recorder import Recorder


@dataclass(frozen=True, slots=True)
class Attached:
    """The value of `with attach(…)`."""

    recorder: Recorder
    """Activations and open rules of the last generation."""
    snapshots: Snapshots
    """Snapshots at the ends of prompt blocks, and the way back to one."""
    prefill_state: PrefillState
    """The state after the prompt, for a decode loop that resumes without these hooks."""
