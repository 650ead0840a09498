"""Prepared requests to replies: the steps of the engine, ended early where a tripwire says so."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import closing
from typing import NamedTuple

from steerkit.engine import AbandonedError, Engine, Recording, Row
from steerkit.runtime.request import Prepared
from steerkit.runtime.tripwire import Tripwires
from steerkit.types import Turn, Verdict


class Generation(NamedTuple):
    """Replies of a batch, one row each."""

    rows: Sequence[Prepared]
    """The requests, and after them the counterfactuals that they name."""
    replies: Sequence[Sequence[int]]
    """Tokens."""
    recording: Recording
    tripped: Mapping[int, Verdict]
    """By row, the verdict that ended its reply."""
    seconds: float
    """Wall-clock time, waiting for the model included."""


def generate(
    engine: Engine, prepared: Sequence[Prepared], stopped: Callable[[], bool] | None = None
) -> Generator[list[int | None], None, Generation]:
    """Yield the tokens of each step, one per request; return the generation.

    Counterfactuals are rows of the same batch, after those that are asked for.
    """
    started = time.perf_counter()
    rows = [*prepared, *(one.unsteered for one in prepared if one.unsteered is not None)]
    replies: list[list[int]] = [[] for _ in rows]
    tripwires = Tripwires(engine.tokenizer, prepared)
    cut: Collection[int] | None = None
    asked = [Row(one.prompt.ids, one.wanted, one.request.sampling) for one in rows]
    with closing(engine.generate(asked, stopped)) as steps:
        while True:
            try:
                step = steps.send(cut)
            except StopIteration as done:
                recording: Recording = done.value
                break
            for reply, token in zip(replies, step.tokens, strict=True):
                if token is not None:
                    reply.append(token)
            cut = tripwires.after(step)
            yield step.tokens[: len(prepared)]
    seconds = round(time.perf_counter() - started, 6)
    return Generation(rows, replies, recording, tripwires.tripped, seconds)


def drained(
    steps: Generator[list[int | None], None, list[Turn]], stopped: Callable[[], bool] | None = None
) -> list[Turn]:
    """The turns of an attempt whose tokens nobody watches. Raises AbandonedError once `stopped` answers True."""
    with closing(steps):
        while stopped is None or not stopped():
            try:
                next(steps)
            except StopIteration as done:
                turns: list[Turn] = done.value
                return turns
    raise AbandonedError
