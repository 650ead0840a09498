"""Continuous batching: rows join between two steps, after a prefill of their own, and leave when they have ended.

A prompt is read as it is read alone: under hooks of its own, in blocks, with what the prefix cache holds. Between two
blocks the others have their next tokens. Then its keys and values, the memory of its gates and its recorder move in
with theirs, and each step is one pass over the newest token of every row. Sampler and grammar are a row's own, so that
it draws what it draws alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Final, Self

import torch
from torch import Tensor

from steerkit.chat import dialect_of, place_machine
from steerkit.engine.api import Recording, Row, Step
from steerkit.engine.hf.constraints import Constraints
from steerkit.engine.hf.decoded_row import DecodedRow, Prompted, Prompting
from steerkit.engine.hf.model import LoadedModel
from steerkit.engine.hf.passes import last_logits, logits_after
from steerkit.engine.hf.recording import RecordingOfEach, without_autocast
from steerkit.engine.hf.rows_cache import RowsCache
from steerkit.engine.hf.unembedding import Unembedding
from steerkit.errors import SteerkitError
from steerkit.policy import Policy
from steerkit.steer import JoinedSteering, Plan, cache_name

_MOST: Final = 256
"""Tokens of prompts that are read in a step, after which no block is begun: the rows that are decoded wait for them."""


class HfRunning:
    """Rows that joined together, on their way.

    Args:
        given: the rows.
        prefill: reads the prompt of one, alone.
    """

    def __init__(self, given: Sequence[Row], prefill: Callable[[Row], Prompting]) -> None:
        self.given, self._prompts = given, [prefill(row) for row in given]
        self._prompted: list[Prompted] = []
        self._begun = 0
        """Tokens that were read of the prompt that comes next."""
        self._rows: list[DecodedRow] = []
        """From when all prompts are read."""
        self._error: SteerkitError | None = None
        self.place = self.size = 0
        self.is_reading = True
        """True until all prompts are read, or one could not be, or nobody waits for it any more."""

    @property
    def rows(self) -> int:
        """Rows that go on."""
        return len(self.given) if self.is_reading else sum(row.goes_on for row in self._rows)

    def read_on(self) -> tuple[int, list[Prompted]]:
        """Read a block more: its tokens, and the prompts once all are read."""
        try:
            count = next(self._prompts[0])
            self._begun += count
            return count, []
        except StopIteration as done:
            self._prompts.pop(0)
            prompted: Prompted = done.value
        except SteerkitError as error:
            self._error = error
            self.give_up()
            return 0, []
        count = len(self.given[len(self._prompted)].ids) - prompted.prefilled.cached - self._begun
        self._prompted.append(prompted)
        self._begun, self.is_reading = 0, bool(self._prompts)
        return count, [] if self.is_reading else self._prompted

    def join(self, rows: Sequence[DecodedRow], place: int) -> None:
        """Go on with the others."""
        self._rows, self.place, self.size = list(rows), place, place + len(rows)

    def give_up(self) -> None:
        """Read no more of the prompts."""
        for prompt in self._prompts:
            prompt.close()
        self._prompts, self.is_reading = [], False

    @property
    def step(self) -> Step:
        """Their newest tokens. Raises what ended one of them."""
        if self._error is not None:
            raise self._error
        for row in self._rows:
            if row.error is not None:
                raise row.error
        decided = [row.decided for row in self._rows] if any(row.constrained for row in self._rows) else []
        shown = [row.shown for row in self._rows] or [None] * len(self.given)
        return Step(shown, self._watched, decided)

    def _watched(self, row: int, start: int) -> dict[str, tuple[float, ...]]:
        one = self._rows[row]
        return dict(one.recording.watched(one.ahead, 0, start))

    def cut(self, rows: Collection[int]) -> None:
        """Let the newest tokens of some be their last; of rows whose prompts are still read, all are given up."""
        if self.is_reading and rows:
            self.give_up()
        for number in rows if self._rows else ():
            self._rows[number].end()

    @property
    def ended(self) -> bool:
        """True once the last token of all has come."""
        return not self.rows

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
        whole_prompts: all prompts that wait are read in the next step.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        prefill: Callable[[Row], Prompting],
        plan_of: Callable[[Sequence[Sequence[Policy]]], Plan],
        stopped: Callable[[], bool] | None = None,
        *,
        whole_prompts: bool = False,
    ) -> None:
        self._loaded, self._prefill, self._stopped = loaded, prefill, stopped
        self._most = math.inf if whole_prompts else _MOST
        self._steering = JoinedSteering(loaded.model, plan_of, place_machine(loaded.tokenizer))
        self._cache, self._unembedding = RowsCache(loaded.model), Unembedding(loaded.model)
        self._cache_name = cache_name(loaded.model)
        self._rows: list[DecodedRow] = []
        """In the order of cache and steering."""
        self._running: list[HfRunning] = []
        self._model = ExitStack()
        """Holds the model, once it is taken."""
        self._holds = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for running in self._running:
            running.give_up()
        self._give_back()

    @property
    def rows(self) -> int:
        """Rows that go on."""
        return sum(running.rows for running in self._running)

    def join(self, rows: Sequence[Row]) -> HfRunning:
        """Let some rows join: their prompts are read in the next steps, after those that joined before."""
        running = HfRunning(rows, self._prefill)
        self._running.append(running)
        return running

    def step(self) -> None:
        """One more token of every row that goes on, and a part of a prompt; a row whose prompt is read has its first
        token then.

        Tokens without a choice come in one pass where all rows have some, and in the steps that show those the rows
        that joined meanwhile have none.

        Raises:
            AbandonedError: `stopped` answered True.
        """
        self._hold()
        for running in self._running:
            running.begin()
        with torch.inference_mode(), without_autocast():
            self._let_go()
            if self._rows and not any(row.is_ahead for row in self._rows):
                self._read()
            for row in self._rows:
                row.go_on()
            self._read_prompts()

    def _read_prompts(self) -> None:
        """Read the prompts of those that wait, as far as a step goes, and let them join."""
        left = self._most
        while left > 0 and (running := next((one for one in self._running if one.is_reading), None)):
            count, prompted = running.read_on()
            left -= count
            if prompted:
                self._join(running, prompted)

    def _join(self, running: HfRunning, prompted: Sequence[Prompted]) -> None:
        decoding = [self._decoding(row, one) for row, one in zip(running.given, prompted, strict=True)]
        running.join(decoding, len(self._rows))
        for one, found in zip(decoding, prompted, strict=True):
            self._cache.join(found.prefilled.cache)
            self._steering.join(found.state)
            self._rows.append(one)
        self._count()

    def _read(self) -> None:
        """Read the newest token of every row, and the forced ones behind it as far as all have them."""
        count = 0 if self._steering.acts_late else min(len(row.forced) for row in self._rows)
        logits = self._logits([[row.newest, *row.forced[:count]] for row in self._rows])
        for number, row in enumerate(self._rows):
            row.read(logits[number : number + 1], count)

    def _decoding(self, row: Row, prompted: Prompted) -> DecodedRow:
        dialect = dialect_of(self._loaded.tokenizer)
        constraints = Constraints([row], dialect.stops, partial(logits_after, self._loaded.model))
        return DecodedRow(row, prompted, constraints, dialect.stops)

    def _logits(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Logits `(B, vocabulary)` after the next tokens `(B, T)`, until the next pass."""
        model = self._loaded.model
        inputs = self._cache.step(torch.tensor(tokens, device=self._loaded.device))
        keep = {"use_cache": True, "logits_to_keep": last_logits(inputs["input_ids"]), self._cache_name: self._cache}
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
