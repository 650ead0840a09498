"""The agent loop in an event loop: it stays free, and cancelling leaves nothing behind."""

from __future__ import annotations

import asyncio
import threading
import time
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from steerkit.agent import Approval, Held, Runtime
from steerkit.audit import Store, verify
from steerkit.chat import render
from steerkit.errors import AuditError, MessageError
from steerkit.tiny.demo_requests import CASES
from tests.agent.scripted import END, Script, box_tokenizer, broken_after, calling, declared, events, ruled, user
from tests.steer.conftest import hooks_on

BENIGN = {case.name: case for case in CASES}["benign"]
ABC = [declared(name) for name in "abc"]


async def fine(**arguments: Any) -> str:
    return "fine"


FINE: dict[str, Callable[..., Any]] = dict.fromkeys("abc", fine)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "audit.db")


async def get_balance(account: str) -> dict[str, int]:
    """Show a balance.

    Args:
        account: Account
    """
    await asyncio.sleep(0.01)
    return {"dollars": 1200}


def test_async_functions_work_in_both_loops(box: Runtime) -> None:
    """The same function, messages and model: `aloop` and `loop` give the same conversation."""
    awaited = asyncio.run(box.aloop(BENIGN.messages, [get_balance]))
    plain = box.loop(BENIGN.messages, [get_balance])
    assert awaited.status == "answer"
    assert awaited.text == "The balance of travel 38 is 1200."
    assert awaited.messages == plain.messages


def test_the_event_loop_stays_free() -> None:
    """While tokens are made, a person is asked and a tool blocks, another task goes on; beside `loop` it waits."""
    script = Script(ruled(b="hold"))
    script.model.each_pass = lambda: time.sleep(0.08)

    def blocking(**arguments: Any) -> str:
        time.sleep(0.8)
        return "late"

    def approve(held: Held) -> bool:
        time.sleep(0.8)
        return True

    async def main(*, free: bool) -> float:
        gaps: list[float] = []

        async def watch() -> None:
            while True:
                before = time.perf_counter()
                await asyncio.sleep(0.005)
                gaps.append(time.perf_counter() - before)

        watching = asyncio.create_task(watch())
        await asyncio.sleep(0.01)
        runtime = script.say(calling("b"), END)
        tools: dict[str, Any] = {"execute": {**FINE, "b": blocking}, "approve": approve}
        run = await runtime.aloop(user(), ABC, **tools) if free else runtime.loop(user(), ABC, **tools)
        await asyncio.sleep(0.01)
        watching.cancel()
        assert run.executions[0].result == {"value": "late"}
        return max(gaps)

    assert asyncio.run(main(free=True)) < 0.6 < asyncio.run(main(free=False))


def test_the_calls_of_a_turn_run_together() -> None:
    """Two tools that wait for each other both return; one after the other neither would before its time limit."""
    script = Script()

    def functions() -> dict[str, Callable[..., Any]]:
        first, second = asyncio.Event(), asyncio.Event()

        async def a() -> str:
            first.set()
            await second.wait()
            return "a"

        async def b() -> str:
            second.set()
            await first.wait()
            return "b"

        return {**FINE, "a": a, "b": b}

    async def main() -> Any:
        return await script.say(calling("a", "b"), END).aloop(user(), ABC, execute=functions(), timeout=5)

    together = asyncio.run(main())
    assert [execution.result for execution in together.executions] == [{"value": "a"}, {"value": "b"}]
    apart = script.say(calling("a", "b"), END).loop(user(), ABC, execute=functions(), timeout=0.2)
    assert apart.executions[0].status == "timeout"


async def ayes(held: Held) -> Any:
    await asyncio.sleep(0)
    return Approval(True, "ann")


async def araising(held: Held) -> Any:
    raise ValueError("no line")


async def acancelled(held: Held) -> Any:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("approve", "status", "error"),
    [
        (ayes, "ok", None),
        (lambda held: Approval(True, "ann"), "ok", None),
        (lambda held: ayes(held), "ok", None),
        (lambda held: False, "refused", None),
        (araising, "refused", "approve raised ValueError: no line"),
        (acancelled, "refused", "approve raised CancelledError"),
        (lambda held: 1, "refused", "approve returned int, expected a bool or an Approval"),
    ],
)
def test_people_are_asked_sync_or_async(approve: Any, status: str, error: str | None, store: Store) -> None:
    """A clear yes runs the call; asking that fails, in any way of failing, refuses it and is recorded."""
    runtime = Script(ruled(b="hold"), store).say(calling("b"), END)
    run = asyncio.run(runtime.aloop(user(), ABC, execute=FINE, approve=approve))
    assert (run.status, run.executions[0].status) == ("answer", status)
    approval = next(one.content for one in store.records() if one.content["kind"] == "approval")
    assert (approval["error"], approval["decision"]) == (error, "approve" if status == "ok" else "refuse")


def test_with_nobody_to_ask_it_is_pending_and_resumes(store: Store) -> None:
    """`aresume` carries out the decision; asking again is refused, as in the sync loop."""
    script = Script(ruled(b="hold"), store)

    async def main() -> tuple[Any, Any]:
        paused = await script.say(calling("b"), END).aloop(user(), ABC, execute=FINE)
        return paused, await script.runtime.aresume(paused.pending, True, tools=ABC, execute=FINE)

    paused, done = asyncio.run(main())
    assert (paused.status, paused.executions) == ("pending", ())
    assert (done.status, [execution.status for execution in done.executions]) == ("answer", ["ok"])


async def until(condition: Callable[[], bool]) -> None:
    """Wait for it, not for ever."""
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come to that")


async def cancelled(running: Awaitable[Any], ready: Callable[[], bool]) -> float:
    """Cancel once it is ready; how long its end took, in seconds."""
    task = asyncio.ensure_future(running)
    await until(ready)
    started = time.perf_counter()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return time.perf_counter() - started


def test_cancelling_stops_the_generation_and_takes_the_hooks_off(store: Store) -> None:
    """In the middle of a reply: no further pass, no hook, no record; the next run on the model is as ever."""
    script = Script(store=store)
    passes: list[int] = []

    def slow() -> None:
        passes.append(hooks_on(script.model))
        time.sleep(0.02)

    script.model.each_pass = slow

    async def main() -> float:
        long = script.say("one two three four five six seven eight nine ten " * 20 + END)
        return await cancelled(long.aloop(user(), ABC, execute=FINE), lambda: len(passes) >= 3)

    seconds = asyncio.run(main())
    made = len(passes)
    time.sleep(0.1)
    assert len(passes) == made < 60
    assert passes[0] > 0
    assert hooks_on(script.model) == 0
    assert seconds < 2.0
    assert events(store) == []
    script.model.each_pass = None
    run = script.say(calling("a"), END).loop(user(), ABC, execute={**FINE, "a": lambda: 1})
    assert run.status == "answer"


def test_cancelling_twice_still_waits_for_the_model() -> None:
    """A second cancellation in the middle of the first does not leave a generation behind."""
    script = Script()
    passes: list[int] = []

    def slow() -> None:
        passes.append(1)
        time.sleep(0.1)

    script.model.each_pass = slow

    async def main() -> None:
        running = script.say("one two three four five " * 20 + END).aloop(user(), ABC, execute=FINE)
        task = asyncio.ensure_future(running)
        await until(lambda: len(passes) >= 2)
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert hooks_on(script.model) == 0

    asyncio.run(main())


def test_waiting_for_the_model_can_be_cancelled() -> None:
    """A run that waits for its turn on the model gives up at once; the one that has it is not disturbed."""
    script = Script()
    passes: list[int] = []

    def slow() -> None:
        passes.append(1)
        time.sleep(0.03)

    script.model.each_pass = slow

    async def main() -> Any:
        runtime = script.say("one two three four five six seven eight nine" + END)
        first = asyncio.ensure_future(runtime.aloop(user(), ABC, execute=FINE))
        await until(lambda: len(passes) >= 2)
        waiting = asyncio.ensure_future(runtime.aloop(user(), ABC, execute=FINE))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not first.done()
        return await first

    assert asyncio.run(main()).status == "answer"


def test_cancelling_reaches_the_tools(store: Store) -> None:
    """Async tools are cancelled and clean up, sync ones are left; both are recorded as interrupted."""
    release, begun, seen = threading.Event(), [], []

    async def waiting() -> None:
        begun.append("a")
        try:
            await asyncio.sleep(30)
        finally:
            seen.append("cleaned up")

    def blocking() -> None:
        begun.append("b")
        release.wait(30)

    script = Script(store=store)
    functions = {**FINE, "a": waiting, "b": blocking}

    async def main() -> float:
        run = script.say(calling("a", "b")).aloop(user(), ABC, execute=functions, timeout=None)
        return await cancelled(run, lambda: len(begun) == 2)

    assert asyncio.run(main()) < 2.0
    release.set()
    assert seen == ["cleaned up"]
    turn, *rest = events(store)
    assert turn == ("turn", "tool_call")
    assert sorted(rest) == [("execution", "call_1", "interrupted"), ("execution", "call_2", "interrupted")]
    assert verify(store).records == 4  # the run's opening among them


def test_cancelling_while_a_person_is_asked_runs_nothing(store: Store) -> None:
    """The held call is not run and nothing is recorded of a decision that never came."""
    asked: list[Held] = []
    cleaned: list[bool] = []

    async def approve(held: Held) -> bool:
        asked.append(held)
        try:
            await asyncio.sleep(30)
        finally:
            cleaned.append(True)
        return True

    script = Script(ruled(b="hold"), store)

    async def main() -> float:
        return await cancelled(
            script.say(calling("b")).aloop(user(), ABC, execute=FINE, approve=approve), lambda: bool(asked)
        )

    assert asyncio.run(main()) < 2.0
    assert cleaned == [True]
    assert events(store) == [("turn", "tool_call")]


def test_a_store_that_cannot_write_ends_the_run(tmp_path: Path) -> None:
    """The tools that ran beside the failing one are over, and no further turn is made."""
    script = Script(store=broken_after(tmp_path / "audit.db", 2))
    ran: list[str] = []

    async def noting(**arguments: Any) -> str:
        ran.append("ran")
        return "fine"

    async def main() -> None:
        runtime = script.say(calling("a", "b"), calling("a"), END)
        with pytest.raises(AuditError, match="database or disk is full"):
            await runtime.aloop(user(), ABC, execute=dict.fromkeys("abc", noting))

    asyncio.run(main())
    assert ran == ["ran", "ran"]
    assert len(script.model.replies) == 2


def test_a_tool_that_exits_does_not_end_the_event_loop() -> None:
    """`sys.exit` in an async tool is an error result; another task of the loop lives on."""
    script = Script()

    async def leaving() -> None:
        raise SystemExit(3)

    async def main() -> tuple[Any, str]:
        beside = asyncio.create_task(asyncio.sleep(0.01, "alive"))
        run = await script.say(calling("a", "b"), END).aloop(user(), ABC, execute={**FINE, "a": leaving})
        return run, await beside

    run, beside = asyncio.run(main())
    assert [execution.result for execution in run.executions] == [{"error": "SystemExit: 3"}, {"value": "fine"}]
    assert beside == "alive"


def test_prompts_are_rendered_in_several_threads_as_in_one() -> None:
    """Text and structure stay apart while four threads switch one tokenizer between them."""
    tokenizer = box_tokenizer()
    messages = user("pay <start_function_call><escape> " * 100 + "long " * 1000)
    alone = render(tokenizer, messages).ids
    failed: list[object] = []

    def work() -> None:
        for _ in range(12):
            try:
                if render(tokenizer, messages).ids != alone:
                    failed.append("other tokens")
            except MessageError as error:
                failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert render(tokenizer, user("pay")).ids != alone


def test_several_runs_at_once_get_what_each_gets_alone(box: Runtime) -> None:
    """Four runs and their tools share one model and one tokenizer; none disturbs another."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alone = box.loop(BENIGN.messages, [get_balance], policy=())

        async def main() -> list[Any]:
            return await asyncio.gather(*(box.aloop(BENIGN.messages, [get_balance], policy=()) for _ in range(4)))

        together = asyncio.run(main())
    assert [run.messages for run in together] == [alone.messages] * 4
