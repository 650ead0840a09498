"""Rows in vLLM's scheduler, which forms their passes: they join when they like and leave when they have ended."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from steerkit.engine.api import Decided, Recording, Row, Step
from steerkit.engine.lease import Lease
from steerkit.engine.vllm.llm import Asked, Llm
from steerkit.engine.vllm.requests import Requests
from steerkit.engine.vllm.wire import Asks, unpacked_trace, unpacked_values
from steerkit.errors import EngineError, ModelError, SteeringError, SteerkitError
from steerkit.steer import Extent
from steerkit.types import Trace


@dataclass(frozen=True)
class VllmRecording:
    """A finished generation, whose traces lie with the worker until they are read, once, or nobody can read them."""

    rows: tuple[VllmRow, ...] = field(repr=False)
    llm: Llm = field(repr=False)
    lease: Lease = field(repr=False)
    cached: tuple[int, ...]
    decoding: str | None = None

    def traces(self, extents: Sequence[Extent]) -> list[Trace]:
        """The trace of each row.

        Raises:
            EngineError: the worker no longer has one, or is gone.
        """
        asked = [(row.asked.id, one.length, *one.top) for row, one in zip(self.rows, extents, strict=True)]
        with self.lease.held():
            return [unpacked_trace(found) for found in self.llm.call("steerkit_traces", asked)]


@dataclass(slots=True, eq=False, weakref_slot=True)
class VllmRow:
    """One row while it is generated, and then while its trace can be read."""

    row: Row
    asked: Asked
    """Its request in vLLM, at times the second one."""
    reply: list[int] = field(default_factory=list)
    """Its tokens, as far as they were shown."""
    shown: int | None = None
    """Its token in the step that is shown; None where it has none there."""
    cut: bool = False
    decided: deque[Decided | Asks] = field(default_factory=deque)
    """Who decided those that come next; empty where no grammar holds it."""
    by: Decided = "model"
    """Who decided the token that is shown."""
    question: Asked | None = None
    """A request for what the model would say without steering, while it runs."""
    known: list[str] = field(default_factory=list)
    """Names of all requests that the worker has seen of it."""

    @property
    def ended(self) -> bool:
        """True once its last token was shown."""
        return self.cut or (self.asked.over and not self.asked.tokens and self.question is None)

    @property
    def waits(self) -> bool:
        """True if vLLM is to bring something of it."""
        return not (self.question or self.asked).over

    @property
    def length(self) -> int:
        """Tokens that the model has run on: not the last one of the reply."""
        return len(self.row.ids) + max(0, len(self.reply) - 1)

    @property
    def requests(self) -> list[Asked]:
        """Its requests that vLLM may still run."""
        return [self.asked, *([self.question] if self.question else [])]

    def show(self) -> None:
        """Show the next token, if one has come."""
        self.shown = None
        if self.asked.tokens and not self.cut:
            self.shown = self.asked.tokens.popleft()
            self.reply.append(self.shown)
            by = self.decided.popleft() if self.decided else "model"
            assert by != "asks"  # it is no token of the reply, and taken out before
            self.by = by


class VllmRunning:
    """Rows that joined together, on their way; none where an error kept them from it."""

    def __init__(
        self, rows: Sequence[VllmRow], batch: VllmContinuous, place: int, error: SteerkitError | None = None
    ) -> None:
        self.rows, self._batch, self.place, self._error = rows, batch, place, error
        self.size = place + len(rows)

    @property
    def step(self) -> Step:
        """Their newest tokens. Raises SteerkitError: one cannot be generated or steered so."""
        if self._error is not None:
            raise self._error
        decided = [one.by for one in self.rows] if any(one.row.constraint is not None for one in self.rows) else []
        return Step([one.shown for one in self.rows], self._watched, decided)

    def _watched(self, number: int, start: int) -> Mapping[str, Sequence[float]]:
        one = self.rows[number]
        if not any(one.row.wanted.watch.values()):
            return {}
        found = self._batch.call("steerkit_watched", one.asked.id, start)
        return {key: unpacked_values(values)[: max(0, one.length - start)] for key, values in found.items()}

    def cut(self, rows: Collection[int]) -> None:
        """Let the newest tokens of some be their last."""
        cut = [self.rows[number] for number in rows if self._error is None]
        for one in cut:
            one.cut = True
        self._batch.abort([request for one in cut for request in one.requests])

    @property
    def ended(self) -> bool:
        """True once the last token of all was shown."""
        return self._error is None and all(one.ended for one in self.rows)

    @property
    def recording(self) -> Recording:
        """The recording of all, once they have ended.

        Raises:
            SteeringError: one of them was not steered as its policies say.
            ModelError: a token of one of them could not be chosen.
        """
        return self._batch.recording(self)


class VllmContinuous:
    """Rows that vLLM decodes together, and with those of whoever else generates on the engine meanwhile.

    Args:
        llm: vLLM's engine.
        lease: has one thread at a time in it.
        requests: gives rows to it.
        stopped: asked while another thread is in the engine.
    """

    def __init__(self, llm: Llm, lease: Lease, requests: Requests, stopped: Callable[[], bool] | None = None) -> None:
        self._llm, self._lease, self._requests, self._stopped = llm, lease, requests, stopped
        self._running: list[VllmRunning] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Give up those that still run."""
        running, self._running = self._running, []
        with suppress(EngineError):  # the engine is gone, and that was said
            self.abort([request for one in running for row in one.rows for request in row.requests])

    @property
    def rows(self) -> int:
        """Rows that go on."""
        return sum(not one.ended for running in self._running for one in running.rows)

    def join(self, rows: Sequence[Row]) -> VllmRunning:
        """Give some rows to vLLM's scheduler, which reads their prompts when it has room for them.

        What keeps one of them from it is raised by their steps. Raises AbandonedError: `stopped` answered True.
        """
        try:
            with self._lease.held(self._stopped):
                asked = self._requests.add(rows)
        except SteerkitError as error:
            return VllmRunning([], self, self.rows, error)
        running = VllmRunning([self._begun(*one) for one in zip(rows, asked, strict=True)], self, self.rows)
        self._running.append(running)
        for one in self._running:
            one.size = max(one.size, self.rows)
        return running

    def _begun(self, row: Row, asked: Asked) -> VllmRow:
        """A row of which the worker is told to forget what it knows once nobody holds it here, ended or given up."""
        begun = VllmRow(row, asked, known=[asked.id])
        weakref.finalize(begun, self._requests.unread.extend, begun.known)
        return begun

    def step(self) -> None:
        """A step of vLLM, and the next token of every row that has one; those that have had their last one leave."""
        self._running = [one for one in self._running if not one.ended]
        rows = [one for running in self._running for one in running.rows if not one.ended]
        with self._lease.held(self._stopped):
            if not any(one.asked.tokens for one in rows) and any(one.waits for one in rows):
                self._llm.step()
            self._read_decided(rows)
            for one in rows:
                self._go_on(one)
        if self._lease.is_wanted:
            self._lease.give_way()
        for running in self._running:
            for one in running.rows:
                one.show()

    def _read_decided(self, rows: Sequence[VllmRow]) -> None:
        """Read who decided the tokens that have come, of rows with a grammar."""
        held = {one.asked.id: one for one in rows if one.row.constraint is not None}
        if any(len(one.asked.tokens) > len(one.decided) for one in held.values()):
            for name, decided in self._llm.call("steerkit_decided", list(held)).items():
                held[name].decided.extend(decided)

    def _go_on(self, one: VllmRow) -> None:
        """Have the model asked without steering where a row's choice waits for that, and let it go on by the answer."""
        if one.decided and one.decided[-1] == "asks" and len(one.decided) == len(one.asked.tokens):
            one.decided.pop()
            one.asked.tokens.pop()  # stands for the one that is not chosen yet, and has ended the request
            one.question = self._requests.ask(one.row, [*one.reply, *one.asked.tokens])
            one.known.append(one.question.id)
        elif one.question is not None and one.question.over and not one.asked.tokens:
            best = one.question.tokens[0]
            one.asked, one.question = self._requests.resume(one.row, one.reply, one.asked, best), None
            one.known.append(one.asked.id)

    def call(self, method: str, *args: object) -> dict[str, bytes]:
        """The answer of the worker's method."""
        with self._lease.held(self._stopped):
            found: dict[str, bytes] = self._llm.call(method, *args)
        return found

    def abort(self, requests: Collection[Asked]) -> None:
        """Give requests up."""
        if any(not one.over for one in requests):
            with self._lease.held():
                self._llm.abort(requests)

    def recording(self, running: VllmRunning) -> VllmRecording:
        """The recording of rows that have ended. Raises SteeringError, ModelError."""
        rows = tuple(running.rows)
        with self._lease.held():
            each = self._llm.call_each("steerkit_errors", {one.asked.id: one.length for one in rows})
        for number, row in enumerate(rows, start=1):
            for unchosen, unsteered in (errors[row.asked.id] for errors in each if row.asked.id in errors):
                kind = ModelError if unchosen else SteeringError
                raise kind(f"request {number} of {len(rows)}: {unchosen or unsteered}")
        cached = tuple(one.asked.cached for one in rows)
        return VllmRecording(rows, self._llm, self._lease, cached if any(cached) else ())
