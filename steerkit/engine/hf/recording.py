"""Recordings of generations with transformers, read in the SAEs' own precision."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

import torch

from steerkit.engine.api import Recording
from steerkit.sae import SaeSet
from steerkit.steer import Extent, Plan, Recorder, Wanted, read_traces, read_watched
from steerkit.types import Trace

T = TypeVar("T")
S = TypeVar("S")
R = TypeVar("R")
_DEVICES: Final = ("cpu", "cuda")


@dataclass(frozen=True, slots=True)
class HfRecording:
    """A recorder of a generation, and what reading it needs."""

    recorder: Recorder
    plan: Plan
    saes: SaeSet | None
    wanted: tuple[Wanted, ...]
    decoding: str | None = None
    cached: tuple[int, ...] = ()

    def traces(self, extents: Sequence[Extent]) -> list[Trace]:
        """The trace of each row, in the SAEs' own precision."""
        with without_autocast():
            return read_traces(self.recorder, self.plan, self.saes, self.wanted, extents)

    def watched(self, ahead: int, row: int, start: int) -> Mapping[str, tuple[float, ...]]:
        """Watched values of a row from a position on, without those of the last tokens where some were read ahead."""
        found = read_watched(self.recorder, self.saes, self.wanted[row], row, start)
        return {name: values[: max(0, len(values) - ahead)] for name, values in found.items()} if ahead else found


@dataclass(frozen=True, slots=True)
class RecordingOfEach:
    """Recordings of one row each."""

    parts: Sequence[Recording]
    decoding: str | None = None

    @property
    def cached(self) -> list[int]:
        """By row, tokens of its prompt that a prefix cache knew."""
        return [sum(part.cached) for part in self.parts]

    def traces(self, extents: Sequence[Extent]) -> list[Trace]:
        """The trace of each row."""
        return [trace for part, extent in zip(self.parts, extents, strict=True) for trace in part.traces([extent])]


@contextmanager
def without_autocast() -> Iterator[None]:
    """Suspend `torch.autocast`."""
    with ExitStack() as stack:
        for device in _DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def each_without_autocast(steps: Generator[T, S | None, R]) -> Generator[T, S | None, R]:
    """Take each step without autocast; between steps the caller's holds."""
    sent: S | None = None
    with closing(steps):
        while True:
            with without_autocast():
                try:
                    step = steps.send(sent)
                except StopIteration as done:
                    made: R = done.value
                    return made
            sent = yield step
