"""Continuous batching: rows join between two steps, after a prefill of their own, and leave when they have ended.

A prompt is read as it is read alone: in blocks, with what the prefix cache holds of them, under its own hooks. Then its
keys and values, the memory of its gates and its recorder move in with the others, and each step is one pass over the
newest token of every row. Sampler and grammar are a row's own, so that it draws what it draws alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import NamedTuple, Self

import torch
from torch import Tensor

from steerkit.chat import dialect_of, place_machine
from steerkit.engine.api import Decided, Recording, Row, Sampling, Step
from steerkit.engine.hf.constraints import Constraints
from steerkit.engine.hf.generate import Prefilled, last_logits, logits_after
from steerkit.engine.hf.model import LoadedModel
from steerkit.engine.hf.recording import HfRecording, RecordingOfEach, without_autocast
from steerkit.engine.hf.rows_cache import RowsCache
from steerkit.engine.hf.sampler import Sampler
from steerkit.engine.hf.unembedding import Unembedding
from steerkit.errors import SteerkitError
from steerkit.policy import Policy
from steerkit.steer import JoinedSteering, Plan, PrefillState, cache_name


class Prompted(NamedTuple):
    """A row whose prompt was read."""

    prefilled: Prefilled
    state: PrefillState
    sampling: Sampling
    """With no more new tokens than the model's context holds."""
    recording: HfRecording


class _Decoding:
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


class HfRunning:
    """Rows that joined together, on their way."""

    def __init__(self, rows: Sequence[_Decoding], place: int) -> None:
        self._rows, self.place, self.size = rows, place, place + len(rows)

    @property
    def step(self) -> Step:
        """Their newest tokens. Raises what ended one of them."""
        for row in self._rows:
            if row.error is not None:
                raise row.error
        decided = [row.decided for row in self._rows] if any(row.constrained for row in self._rows) else []
        return Step([row.shown for row in self._rows], self._watched, decided)

    def _watched(self, row: int, start: int) -> dict[str, tuple[float, ...]]:
        one = self._rows[row]
        return dict(one.recording.watched(one.ahead, 0, start))

    def cut(self, rows: Collection[int]) -> None:
        """Let the newest tokens of some be their last."""
        for number in rows:
            self._rows[number].end()

    @property
    def ended(self) -> bool:
        """True once the last token of all has come."""
        return not any(row.goes_on for row in self._rows)

    @property
    def recording(self) -> Recording:
        """The recording of each, once they have ended."""
        return RecordingOfEach([row.recording for row in self._rows])

    def begin(self) -> None:
        """Begin a step: rows that have ended have no more tokens."""
        for row in self._rows:
            row.shown = None


class HfContinuous:
    """Rows that are decoded together on one model, which is held from the first on and given back at the end.

    Whoever waits for the model meanwhile has it between two steps.

    Args:
        loaded: the model.
        prefill: reads the prompt of a row, alone.
        plan_of: compiles rows of policies.
        stopped: asked while the model is busy with another generation.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        prefill: Callable[[Row], Prompted],
        plan_of: Callable[[Sequence[Sequence[Policy]]], Plan],
        stopped: Callable[[], bool] | None = None,
    ) -> None:
        self._loaded, self._prefill, self._stopped = loaded, prefill, stopped
        self._steering = JoinedSteering(loaded.model, plan_of, place_machine(loaded.tokenizer))
        self._cache, self._unembedding = RowsCache(loaded.model), Unembedding(loaded.model)
        self._rows: list[_Decoding] = []
        """In the order of cache and steering."""
        self._running: list[HfRunning] = []
        self._model = ExitStack()
        """Holds the model, once it is taken."""
        self._holds = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._give_back()

    @property
    def rows(self) -> int:
        """Rows that go on."""
        return sum(row.goes_on for row in self._rows)

    def join(self, rows: Sequence[Row]) -> HfRunning:
        """Read the prompts of some rows, which have their first tokens then and go on with the others.

        Raises:
            SteerkitError: one cannot be generated or steered so; none of them has joined then.
            AbandonedError: `stopped` answered True.
        """
        self._hold()
        with torch.inference_mode(), without_autocast():
            prompted = [self._prefill(row) for row in rows]
            self._let_go()
            decoding = [self._decoding(row, one) for row, one in zip(rows, prompted, strict=True)]
            running = HfRunning(decoding, len(self._rows))
            for one, found in zip(decoding, prompted, strict=True):
                self._cache.join(found.prefilled.cache)
                self._steering.join(found.state)
                self._rows.append(one)
        self._running.append(running)
        self._count()
        return running

    def step(self) -> None:
        """One more token of every row that goes on; tokens without a choice come in one pass where all rows have some,
        and in the steps that show those the rows that joined meanwhile have none."""
        self._hold()
        for running in self._running:
            running.begin()
        with torch.inference_mode(), without_autocast():
            self._let_go()
            if self._rows and not any(row.is_ahead for row in self._rows):
                self._read()
            for row in self._rows:
                row.go_on()

    def _read(self) -> None:
        """Read the newest token of every row, and the forced ones behind it as far as all have them."""
        count = 0 if self._steering.acts_late else min(len(row.forced) for row in self._rows)
        logits = self._logits([[row.newest, *row.forced[:count]] for row in self._rows])
        for number, row in enumerate(self._rows):
            row.read(logits[number : number + 1], count)

    def _decoding(self, row: Row, prompted: Prompted) -> _Decoding:
        dialect = dialect_of(self._loaded.tokenizer)
        constraints = Constraints([row], dialect.stops, partial(logits_after, self._loaded.model))
        return _Decoding(row, prompted, constraints, dialect.stops)

    def _logits(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Logits `(B, vocabulary)` after the next tokens `(B, T)`, until the next pass."""
        model = self._loaded.model
        inputs = self._cache.step(torch.tensor(tokens, device=self._loaded.device))
        keep = {"use_cache": True, "logits_to_keep": last_logits(inputs["input_ids"]), cache_name(model): self._cache}
        with self._steering.reading(tokens), self._unembedding.in_place():
            output = model(**inputs, **keep)
        return output.logits[:, -1]  # type: ignore[no-any-return]  # transformers' outputs are not typed

    def _let_go(self) -> None:
        """Let the rows go that have ended; the last one takes a free place."""
        for number in reversed(range(len(self._rows))):
            if not self._rows[number].goes_on:
                self._cache.leave(number)
                self._steering.leave(number)
                self._rows[number] = self._rows[-1]
                self._rows.pop()
        self._running = [one for one in self._running if not one.ended]

    def _count(self) -> None:
        """Tell those that run how many rows they are decoded with."""
        for one in self._running:
            one.size = max(one.size, len(self._rows))

    def _hold(self) -> None:
        """Have the model; first for whoever waits for it."""
        lease = self._loaded.lease
        if self._holds and lease.is_wanted:
            self._give_back()
            lease.give_way()
        if not self._holds:
            self._model.enter_context(self._loaded.alone(self._stopped))
            self._holds = True

    def _give_back(self) -> None:
        self._holds = False
        self._model.close()
