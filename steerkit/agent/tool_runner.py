"""Runs one tool: bounded in time and in the size of its result, and whatever it does wrong becomes a result too.

What it returned is read where it ran and within its time: generators and a value's own methods are its code as well.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import queue
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Final, Literal, NamedTuple

from steerkit.agent.results import MAX_RESULT, error_text, fitted
from steerkit.types import Json

GRACE: Final = 1.0
"""Seconds that an async function has to clean up after it is cancelled."""

Status = Literal["ok", "error", "timeout", "refused", "denied", "interrupted"]


class Ran(NamedTuple):
    """Outcome of one tool call."""

    status: Status
    result: dict[str, Json]
    """Result for the model."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one tool call."""

    timeout: float | None = 30.0
    """Seconds; None for no limit."""
    max_result: int = MAX_RESULT
    """Characters of a result, and tokens; what is longer is cut."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Outcome of a function: its value or its error."""

    value: Any = None
    error: BaseException | None = None

    def get(self) -> Any:
        """The value, or the error raised here."""
        if self.error is not None:
            raise self.error
        return self.value


class _TimedOutError(Exception):
    """A tool was past its time limit."""


def run_tool(function: Callable[..., Any], arguments: Mapping[str, Json], limits: Limits) -> Ran:
    """Run a function with a copy of a call's arguments.

    It runs in a daemon thread; an async function gets an event loop there. Past the time limit an async function is
    cancelled. A sync one cannot be killed: it continues in its thread, its result is dropped, and the process does not
    wait for it at its end.

    Raises:
        BaseException: what the function raised, if it is neither an `Exception` nor SystemExit: KeyboardInterrupt.
    """
    started = time.perf_counter()
    mailbox: queue.SimpleQueue[Ended] = queue.SimpleQueue()
    in_daemon(partial(_called, function, deepcopy(dict(arguments)), limits), mailbox.put)
    wait = limits.timeout
    if wait is not None and is_async(function):
        wait += 2 * GRACE  # it is cancelled in its own loop
    try:
        ended = mailbox.get(timeout=wait)
    except queue.Empty:
        ended = Ended(error=_TimedOutError())
    return _settled(ended, limits, started)


async def arun_tool(function: Callable[..., Any], arguments: Mapping[str, Json], limits: Limits) -> Ran:
    """The async form of `run_tool`: async functions run in the event loop, sync ones in a daemon thread."""
    started = time.perf_counter()
    work = _acalled(function, deepcopy(dict(arguments)), limits)
    return _settled(await within(work, limits.timeout), limits, started)


def is_async(function: Callable[..., Any]) -> bool:
    """True if a callable is known to be async before it is called."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004  # asks of what kind it is


def in_daemon(work: Callable[[], Any], tell: Callable[[Ended], None]) -> None:
    """Start `work` in a thread that nobody has to wait for, in the caller's context; tell how it ended."""
    context = contextvars.copy_context()

    def body() -> None:
        try:
            ended = Ended(context.run(work))
        except BaseException as error:
            ended = Ended(error=error)
        tell(ended)

    threading.Thread(target=body, name="steerkit-tool", daemon=True).start()


async def in_daemon_async(work: Callable[[], Any]) -> Any:
    """The result of `work`, run in a daemon thread; cancelling this leaves the thread to itself."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Ended] = loop.create_future()

    def arrived(ended: Ended) -> None:
        if not future.done():
            future.set_result(ended)

    def tell(ended: Ended) -> None:
        try:
            loop.call_soon_threadsafe(arrived, ended)
        except RuntimeError:  # the event loop has been closed: nobody waits any more
            return

    in_daemon(work, tell)
    return (await future).get()


async def acalled(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The result of a function: an async one is awaited here, a sync one called in a daemon thread."""
    if is_async(function):
        return await function(*args, **kwargs)
    value = await in_daemon_async(partial(function, *args, **kwargs))
    return await value if inspect.isawaitable(value) else value


async def within(work: Awaitable[Any], timeout: float | None) -> Ended:
    """Outcome of `work`; past the limit it is cancelled, and left behind if it does not end then."""
    task = asyncio.ensure_future(_ended(work))
    try:
        await asyncio.wait({task}, timeout=timeout)
    except asyncio.CancelledError:
        await _given_up(task)
        raise
    if task.done():
        return task.result()
    await _given_up(task)
    return Ended(error=_TimedOutError())


async def _ended(work: Awaitable[Any]) -> Ended:
    """Outcome of `work`; caught in its own task, as SystemExit would end the event loop."""
    try:
        return Ended(await work)
    except (Exception, SystemExit, asyncio.CancelledError) as error:
        return Ended(error=error)


async def _given_up(task: asyncio.Future[Any]) -> None:
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # so that asyncio does not report it
    task.cancel()
    await asyncio.wait({task}, timeout=GRACE)


def _called(function: Callable[..., Any], arguments: dict[str, Json], limits: Limits) -> dict[str, Json]:
    """Result of a function for the model; an awaitable is awaited in an event loop of its own."""
    value = function(**arguments)
    if inspect.isawaitable(value) or isinstance(value, AsyncIterator):
        value = asyncio.run(within(_awaited(value, limits), limits.timeout)).get()
    return _read(value, limits)


async def _acalled(function: Callable[..., Any], arguments: dict[str, Json], limits: Limits) -> dict[str, Json]:
    value = await _awaited(await acalled(function, **arguments), limits)
    return await in_daemon_async(partial(_read, value, limits))  # type: ignore[no-any-return]  # what `_read` returns


async def _awaited(value: Any, limits: Limits) -> Any:
    """An awaitable's result, or an async iterator's items, no more than fit a result."""
    if inspect.isawaitable(value):
        value = await value
    if not isinstance(value, AsyncIterator):
        return value
    items: list[Any] = []
    async for item in value:
        items.append(item)
        if len(items) > limits.max_result:
            break
    return items


def _read(value: Any, limits: Limits) -> dict[str, Json]:
    """A value as a result for the model; an error of a generator is raised, as it is the tool's."""
    if isinstance(value, Iterator):
        value = list(islice(value, limits.max_result + 1))
    return fitted(value, limits.max_result)


def _settled(ended: Ended, limits: Limits, started: float) -> Ran:
    seconds = round(time.perf_counter() - started, 6)
    if isinstance(ended.error, _TimedOutError):
        return Ran("timeout", {"error": f"timed out after {limits.timeout:g} s"}, seconds)
    if isinstance(ended.error, (Exception, SystemExit, asyncio.CancelledError)):
        return Ran("error", {"error": error_text(ended.error)}, seconds)
    return Ran("ok", ended.get(), seconds)
