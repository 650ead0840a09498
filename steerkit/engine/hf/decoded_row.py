"""A row of a continuous batch: its prompt once it was read, and what it decodes."""

from __future__ import annotations

from collections.abc import Collection, Generator
from typing import NamedTuple, TypeAlias

from torch import Tensor

from steerkit.engine.api import Decided, Row, Sampling
from steerkit.engine.hf.constraints import Constraints
from steerkit.engine.hf.passes import Prefilled
from steerkit.engine.hf.recording import HfRecording
from steerkit.engine.hf.sampler import Sampler
from steerkit.errors import SteerkitError
from steerkit.steer import PrefillState


class Prompted(NamedTuple):
    """A row whose prompt was read."""

    prefilled: Prefilled
    state: PrefillState
    sampling: Sampling
    """With no more new tokens than the model's context holds."""
    recording: HfRecording


Prompting: TypeAlias = Generator[int, None, Prompted]
"""Reads a prompt: yields the tokens of each block but the last, with nothing of it on the model meanwhile."""


class DecodedRow:
    """One row: what it may still say, and who decides."""

    def __init__(self, row: Row, prompted: Prompted, constraints: Constraints, stops: Collection[int]) -> None:
        logits = prompted.prefilled.logits
        self._sampler, self._constraints = Sampler([prompted.sampling], logits.device), constraints
        self._stops, self._left = stops, prompted.sampling.max_new_tokens
        self._logits: Tensor | None = logits
        """`(1, vocabulary)` after all that the model has read; None once the token after it is chosen."""
        self.forced: list[int] = []
        """Tokens that come next without a choice."""
        self._read = 0
        """How many of them the model has read."""
        self.recording = prompted.recording
        self.constrained = row.constraint is not None
        self.newest = 0
        """The newest token."""
        self.shown: int | None = None
        """The same in the step that it comes in; None in others."""
        self.ahead = 0
        """Tokens that the model has read beyond those that it would have read had they come one by one."""
        self.decided: Decided = "model"
        self.error: SteerkitError | None = None
        self.go_on()

    @property
    def goes_on(self) -> bool:
        """True until its last token has come."""
        return self._left > 0

    @property
    def is_ahead(self) -> bool:
        """True if its next token needs no pass."""
        return self._logits is not None

    def end(self) -> None:
        """Let the newest token be the last."""
        self._left = 0

    def read(self, logits: Tensor, count: int) -> None:
        """Take the logits `(1, vocabulary)` of a pass that has read so many of the forced tokens after the newest."""
        self._logits, self._read = logits.clone() if count else logits, count

    def go_on(self) -> None:
        """Take the next token; none in a step in which others have theirs without a pass."""
        self.shown, self.ahead = None, self._read
        if self._logits is None:
            return
        logits = self._logits
        if self._read:
            self._read -= 1
        else:
            self._logits = None
        if self.forced:
            self.newest, self.decided = self.forced.pop(0), "forced"
        else:
            try:
                (self.newest,), decided = self._constraints.choose(self._sampler, logits, [self._left])
            except SteerkitError as error:
                self.error, self._left = error, 0
                return
            self.decided = decided[0] if decided else "model"
        self.shown = self.newest
        self._left = 0 if self.newest in self._stops else self._left - 1
        if self._left and not self.forced:
            self.forced = [token for (token,) in self._constraints.forced([self._left])]
