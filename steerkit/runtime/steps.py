"""Takes the steps of a generation to their end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator
from contextlib import closing
from typing import Any

from steerkit.engine import AbandonedError
from steerkit.types import Turn


def drained(steps: Generator[Any, None, list[Turn]], stopped: Callable[[], bool] | None) -> list[Turn]:
    """What a generator returns, unless `stopped` says that nobody waits for it."""
    with closing(steps):
        while stopped is None or not stopped():
            try:
                next(steps)
            except StopIteration as done:
                turns: list[Turn] = done.value
                return turns
    raise AbandonedError


def sent(steps: Generator[list[int | None], Collection[int] | None], cut: set[int]) -> list[int | None] | None:
    """The next tokens after cutting some sequences; None at the end."""
    try:
        return steps.send(cut)
    except StopIteration:
        return None
