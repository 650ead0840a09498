"""Runs one tool: bounded in time and in the size of its result, and whatever it does wrong becomes a result too."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, NamedTuple

from steerkit.types import Json

MAX_ERROR: Final = 500
"""Characters of a tool's error that the model is told."""
GRACE: Final = 1.0
"""Seconds that an async function has to clean up after it is cancelled."""

_JSON: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False)

Status = Literal["ok", "error", "timeout", "refused", "denied", "interrupted"]


class Ran(NamedTuple):
    """What became of one tool that was run."""

    status: Status
    result: dict[str, Json]
    """As the model is told of it."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Limits:
    """What a tool may take."""

    timeout: float | None = 30.0
    """Seconds; None for no limit."""
    max_result: int = 4000
    """Characters of a result, and tokens; what is longer is cut."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a function ended."""

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
    cancelled. A sync one cannot be killed: it goes on in its thread, its result is dropped, and the process does not
    wait for it at its end.

    Raises:
        BaseException: what the function raised, if it is neither an `Exception` nor SystemExit: KeyboardInterrupt.
    """
    started = time.perf_counter()
    mailbox: queue.SimpleQueue[Ended] = queue.SimpleQueue()
    in_daemon(partial(_called, function, deepcopy(dict(arguments)), limits.timeout), mailbox.put)
    wait = limits.timeout
    if wait is not None and is_async(function):
        wait += 2 * GRACE  # it is cancelled in its own loop
    try:
        ended = mailbox.get(timeout=wait)
    except queue.Empty:
        ended = Ended(error=_TimedOutError())
    return _settled(ended, limits, started)


async def arun_tool(function: Callable[..., Any], arguments: Mapping[str, Json], limits: Limits) -> Ran:
    """As `run_tool`, without holding up the event loop: async functions run in it, sync ones in a daemon thread."""
    started = time.perf_counter()
    work = acalled(function, **deepcopy(dict(arguments)))
    return _settled(await within(work, limits.timeout), limits, started)


def is_async(function: Callable[..., Any]) -> bool:
    """Whether a callable is known to be async before it is called."""
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
    """What `work` returns or raises, run in a daemon thread; cancelling this leaves the thread to itself."""
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
    """What a function returns: an async one is awaited here, a sync one called in a daemon thread."""
    if is_async(function):
        return await function(*args, **kwargs)
    value = await in_daemon_async(partial(function, *args, **kwargs))
    return await value if inspect.isawaitable(value) else value


async def within(work: Awaitable[Any], timeout: float | None) -> Ended:
    """How `work` ended; past the limit it is cancelled, and left behind if it does not end then."""
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
    """How `work` ended; caught in its own task, as SystemExit would end the event loop."""
    try:
        return Ended(await work)
    except (Exception, SystemExit, asyncio.CancelledError) as error:
        return Ended(error=error)


async def _given_up(task: asyncio.Future[Any]) -> None:
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # so that asyncio does not report it
    task.cancel()
    await asyncio.wait({task}, timeout=GRACE)


def _called(function: Callable[..., Any], arguments: dict[str, Json], timeout: float | None) -> Any:
    """What a function returns; an awaitable is awaited in an event loop of its own."""
    value = function(**arguments)
    return asyncio.run(within(value, timeout)).get() if inspect.isawaitable(value) else value


def _settled(ended: Ended, limits: Limits, started: float) -> Ran:
    seconds = round(time.perf_counter() - started, 6)
    if isinstance(ended.error, _TimedOutError):
        return Ran("timeout", {"error": f"timed out after {limits.timeout:g} s"}, seconds)
    if isinstance(ended.error, (Exception, SystemExit, asyncio.CancelledError)):
        return Ran("error", {"error": error_text(ended.error)}, seconds)
    return Ran(*fitted(ended.get(), limits.max_result), seconds)


def error_text(error: BaseException) -> str:
    """An error in one bounded line, without its traceback."""
    try:
        said = " ".join(str(error).split())
    except Exception:  # an error whose own text fails
        said = ""
    name = type(error).__name__
    text = (f"{name}: {said}" if said else name).encode("utf-8", "replace").decode()
    return _cut(text, MAX_ERROR)


def fitted(value: Any, max_result: int) -> tuple[Status, dict[str, Json]]:
    """A tool's return value as the model is told of it: an object, of plain JSON, not too long.

    A value that is no mapping stands under `value`. A longer one is cut: its text stands under `value`, with a note.
    """
    try:
        text = _json(value, max_result)
        text.encode()
        if len(text) <= max_result and not isinstance(value, str):
            result = json.loads(text)
            return "ok", result if isinstance(result, dict) else {"value": result}
    except Exception as error:  # a result's own methods may raise anything
        got = error_text(error).partition(": ")[2] or type(error).__name__
        return "error", {"error": f"got a result of type {type(value).__name__} that is no JSON: {got}"}
    return "ok", {"value": _cut(text, max_result)}


def _json(value: Any, most: int) -> str:
    """A value as JSON text, text as itself; no more is written than is needed to know that it is too long."""
    if isinstance(value, str):
        return str.__str__(value)  # an enum's value, not its name
    parts, length = [], 0
    for part in _JSON.iterencode(value):
        parts.append(part)
        length += len(part)
        if length > most:
            break
    return "".join(parts)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} [cut after {most} characters]"
