"""Takes the steps of a generation to their end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator
from contextlib import ExitStack, closing
from typing import Any, Final, TypeVar

import torch

from steerkit.engine import AbandonedError
from steerkit.types import Turn

T = TypeVar("T")
R = TypeVar("R")
_DEVICES: Final = ("cpu", "cuda")


def drained(steps: Generator[Any, None, list[Turn]], stopped: Callable[[], bool] | None) -> list[Turn]:
    """What a generator returns, unless `stopped` says that nobody waits for it."""
    steps = in_full(steps)
    with closing(steps):
        while stopped is None or not stopped():
            try:
                next(steps)
            except StopIteration as done:
                turns: list[Turn] = done.value
                return turns
    raise AbandonedError


def in_full(steps: Generator[T, None, R]) -> Generator[T, None, R]:
    """The same steps, each outside `torch.autocast`: a turn is made in the model's own precision, as records say."""
    with closing(steps):
        while True:
            with ExitStack() as stack:
                for device in _DEVICES:
                    if torch.is_autocast_enabled(device):
                        stack.enter_context(torch.autocast(device, enabled=False))
                try:
                    step = next(steps)
                except StopIteration as done:
                    made: R = done.value
                    return made
            yield step


def sent(steps: Generator[list[int | None], Collection[int] | None], cut: set[int]) -> list[int | None] | None:
    """The next tokens after cutting some sequences; None at the end."""
    try:
        return steps.send(cut)
    except StopIteration:
        return None
