"""Tools run one at a time: bounded in time and in the size of their results, and nothing they do is a crash."""

from __future__ import annotations

import asyncio
import contextvars
import json
import threading
import time
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.runtime.execute import MAX_ERROR, Limits, Ran, arun_tool, error_text, fitted, is_async, run_tool

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


class Colour(StrEnum):
    """Text by another name."""

    RED = "red"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"a": (1, 2.5, None)}, {"a": [1, 2.5, None]}),
        (None, {"value": None}),
        ("text", {"value": "text"}),
        ('{"looks": "like an object"}', {"value": '{"looks": "like an object"}'}),
        (Colour.RED, {"value": "red"}),
        ({1: "a"}, {"1": "a"}),
        ([], {"value": []}),
        (10**30, {"value": 10**30}),
        ("x" * 40, {"value": "x" * 40}),
        ("x" * 41, {"value": "x" * 40 + " [cut after 40 characters]"}),
        ({"a": "x" * 100}, {"value": '{"a": "' + "x" * 33 + " [cut after 40 characters]"}),
    ],
)
def test_results_are_objects_of_plain_json(value: Any, told: dict[str, Any]) -> None:
    """What is no mapping stands under `value`; what is too long is cut, and says so."""
    assert fitted(value, 40) == ("ok", told)


class Vicious(dict[str, int]):
    """A mapping that cannot be read."""

    def items(self) -> Any:
        """Nothing."""
        raise RuntimeError("not to be read")

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (object(), "got a result of type object that is no JSON: Object of type object is not JSON serializable"),
        ({1, 2}, "got a result of type set that is no JSON: Object of type set"),
        (float("nan"), "got a result of type float that is no JSON: Out of range float values"),
        ({(1,): 2}, "got a result of type dict that is no JSON: keys must be str"),
        ("\ud800", "got a result of type str that is no JSON: 'utf-8' codec can't encode"),
        (10**5000, "got a result of type int that is no JSON: Exceeds the limit"),
        (Vicious(a=1), "got a result of type Vicious that is no JSON: not to be read"),
        ((n for n in ()), "got a result of type generator that is no JSON"),
    ],
    ids=["object", "set", "nan", "tuple key", "surrogate", "huge integer", "vicious", "generator"],
)
def test_results_that_are_no_json_are_errors(value: Any, error: str) -> None:
    """The model is told of what type it was and why it is none; a plain value beside it is fine."""
    status, told = fitted(value, 40)
    assert status == "error"
    assert str(told["error"]).startswith(error)
    assert fitted([1], 40)[0] == "ok"


def test_a_result_without_end_is_cut_at_once() -> None:
    """Thirty lists in one another, each twice in the next, would be 2^30 values; only what is told is written."""
    value: Any = []
    for _ in range(30):
        value = [value, value]
    started = time.perf_counter()
    status, told = fitted(value, 200)
    assert time.perf_counter() - started < 1.0
    assert status == "ok"
    assert str(told["value"]).endswith("[cut after 200 characters]")
    circle: list[Any] = []
    circle.append(circle)
    assert fitted(circle, 200) == (
        "error",
        {"error": "got a result of type list that is no JSON: Circular reference detected"},
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(value=json_values, most=st.integers(1, 60))
def test_any_json_value_is_told_whole_or_cut(value: Any, most: int) -> None:
    """A value that fits is told as it is, any other as a text of bounded length."""
    status, told = fitted(value, most)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    assert status == "ok"
    if len(text) <= most:
        assert told == (value if isinstance(value, dict) else {"value": value})
    else:
        assert told == {"value": f"{text[:most]} [cut after {most} characters]"}


def test_an_error_is_one_bounded_line() -> None:
    """Long texts are cut, line breaks are spaces, and an error whose own text fails still has its name."""

    class Broken(Exception):
        def __str__(self) -> str:
            raise ValueError

    assert error_text(KeyError("x")) == "KeyError: 'x'"
    assert error_text(ValueError("a\n  b")) == "ValueError: a b"
    assert error_text(Broken()) == "Broken"
    assert error_text(ValueError("\ud800")) == "ValueError: ?"
    assert len(error_text(ValueError("x" * 10_000))) < MAX_ERROR + 40
