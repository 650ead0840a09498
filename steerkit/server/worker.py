"""Generation in one thread: what waits when the model is free is generated together, each under its own policies."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import closing, suppress

from steerkit.chat import TextDelta
from steerkit.errors import SteerkitError
from steerkit.runtime import Prepared, Retried, Turns
from steerkit.server.generation import BusyError, Event
from steerkit.types import Turn


class Submitted:
    """A request in the worker's hands; its events arrive in the event loop that submitted it."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.cancelled = False
        self.token_times: tuple[float, float] | None = None
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | BaseException] = asyncio.Queue()

    @property
    def rows(self) -> int:
        """Rows of a batch that it takes: with a counterfactual two."""
        return 1 if self.prepared.unsteered is None else 2

    def tell(self, event: Event | BaseException) -> None:
        """Hand an event over; called in the worker's thread."""
        with suppress(RuntimeError):  # the event loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def saw_token(self) -> None:
        """Note the time of a token."""
        now = time.monotonic()
        self.token_times = (now if self.token_times is None else self.token_times[0], now)

    async def events(self) -> AsyncIterator[Event]:
        """The events as they come, up to the turn. Raises what ended it instead."""
        while True:
            event = await self._events.get()
            if isinstance(event, BaseException):
                raise event
            yield event
            if isinstance(event, Turn):
                return

    def cancel(self) -> None:
        """Give it up; nothing happens where it has ended."""
        self.cancelled = True


class Worker:
    """Takes what waits, up to `batch_size` rows, generates it as one batch and hands out text as it is written.

    In float32 each request gets the tokens that it gets alone. Turns of a batch are judged and recorded at its end.

    Args:
        runtime: with the model.
        batch_size: rows that are generated together.
        most_waiting: requests that may wait beside those that run.
    """

    def __init__(self, runtime: Turns, batch_size: int, most_waiting: int) -> None:
        self._runtime, self._batch_size, self._most_waiting = runtime, batch_size, most_waiting
        self._waiting: deque[Submitted] = deque()
        self._running: Sequence[Submitted] = ()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="steerkit-generation", daemon=True)
        self._thread.start()

    @property
    def load(self) -> tuple[int, int]:
        """Requests that run, and that wait."""
        return len(self._running), len(self._waiting)

    def submit(self, prepared: Prepared) -> Submitted:
        """Take a request in. Raises BusyError where as many wait as may, and once the worker is closed."""
        with self._changed:
            if self._closing or len(self._waiting) >= self._most_waiting:
                raise BusyError
            one = Submitted(prepared)
            self._waiting.append(one)
            self._changed.notify()
        return one

    def close(self) -> None:
        """Finish what was taken in, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while some := self._next():
            self._running = some
            try:
                self._generate(some)
            finally:
                self._running = ()

    def _next(self) -> list[Submitted]:
        """The next batch; empty once the worker is closed and nothing waits."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                some: list[Submitted] = []
                while self._waiting and sum(one.rows for one in (*some, self._waiting[0])) <= max(
                    self._batch_size, self._waiting[0].rows
                ):
                    one = self._waiting.popleft()
                    some += [] if one.cancelled else [one]
                if some or (self._closing and not self._waiting):
                    return some

    def _generate(self, some: Sequence[Submitted]) -> None:
        """Generate a batch. Where it fails before its first token, each by itself: one request must not fail others."""
        try:
            self._write(some)
        except Exception as error:
            begun = any(one.token_times is not None for one in some)
            if len(some) > 1 and not begun and isinstance(error, SteerkitError):
                for one in some:
                    self._generate([one])
                return
            for one in some:
                one.tell(error)

    def _write(self, some: Sequence[Submitted]) -> None:
        with closing(self._runtime.written([one.prepared for one in some])) as steps:
            given_up: Collection[int] | None = None
            while True:
                try:
                    events = steps.send(given_up)
                except StopIteration as done:
                    turns: list[Turn] = done.value
                    break
                for one, said in zip(some, events, strict=True):
                    if said or one.token_times is None:
                        one.saw_token()
                    for event in said:
                        if isinstance(event, (TextDelta, Retried)):
                            one.tell(event)
                given_up = {number for number, one in enumerate(some) if one.cancelled}
                if len(given_up) == len(some):
                    return
        for one, turn in zip(some, turns, strict=True):
            one.tell(turn)
