"""Generation in one thread: requests join those that run, each under its own policies."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import closing, suppress
from itertools import count
from typing import Final

from steerkit.chat import TextDelta
from steerkit.errors import EngineError, SteerkitError
from steerkit.runtime import News, Prepared, Retried, Turns
from steerkit.server.generation import BusyError, Event
from steerkit.types import Turn

_TURNS: Final = 5
"""Turns of the event loop from an event that is told to its bytes on the socket, at most."""
_MOST_SECONDS: Final = 0.02
"""Longest wait for them."""


class Submitted:
    """A request in the worker's hands; its events arrive in the event loop that submitted it."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.cancelled = False
        self.token_times: tuple[float, float] | None = None
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | BaseException] = asyncio.Queue()

    def tell(self, event: Event | BaseException) -> None:
        """Hand an event over; called in the worker's thread."""
        with suppress(RuntimeError):  # the event loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def tell_all(self, told: Sequence[tuple[Submitted, Event | BaseException]]) -> None:
        """Hand the events of a step over, of requests of one event loop, and wait while it sends them; called in the
        worker's thread.

        Small operations of torch release the interpreter for less time than a thread takes to wake up, so that the loop
        would not get it before it insists, 5 ms later, and so on at each of its system calls.
        """
        sent = threading.Event()

        def turn(left: int) -> None:
            if left:
                self._loop.call_soon(turn, left - 1)
            else:
                sent.set()

        def put() -> None:
            for one, event in told:
                one._events.put_nowait(event)
            turn(_TURNS)

        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(put)
            sent.wait(_MOST_SECONDS)

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
    """Generates requests as they come and hands out text as it is written.

    A request joins those that run between two of their steps, where the engine can do that, and its turn is judged,
    recorded and handed out as soon as it has ended; else it is generated with those that waited with it. In float32
    each gets the tokens that it gets alone.

    Args:
        runtime: with the model.
        batch_size: rows that are generated together.
        most_waiting: requests that may wait beside those that run.
    """

    def __init__(self, runtime: Turns, batch_size: int, most_waiting: int) -> None:
        self._runtime, self._batch_size, self._most_waiting = runtime, batch_size, most_waiting
        self._waiting: deque[Submitted] = deque()
        self._running: dict[int, Submitted] = {}
        """By number in order of arrival."""
        self._arrived = count()
        self._changed = threading.Condition()
        self._closing = False
        self.failure: EngineError | None = None
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
        while self._awaited():
            self._arrived, self._running = count(), {}
            try:
                self._follow()
            except Exception as error:
                self._note(error)
                for one in self._running.values():
                    one.tell(error)
            finally:
                self._running = {}

    def _awaited(self) -> bool:
        """True once a request waits; False once the worker is closed and none does."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            return bool(self._waiting)

    def _next(self) -> Prepared | None:
        """The next request, which runs from now on."""
        with self._changed:
            while self._waiting:
                one = self._waiting.popleft()
                if not one.cancelled:
                    self._running[next(self._arrived)] = one
                    return one.prepared
            return None

    def _follow(self) -> None:
        """Generate what waits, and what comes meanwhile."""
        with closing(self._runtime.continuous(self._next, self._batch_size)) as flow:
            given_up: Collection[int] | None = None
            while True:
                try:
                    news = flow.send(given_up)
                except StopIteration:
                    return
                one = next(iter(self._running.values()), None)
                told = [event for number, said in news.items() for event in self._told(number, said)]
                if one is not None:
                    one.tell_all(told)
                given_up = [number for number, one in self._running.items() if one.cancelled]
                for number in given_up:
                    del self._running[number]

    def _note(self, error: Exception) -> None:
        """Remember an engine that is gone."""
        if isinstance(error, EngineError):
            self.failure = error

    def _told(self, number: int, said: News) -> Iterator[tuple[Submitted, Event | BaseException]]:
        """What a request is told of a step, which may be its last."""
        one = self._running.get(number)
        if one is None:
            return
        for event in said:
            if isinstance(event, (TextDelta, Retried, Turn, SteerkitError)):
                yield one, event
            if isinstance(event, (Turn, SteerkitError)):
                if isinstance(event, SteerkitError):
                    self._note(event)
                del self._running[number]
                return
        if said or one.token_times is None:
            one.saw_token()
