"""Answers what the agent loop asks for: in this thread, or in an event loop that stays free."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from functools import partial
from typing import Any, TypeVar

from steerkit.agent.calls import Approval, Execution, Held
from steerkit.agent.context import Approver, Desk, answered
from steerkit.agent.exchange import Decisions
from steerkit.agent.loop import Approve, Execute, Generate, Loop, Run, Steps
from steerkit.agent.pending import Asked, Pending
from steerkit.agent.resume import decided
from steerkit.agent.tool_runner import Ended, acalled, arun_tool, run_tool, within
from steerkit.errors import AuditError
from steerkit.types import Messages

T = TypeVar("T")


def loop(desk: Desk, messages: Messages) -> Run:
    """A whole run."""
    return _drive(desk, _loop(desk, messages).steps())


def resume(desk: Desk, pending: Pending, decisions: Decisions) -> Run:
    """The rest of a pending run."""
    desk = desk.going_on(pending)
    approvals = decided(desk, pending, decisions)
    return _drive(desk, _rest(desk, pending, approvals))


async def aloop(desk: Desk, messages: Messages) -> Run:
    """A whole run."""
    return await _adrive(desk, _loop(desk, messages).steps())


async def aresume(desk: Desk, pending: Pending, decisions: Decisions) -> Run:
    """The rest of a pending run."""
    desk = desk.going_on(pending)
    approvals = await _threaded(partial(decided, desk, pending, decisions))
    return await _adrive(desk, _rest(desk, pending, approvals))


def _rest(desk: Desk, pending: Pending, approvals: Mapping[str, Approval]) -> Steps:
    return _loop(desk, pending.messages).resumed(pending, approvals)


def _loop(desk: Desk, messages: Messages) -> Loop:
    return Loop(messages, desk.max_turns, desk.conversation, desk.metadata)


def _drive(desk: Desk, steps: Steps) -> Run:
    answer: Any = None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as done:
            run: Run = done.value
            return run
        match step:
            case Generate(messages):
                answer = desk.turn(messages)
            case Approve(held):
                if (approve := desk.approve) is None:
                    answer = desk.origin()
                else:
                    answer = [_asked(desk, approve, one) for one in held]
            case Execute(asked, record_id):
                answer = [_executed(desk, one, record_id) for one in asked]


async def _adrive(desk: Desk, steps: Steps) -> Run:
    answer: Any = None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as done:
            run: Run = done.value
            return run
        match step:
            case Generate(messages):
                stop = threading.Event()
                answer = await _threaded(partial(desk.turn, messages, stop.is_set), stop.set)
            case Approve(held):
                if (approve := desk.approve) is None:
                    answer = await _threaded(desk.origin)
                else:
                    answer = [await _aasked(desk, approve, one) for one in held]
            case Execute(asked, record_id):
                answer = await _together([_aexecuted(desk, one, record_id) for one in asked])


def _asked(desk: Desk, approve: Approver, held: Held) -> Approval:
    """What was decided about a call, written down; asking that fails refuses."""
    try:
        ended = Ended(approve(deepcopy(held)))  # a copy: what was judged is what is run
    except Exception as error:
        ended = Ended(error=error)
    approval, failure = answered(ended)
    desk.approved(held, approval, failure)
    return approval


async def _aasked(desk: Desk, approve: Approver, held: Held) -> Approval:
    approval, failure = answered(await within(acalled(approve, deepcopy(held)), None))
    await _threaded(partial(desk.approved, held, approval, failure))
    return approval


def _executed(desk: Desk, one: Asked, record_id: str | None) -> Execution:
    """A call run and written down; if nobody waits for its end, that is written down."""
    started = time.perf_counter()
    try:
        execution = desk.told(one, run_tool(desk.functions[one.call.name], one.call.arguments, desk.limits))
    except BaseException:
        _interrupted(desk, one, record_id, started)
        raise
    desk.executed(execution, record_id)
    return execution


async def _aexecuted(desk: Desk, one: Asked, record_id: str | None) -> Execution:
    started = time.perf_counter()
    try:
        ran = await arun_tool(desk.functions[one.call.name], one.call.arguments, desk.limits)
        execution = await _threaded(partial(desk.told, one, ran))
    except BaseException:
        _interrupted(desk, one, record_id, started)  # not in a thread: nothing may come in between now
        raise
    await _threaded(partial(desk.executed, execution, record_id))
    return execution


def _interrupted(desk: Desk, one: Asked, record_id: str | None, started: float) -> None:
    """Write down that a call was begun, and that nobody waited for its end."""
    seconds = round(time.perf_counter() - started, 6)
    with suppress(AuditError):  # what ends the run counts for more
        desk.executed(Execution(one.id, one.call, "interrupted", {}, seconds), record_id)


async def _together(works: Sequence[Awaitable[T]]) -> list[T]:
    """All results in order; after the first failure the others are cancelled, and waited for."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        raise


async def _threaded(work: Callable[[], T], stop: Callable[[], object] | None = None) -> T:
    """What `work` returns, run in a thread. When cancelled, it is asked to stop and waited for: nothing goes on."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if stop is not None:
            stop()
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # so that asyncio is silent
        while not task.done():
            with suppress(asyncio.CancelledError):  # cancelled again
                await asyncio.wait({task})
        raise
