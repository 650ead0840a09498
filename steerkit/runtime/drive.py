"""Answers what the agent loop asks for: in this thread, or in an event loop that stays free."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from steerkit.errors import AuditError
from steerkit.runtime.desk import Desk, answered, failed
from steerkit.runtime.execute import arun_tool, in_daemon_async, is_async, run_tool
from steerkit.runtime.loop import Approval, Approve, Execute, Execution, Generate, Held, Loop, Run, Steps
from steerkit.runtime.pending import Asked, Pending
from steerkit.runtime.resume import Decisions, decided
from steerkit.types import Messages

T = TypeVar("T")


def loop(desk: Desk, messages: Messages) -> Run:
    """A whole run."""
    return _drive(desk, Loop(messages, desk.origin, desk.max_turns).steps())


def resume(desk: Desk, pending: Pending, decisions: Decisions) -> Run:
    """The rest of a pending run."""
    approvals = decided(desk, pending, decisions)
    return _drive(desk, _rest(desk, pending, approvals))


async def aloop(desk: Desk, messages: Messages) -> Run:
    """A whole run."""
    return await _adrive(desk, Loop(messages, desk.origin, desk.max_turns).steps())


async def aresume(desk: Desk, pending: Pending, decisions: Decisions) -> Run:
    """The rest of a pending run."""
    approvals = await _threaded(partial(decided, desk, pending, decisions))
    return await _adrive(desk, _rest(desk, pending, approvals))


def _rest(desk: Desk, pending: Pending, approvals: Mapping[str, Approval]) -> Steps:
    return Loop(pending.messages, desk.origin, desk.max_turns).resumed(pending, approvals)


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
                answer = None if desk.approve is None else [_asked(desk, one) for one in held]
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
                answer = None if desk.approve is None else [await _aasked(desk, one) for one in held]
            case Execute(asked, record_id):
                answer = await _together([_aexecuted(desk, one, record_id) for one in asked])


def _asked(desk: Desk, held: Held) -> Approval:
    """What was decided about a call, written down; asking that fails refuses."""
    assert desk.approve is not None  # the caller looked
    try:
        approval, error = answered(desk.approve(held))
    except Exception as raised:
        approval, error = failed(raised)
    desk.approved(held, approval, error)
    return approval


async def _aasked(desk: Desk, held: Held) -> Approval:
    assert desk.approve is not None  # the caller looked
    try:
        answer = desk.approve(held) if is_async(desk.approve) else await in_daemon_async(partial(desk.approve, held))
        approval, error = answered(await answer if inspect.isawaitable(answer) else answer)
    except Exception as raised:
        approval, error = failed(raised)
    await _threaded(partial(desk.approved, held, approval, error))
    return approval


def _executed(desk: Desk, one: Asked, record_id: str | None) -> Execution:
    """A call run and written down; if nobody waits for its end, that is written down."""
    started = time.perf_counter()
    try:
        ran = run_tool(desk.functions[one.call.name], one.call.arguments, desk.limits)
    except BaseException:
        with suppress(AuditError):  # what ends the run counts for more
            desk.interrupted(one, record_id, _since(started))
        raise
    return desk.executed(one, record_id, ran)


async def _aexecuted(desk: Desk, one: Asked, record_id: str | None) -> Execution:
    started = time.perf_counter()
    try:
        ran = await arun_tool(desk.functions[one.call.name], one.call.arguments, desk.limits)
    except BaseException:
        with suppress(AuditError):
            desk.interrupted(one, record_id, _since(started))  # not in a thread: nothing may come in between now
        raise
    return await _threaded(partial(desk.executed, one, record_id, ran))


def _since(started: float) -> float:
    return round(time.perf_counter() - started, 6)


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
        await asyncio.wait({task})
        raise
