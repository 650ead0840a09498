"""Turns of requests that arrive while others are generated: each joins between two steps, or with the next batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import closing
from itertools import count
from typing import NamedTuple, TypeAlias

from steerkit.audit import Store
from steerkit.chat import Event
from steerkit.engine import Continuous, Engine, Running
from steerkit.errors import SteerkitError
from steerkit.runtime.generate import Replies
from steerkit.runtime.judge import Retried, judge, next_attempt, wants_retry
from steerkit.runtime.record import record
from steerkit.runtime.request import Prepared
from steerkit.types import Turn

News: TypeAlias = "tuple[Event | Retried | Turn | SteerkitError, ...]"
"""Text and calls of a request's newest token; `Retried`: what came so far is void; last its turn, or its error."""
Flow: TypeAlias = Generator[dict[int, News], Collection[int] | None]
"""News by number of the request, in order of arrival. Requests whose numbers are sent into it are given up: the token
just yielded is their last, and they are not recorded."""
Arriving: TypeAlias = Callable[[], Prepared | None]
"""The next request; None where none waits."""
Written: TypeAlias = "Generator[list[tuple[Event | Retried, ...]], Collection[int] | None, list[Turn]]"


class _Attempt(NamedTuple):
    """A request that runs."""

    prepared: Prepared
    replies: Replies
    running: Running


class Flowing:
    """Requests in a continuous batch."""

    def __init__(self, engine: Engine, batch: Continuous, store: Store | None) -> None:
        self._engine, self._batch, self._store = engine, batch, store
        self._attempts: dict[int, _Attempt] = {}
        self._again: dict[int, Prepared] = {}
        """Requests that are to be generated again."""

    def news(self, arriving: Arriving, most_rows: int) -> Flow:
        """The news of requests, until all have ended and none arrives."""
        numbers, batch = count(), self._batch
        while True:
            if news := dict(self._finished()):
                self._drop((yield news))
            while self._again or batch.rows < most_rows:
                if self._again:
                    number, prepared = self._again.popitem()
                elif (arrived := arriving()) is not None:
                    number, prepared = next(numbers), arrived
                else:
                    break
                replies = Replies(self._engine, [prepared])
                self._attempts[number] = _Attempt(prepared, replies, batch.join(replies.rows))
            if not self._attempts:
                return
            going = [number for number, one in self._attempts.items() if not one.running.ended]
            batch.step()
            self._drop((yield {number: events for number in going if (events := self._read(number)) is not None}))

    def _read(self, number: int) -> News | None:
        """The events of a request's newest token, if it has one; or its error, and it has left."""
        one = self._attempts[number]
        try:
            step = one.running.step
            if all(token is None for token in step.tokens):
                return None
            (events,) = one.replies.read(step)
        except SteerkitError as error:
            self._drop([number])
            return (error,)
        one.running.cut(one.replies.cut)
        return events

    def _finished(self) -> Iterator[tuple[int, News]]:
        """The last news of requests that have ended: judged, and on record."""
        for number, one in [*self._attempts.items()]:
            if not one.running.ended:
                continue
            del self._attempts[number]
            (rest,), running = one.replies.rest(), one.running
            try:
                made = one.replies.finished(running.recording, running.size, running.place)
                (turn,) = record(self._store, self._engine, made, judge(made))
            except SteerkitError as error:
                yield number, (*rest, error)
                continue
            if wants_retry(turn):
                self._again[number] = next_attempt(one.prepared, turn)
            yield number, (*rest, Retried(turn) if number in self._again else turn)

    def _drop(self, numbers: Collection[int] | None) -> None:
        """Give requests up."""
        for number in numbers or ():
            self._again.pop(number, None)
            if (one := self._attempts.pop(number, None)) is not None:
                one.running.cut(range(len(one.replies.rows)))


def in_batches(written: Callable[[Sequence[Prepared]], Written], arriving: Arriving, most_rows: int) -> Flow:
    """The news of requests, where rows cannot join: those that have arrived are generated together."""
    numbers = count()
    while True:
        some, rows = dict[int, Prepared](), 0
        while rows < most_rows and (arrived := arriving()) is not None:
            some[next(numbers)] = arrived
            rows += 1 if arrived.unsteered is None else 2
        if not some:
            return
        yield from _batch(written, some)


def _batch(written: Callable[[Sequence[Prepared]], Written], some: dict[int, Prepared]) -> Flow:
    """One batch. Where it fails before its first token, each by itself: one request must not fail others."""
    begun, dropped = False, set[int]()
    try:
        with closing(written(list(some.values()))) as steps:
            sent: Collection[int] | None = None
            while True:
                try:
                    events = steps.send(sent)
                except StopIteration as done:
                    turns: list[Turn] = done.value
                    break
                begun = True
                dropped.update((yield dict(zip(some, events, strict=True))) or ())
                sent = [row for row, number in enumerate(some) if number in dropped]
                if len(sent) == len(some):
                    return
    except SteerkitError as error:
        if begun or len(some) == 1:
            yield dict.fromkeys(some, (error,))
            return
        for number, one in some.items():
            yield from _batch(written, {number: one})
        return
    yield {number: (turn,) for number, turn in zip(some, turns, strict=True)}
