"""Drivers of the agent loop: in this thread, or in an event loop that stays free."""

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
from steerkit.agent.context import Approver, RunContext, approval_from
from steerkit.agent.exchange import Decisions
from steerkit.agent.loop import Approve, Execute, Generate, Loop, Run, Steps
from steerkit.agent.pending import Asked, Pending
from steerkit.agent.resume import decided
from steerkit.agent.tool_runner import Ended, acalled, arun_tool, run_tool, within
from steerkit.errors import AuditError
from steerkit.types import Messages

T = TypeVar("T")


def loop(context: RunContext, messages: Messages) -> Run:
    """A complete run."""
    return _drive(context, _loop(context, messages).steps())


def resume(context: RunContext, pending: Pending, decisions: Decisions) -> Run:
    """The rest of a pending run."""
    context = context.resuming(pending)
    approvals = decided(context, pending, decisions)
    return _drive(context, _rest(context, pending, approvals))


async def aloop(context: RunContext, messages: Messages) -> Run:
    """A complete run."""
    return await _adrive(context, _loop(context, messages).steps())


async def aresume(context: RunContext, pending: Pending, decisions: Decisions) -> Run:
    """The rest of a pending run."""
    context = context.resuming(pending)
    approvals = await _threaded(partial(decided, context, pending, decisions))
    return await _adrive(context, _rest(context, pending, approvals))


def _rest(context: RunContext, pending: Pending, approvals: Mapping[str, Approval]) -> Steps:
    return _loop(context, pending.messages).resumed(pending, approvals)


def _loop(context: RunContext, messages: Messages) -> Loop:
    return Loop(messages, context.max_turns, context.conversation, context.metadata)


def _drive(context: RunContext, steps: Steps) -> Run:
    answer: Any = None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as done:
            run: Run = done.value
            return run
        match step:
            case Generate(messages, first):
                answer = context.turn(messages, first)
            case Approve(held):
                if (approve := context.approve) is None:
                    answer = context.origin()
                else:
                    answer = [_asked(context, approve, one) for one in held]
            case Execute(asked, record_id):
                answer = [_executed(context, one, record_id) for one in asked]


async def _adrive(context: RunContext, steps: Steps) -> Run:
    answer: Any = None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as done:
            run: Run = done.value
            return run
        match step:
            case Generate(messages, first):
                stop = threading.Event()
                answer = await _threaded(partial(context.turn, messages, first, stop.is_set), stop.set)
            case Approve(held):
                if (approve := context.approve) is None:
                    answer = await _threaded(context.origin)
                else:
                    answer = [await _aasked(context, approve, one) for one in held]
            case Execute(asked, record_id):
                answer = await _together([_aexecuted(context, one, record_id) for one in asked])


def _asked(context: RunContext, approve: Approver, held: Held) -> Approval:
    """The decision about a held call, written down; if asking fails, it is a refusal."""
    try:
        ended = Ended(approve(deepcopy(held)))  # a copy: what was judged is what is run
    except Exception as error:
        ended = Ended(error=error)
    approval, failure = approval_from(ended)
    context.approved(held, approval, failure)
    return approval


async def _aasked(context: RunContext, approve: Approver, held: Held) -> Approval:
    approval, failure = approval_from(await within(acalled(approve, deepcopy(held)), None))
    await _threaded(partial(context.approved, held, approval, failure))
    return approval


def _executed(context: RunContext, one: Asked, record_id: str | None) -> Execution:
    """A call run and written down; if nobody waits for its end, that is written down."""
    started = time.perf_counter()
    try:
        execution = context.execution(
            one, run_tool(context.functions[one.call.name], one.call.arguments, context.limits)
        )
    except BaseException:
        _interrupted(context, one, record_id, started)
        raise
    context.log.executed(execution, record_id)
    return execution


async def _aexecuted(context: RunContext, one: Asked, record_id: str | None) -> Execution:
    started = time.perf_counter()
    try:
        ran = await arun_tool(context.functions[one.call.name], one.call.arguments, context.limits)
        execution = await _threaded(partial(context.execution, one, ran))
    except BaseException:
        _interrupted(context, one, record_id, started)  # not in a thread: nothing may come in between now
        raise
    await _threaded(partial(context.log.executed, execution, record_id))
    return execution


def _interrupted(context: RunContext, one: Asked, record_id: str | None, started: float) -> None:
    """Write down that a call was begun, and that nobody waited for its end."""
    seconds = round(time.perf_counter() - started, 6)
    with suppress(AuditError):  # what ends the run counts for more
        context.log.executed(Execution(one.id, one.call, "interrupted", {}, seconds), record_id)


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
    """The result of `work`, run in a thread; when cancelled, it is asked to stop and waited for."""
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
