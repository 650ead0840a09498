"""Tools run one at a time: bounded in time and in the size of their results, and nothing they do is a crash."""

from __future__ import annotations

import asyncio
import contextvars
import json
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from steerkit.agent.tool_runner import Limits, Ran, arun_tool, is_async, run_tool

QUICK = Limits(timeout=0.2, max_result=40)
Run = Callable[..., Ran]


def arun(function: Callable[..., Any], arguments: dict[str, Any], limits: Limits) -> Ran:
    return asyncio.run(arun_tool(function, arguments, limits))


both = pytest.mark.parametrize("run", [run_tool, arun], ids=["sync", "async"])


async def later(value: Any = 1, seconds: float = 0.0) -> Any:
    await asyncio.sleep(seconds)
    return value


def blocking(seconds: float) -> str:
    time.sleep(seconds)
    return "late"


def raising(error: BaseException) -> Any:
    raise error


async def araising(error: BaseException) -> Any:
    raise error


class CallableObject:
    """A tool that keeps something."""

    async def __call__(self, value: int) -> int:
        """What it was given."""
        return value


@both
def test_functions_of_every_kind_return(run: Run) -> None:
    """Sync, async, an object with an async call, and a sync function that returns an awaitable."""
    functions: list[Callable[..., Any]] = [lambda value: value, later, CallableObject(), lambda value: later(value)]
    for function in functions:
        assert run(function, {"value": 7}, QUICK)[:2] == ("ok", {"value": 7})
    assert [is_async(function) for function in functions] == [False, True, True, False]


@both
def test_what_a_tool_raises_is_a_result(run: Run) -> None:
    """Errors, a call that does not fit, sys.exit and a tool's own cancellation; the control returns."""
    errors: list[BaseException] = [
        ValueError("no\nsuch  thing"),
        StopIteration(),
        SystemExit(3),
        RecursionError("deep"),
    ]
    for error in errors:
        for function in (raising, araising):
            ran = run(function, {"error": error}, QUICK)
            assert ran.status == "error"
            assert type(error).__name__ in json.dumps(ran.result) or isinstance(error, StopIteration)
    assert run(raising, {"error": errors[0]}, QUICK).result == {"error": "ValueError: no such thing"}
    assert run(araising, {"error": asyncio.CancelledError()}, QUICK).result == {"error": "CancelledError"}
    ran = run(later, {"strange": 1}, QUICK)
    assert (ran.status, "unexpected keyword argument 'strange'" in str(ran.result["error"])) == ("error", True)
    assert run(later, {"value": 1}, QUICK).status == "ok"


@both
def test_a_tool_past_its_time_limit_is_left(run: Run) -> None:
    """A blocking tool, a sleeping one and one that ignores its cancellation; one that is fast enough is not."""

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.sleep(9)
            except asyncio.CancelledError:
                continue

    for function in (partial(later, 1, 9), partial(blocking, 2.5), lambda: later(1, 9)):
        started = time.perf_counter()
        ran = run(function, {}, QUICK)
        assert ran[:2] == ("timeout", {"error": "timed out after 0.2 s"})
        assert time.perf_counter() - started < 2.0
    assert run_tool(stubborn, {}, QUICK).status == "timeout"
    assert run(partial(later, 1, 0.05), {}, QUICK).status == "ok"
    assert run(partial(blocking, 0.3), {}, Limits(timeout=None)).result == {"value": "late"}


@both
def test_an_async_tool_past_its_limit_is_cancelled(run: Run) -> None:
    """It gets the time to clean up after itself; in time it is not cancelled."""
    seen: list[str] = []

    async def tool(seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
            seen.append("slept")
        except asyncio.CancelledError:
            await asyncio.sleep(0.05)
            seen.append("cleaned up")
            raise

    assert run(tool, {"seconds": 5}, QUICK).status == "timeout"
    assert run(tool, {"seconds": 0}, QUICK).status == "ok"
    assert seen == ["cleaned up", "slept"]


@both
def test_arguments_are_copies(run: Run) -> None:
    """A tool that changes what it was given, deep inside, changes nothing of the call."""

    def tool(rows: list[dict[str, int]]) -> Any:
        rows[0]["n"] = 9
        rows.append({})
        return rows

    arguments = {"rows": [{"n": 1}]}
    assert run(tool, arguments, QUICK).result == {"value": [{"n": 9}, {}]}
    assert arguments == {"rows": [{"n": 1}]}


@both
def test_a_tool_sees_the_callers_context(run: Run) -> None:
    """Context variables, such as a request's trace id, are those of the caller, in its thread too."""
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="none")
    assert run(name.get, {}, QUICK).result == {"value": "none"}
    token = name.set("request 7")
    try:
        assert run(name.get, {}, QUICK).result == {"value": "request 7"}
    finally:
        name.reset(token)


def test_a_hanging_tool_leaves_the_event_loop_free() -> None:
    """While a sync tool blocks, other tasks of the loop go on."""

    async def main() -> tuple[int, Ran]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        ran = await arun_tool(partial(blocking, 1.0), {}, Limits(timeout=0.4))
        ticking.cancel()
        return ticks, ran

    ticks, ran = asyncio.run(main())
    assert ran.status == "timeout"
    assert ticks > 5


def test_cancelling_reaches_the_tool() -> None:
    """An awaited tool is cancelled and may clean up before the caller goes on; a finished one is not touched."""
    seen: list[str] = []

    async def tool() -> None:
        try:
            await asyncio.sleep(9)
        finally:
            await asyncio.sleep(0.02)
            seen.append("cleaned up")

    async def main() -> None:
        running = asyncio.create_task(arun_tool(tool, {}, Limits()))
        await asyncio.sleep(0.05)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert seen == ["cleaned up"]
        assert (await arun_tool(later, {}, Limits())).status == "ok"

    asyncio.run(main())


def test_a_keyboard_interrupt_of_the_tool_itself_is_no_result() -> None:
    """It ends the run: whoever pressed the keys meant all of it."""
    with pytest.raises(KeyboardInterrupt):
        run_tool(raising, {"error": KeyboardInterrupt()}, QUICK)


def test_no_thread_is_waited_for_at_the_end_of_the_process() -> None:
    """Tools run in daemon threads."""
    kinds: list[bool] = []
    run_tool(lambda: kinds.append(threading.current_thread().daemon), {}, QUICK)
    assert kinds == [True]
    assert not threading.main_thread().daemon
