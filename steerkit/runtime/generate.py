"""Prepared requests to replies: the steps of the engine, each token read once by its row's grammar."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple, TypeAlias

from steerkit.chat import Cursor, Event, Parsed
from steerkit.engine import AbandonedError, Engine, Recording, Row
from steerkit.runtime.request import Prepared
from steerkit.runtime.tripwire import Tripwires
from steerkit.types import Place, Span, Turn, Verdict


class GeneratedReply(NamedTuple):
    """A finished row."""

    request: Prepared
    ids: tuple[int, ...]
    """Its tokens."""
    parsed: Parsed
    """Text, calls and the token that ended it."""
    places: Mapping[Place, tuple[Span, ...]]
    """Steps of prompt and reply that stand at each place, in runs."""
    tripped: Verdict | None
    """The verdict of the tripwire that ended it."""


class Generation(NamedTuple):
    """A finished batch."""

    replies: Sequence[GeneratedReply]
    """Replies of the requests, then of the counterfactuals that they name."""
    recording: Recording
    seconds: float
    """Wall-clock time, waiting for the model included."""
    dropped: frozenset[int] = frozenset()
    """Requests that were given up on the way: nobody waits for them, and they are not recorded."""


Events: TypeAlias = "list[tuple[Event, ...]]"
"""By request, the text and calls of a step's token."""


def generate(
    engine: Engine, prepared: Sequence[Prepared], stopped: Callable[[], bool] | None = None
) -> Generator[Events, Collection[int] | None, Generation]:
    """Yield the events of each step; return the replies.

    Counterfactuals are rows of the same batch, after those that are asked for. Requests whose numbers are sent into it
    are given up: the token just read is their last, and that of their counterfactual.
    """
    started = time.perf_counter()
    requests = [*prepared, *(one.unsteered for one in prepared if one.unsteered is not None)]
    rows = [Row(one.prompt.ids, one.wanted, one.request.sampling) for one in requests]
    replies: list[list[int]] = [[] for _ in rows]
    cursors = [_after_prompt(engine, row.ids) for row in rows]
    tripwires, cut, dropped = Tripwires(prepared), set[int](), set[int]()
    with closing(engine.generate(rows, stopped)) as steps:
        step = next(steps)
        while True:
            events: Events = [() for _ in rows]
            for row, token in enumerate(step.tokens):
                if token is not None:
                    replies[row].append(token)
                    events[row] = cursors[row].read([token])
            cut = tripwires.after(step, cursors, events)
            dropped.update((yield events[: len(prepared)]) or ())
            try:
                step = steps.send(cut | _with_counterfactuals(prepared, dropped) if dropped else cut)
            except StopIteration as done:
                recording: Recording = done.value
                break
    seconds = round(time.perf_counter() - started, 6)
    finished = [
        GeneratedReply(one, tuple(ids), cursor.parsed(), cursor.spans(cursor.position - 1), tripwires.tripped.get(row))
        for row, (one, ids, cursor) in enumerate(zip(requests, replies, cursors, strict=True))
    ]
    return Generation(finished, recording, seconds, frozenset(dropped))


def _with_counterfactuals(prepared: Sequence[Prepared], numbers: Collection[int]) -> set[int]:
    """Rows of these requests."""
    beside = [number for number, one in enumerate(prepared) if one.unsteered is not None]
    return {*numbers, *(len(prepared) + row for row, number in enumerate(beside) if number in numbers)}


def _after_prompt(engine: Engine, prompt: Sequence[int]) -> Cursor:
    cursor = Cursor(engine.tokenizer, len(prompt))
    cursor.read(prompt)
    return cursor


def drained(steps: Generator[Any, Any, list[Turn]], stopped: Callable[[], bool] | None = None) -> list[Turn]:
    """The turns of a generator whose events nobody watches. Raises AbandonedError once `stopped` answers True."""
    with closing(steps):
        while stopped is None or not stopped():
            try:
                next(steps)
            except StopIteration as done:
                turns: list[Turn] = done.value
                return turns
    raise AbandonedError
