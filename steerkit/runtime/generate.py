"""Prepared requests to replies: the steps of the engine, each token read once by its row's grammar."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

from steerkit.chat import Cursor, Event, Parsed
from steerkit.engine import AbandonedError, Decided, Engine, Recording, Row, Step
from steerkit.runtime.constraints import Deciders, row_constraints
from steerkit.runtime.request import Prepared
from steerkit.runtime.stop import StopTexts
from steerkit.runtime.tripwire import Tripwires
from steerkit.types import Constrained, Place, Span, Turn, Verdict


class GeneratedReply(NamedTuple):
    """A finished row."""

    request: Prepared
    ids: tuple[int, ...]
    """Its tokens."""
    parsed: Parsed
    """Text, calls and the token that ended it."""
    places: Mapping[Place, tuple[Span, ...]]
    """Steps of prompt and reply that stand at each place, in runs."""
    tripped: Verdict | None
    """The verdict of the tripwire that ended it."""
    constrained: Constrained | None = None
    """What a grammar decided of it."""


class Generation(NamedTuple):
    """A finished batch, or a request that was generated in one that others joined and left."""

    replies: Sequence[GeneratedReply]
    """Replies of the requests, then of the counterfactuals that they name."""
    recording: Recording
    seconds: float
    """Wall-clock time, waiting for the model included."""
    size: int
    """Rows that were generated together."""
    place: int = 0
    """Row of the first request."""
    dropped: frozenset[int] = frozenset()
    """Requests that were given up on the way: nobody waits for them, and they are not recorded."""


Events: TypeAlias = "list[tuple[Event, ...]]"
"""By request, the text and calls of a step's token."""


def generate(
    engine: Engine, prepared: Sequence[Prepared], stopped: Callable[[], bool] | None = None
) -> Generator[Events, Collection[int] | None, Generation]:
    """Yield the events of each step; return the replies.

    Counterfactuals are rows of the same batch, after those that are asked for. Requests whose numbers are sent into it
    are given up: the token just read is their last, and that of their counterfactual.
    """
    replies = Replies(engine, prepared)
    with closing(engine.generate(replies.rows, stopped)) as steps:
        step = next(steps)
        while True:
            replies.drop((yield replies.read(step)) or ())
            try:
                step = steps.send(replies.cut)
            except StopIteration as done:
                recording: Recording = done.value
                break
    if any(rest := replies.rest()):
        yield rest
    return replies.finished(recording, len(replies.rows))


class Replies:
    """The replies of some requests while they are generated, and of the counterfactuals that they name after them."""

    def __init__(self, engine: Engine, prepared: Sequence[Prepared]) -> None:
        self._started, self._prepared = time.perf_counter(), prepared
        requests = [*prepared, *(one.unsteered for one in prepared if one.unsteered is not None)]
        self._replies = [_Reply(engine, one) for one in requests]
        self._tripwires, self._dropped = Tripwires(prepared), set[int]()
        self.rows = [reply.row for reply in self._replies]
        """What an engine is given."""
        self.cut: set[int] = set()
        """Rows whose newest token is their last."""

    def read(self, step: Step) -> Events:
        """The events of a step's tokens, each read once by its row's grammar; not those of counterfactuals."""
        replies = self._replies
        decided: Sequence[Decided] = step.decided or ["model"] * len(replies)
        events = [reply.read(token, by) for reply, token, by in zip(replies, step.tokens, decided, strict=True)]
        self.cut = self._tripwires.after(step, [reply.cursor for reply in replies], events)
        shown = [reply.stops.read(some) for reply, some in zip(replies, events, strict=True)]
        self.cut |= {row for row, reply in enumerate(replies) if reply.stops.found}
        return shown[: len(self._prepared)]

    def drop(self, numbers: Collection[int]) -> None:
        """Give requests up, and their counterfactuals."""
        self._dropped.update(numbers)
        if self._dropped:
            self.cut |= _with_counterfactuals(self._prepared, self._dropped)

    def rest(self) -> Events:
        """The text that was held back, once all have ended."""
        return [reply.stops.rest() for reply in self._replies][: len(self._prepared)]

    def finished(self, recording: Recording, size: int, place: int = 0) -> Generation:
        """The replies once they have ended."""
        seconds = round(time.perf_counter() - self._started, 6)
        tripped = self._tripwires.tripped
        finished = [reply.finished(tripped.get(row)) for row, reply in enumerate(self._replies)]
        return Generation(finished, recording, seconds, size, place, frozenset(self._dropped))


def _with_counterfactuals(prepared: Sequence[Prepared], numbers: Collection[int]) -> set[int]:
    """Rows of these requests."""
    beside = [number for number, one in enumerate(prepared) if one.unsteered is not None]
    return {*numbers, *(len(prepared) + row for row, number in enumerate(beside) if number in numbers)}


class _Reply:
    """One row while it is generated."""

    def __init__(self, engine: Engine, one: Prepared) -> None:
        self._one, self._ids = one, list[int]()
        constraints = row_constraints(engine.tokenizer, one.form, one.grammar, one.policies)
        self.row = Row(one.prompt.ids, one.wanted, one.request.sampling, *constraints)
        self.cursor = Cursor(engine.tokenizer, len(one.prompt.ids))
        self.cursor.read(one.prompt.ids)
        self.stops = StopTexts(one.form.stop)
        self._deciders = Deciders(constraints, len(one.prompt.ids))

    def read(self, token: int | None, decided: Decided) -> tuple[Event, ...]:
        """Take the next token, None of a row that has ended; the events are those that it decides."""
        if token is None:
            return ()
        self._ids.append(token)
        self._deciders.note(decided)
        return self.cursor.read([token])

    def finished(self, tripped: Verdict | None) -> GeneratedReply:
        """The row once it has ended."""
        parsed, places = self.cursor.parsed(), self.cursor.spans(self.cursor.position - 1)
        if self.stops.found:
            parsed = replace(parsed, text=self.stops.text, finish="stop")
        return GeneratedReply(self._one, tuple(self._ids), parsed, places, tripped, self._deciders.all())


def drained(steps: Generator[Any, Any, list[Turn]], stopped: Callable[[], bool] | None = None) -> list[Turn]:
    """The turns of a generator whose events nobody watches. Raises AbandonedError once `stopped` answers True."""
    with closing(steps):
        while stopped is None or not stopped():
            try:
                next(steps)
            except StopIteration as done:
                turns: list[Turn] = done.value
                return turns
    raise AbandonedError
