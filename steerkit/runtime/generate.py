"""Prepared requests to replies: the steps of the engine, each token read once by its row's grammar."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from typing import NamedTuple, TypeAlias

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


Events: TypeAlias = "list[tuple[Event, ...]]"
"""By request, the text and calls of a step's token."""


def generate(
    engine: Engine, prepared: Sequence[Prepared], stopped: Callable[[], bool] | None = None
) -> Generator[Events, None, Generation]:
    """Yield the events of each step; return the replies.

    Counterfactuals are rows of the same batch, after those that are asked for.
    """
    started = time.perf_counter()
    requests = [*prepared, *(one.unsteered for one in prepared if one.unsteered is not None)]
    rows = [Row(one.prompt.ids, one.wanted, one.request.sampling) for one in requests]
    replies: list[list[int]] = [[] for _ in rows]
    cursors = [_after_prompt(engine, row.ids) for row in rows]
    tripwires, cut = Tripwires(prepared), set[int]()
    with closing(engine.generate(rows, stopped)) as steps:
        step = next(steps)
        while True:
            events: Events = [() for _ in rows]
            for row, token in enumerate(step.tokens):
                if token is not None:
                    replies[row].append(token)
                    events[row] = cursors[row].read([token])
            cut = tripwires.after(step, cursors, events)
            yield events[: len(prepared)]
            try:
                step = steps.send(cut)
            except StopIteration as done:
                recording: Recording = done.value
                break
    seconds = round(time.perf_counter() - started, 6)
    finished = [
        GeneratedReply(one, tuple(ids), cursor.parsed(), cursor.spans(cursor.position - 1), tripwires.tripped.get(row))
        for row, (one, ids, cursor) in enumerate(zip(requests, replies, cursors, strict=True))
    ]
    return Generation(finished, recording, seconds)


def _after_prompt(engine: Engine, prompt: Sequence[int]) -> Cursor:
    cursor = Cursor(engine.tokenizer, len(prompt))
    cursor.read(prompt)
    return cursor


def drained(steps: Generator[Events, None, list[Turn]], stopped: Callable[[], bool] | None = None) -> list[Turn]:
    """The turns of an attempt whose events nobody watches. Raises AbandonedError once `stopped` answers True."""
    with closing(steps):
        while stopped is None or not stopped():
            try:
                next(steps)
            except StopIteration as done:
                turns: list[Turn] = done.value
                return turns
    raise AbandonedError
