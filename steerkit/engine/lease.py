"""One generation at a time: whoever takes the lease has the model to itself."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from steerkit.errors import ModelError, SteeringError


class AbandonedError(Exception):
    """Nobody waits for the generation any more; never seen by users."""


class Lease:
    """One generation at a time on a model, because hooks govern whoever runs the module; threads wait.

    A forked process has the model, but not the threads: one that was forked while the model was held is refused.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: int | None = None
        self._process = os.getpid()
        self._waiting: list[object] = []
        """One for each thread that waits."""

    @property
    def is_wanted(self) -> bool:
        """True if a thread waits."""
        return bool(self._waiting)

    def give_way(self) -> None:
        """Return once whoever waits now has had it, or waits no more; for a thread that has just given it back."""
        before = list(self._waiting)
        while any(one in self._waiting for one in before):
            time.sleep(0.001)

    @contextmanager
    def held(self, stopped: Callable[[], bool] | None = None) -> Iterator[None]:
        """Hold the model for a generation.

        Raises:
            SteeringError: this thread holds it.
            AbandonedError, ModelError: as `take` raises them.
        """
        if not self.take(stopped):
            raise SteeringError("a stream on this model is still open; finish or close it before the next turn")
        try:
            yield
        finally:
            self.give_back()

    def take(self, stopped: Callable[[], bool] | None = None) -> bool:
        """Wait for the model; False if this very thread holds it, and would wait for itself.

        Raises:
            AbandonedError: `stopped` said so first.
            ModelError: this process was forked while another thread held it.
        """
        if self._holder == threading.get_ident():
            return False
        if self._process != os.getpid():
            self._after_fork()
        if not self._lock.acquire(blocking=False):
            self._wait(stopped)
        self._holder = threading.get_ident()
        return True

    def give_back(self) -> None:
        """Let the next one in; any thread may do so, as generators are closed where they are dropped."""
        self._holder = None
        self._lock.release()

    def _wait(self, stopped: Callable[[], bool] | None) -> None:
        mine = object()
        self._waiting.append(mine)
        try:
            while not self._lock.acquire(timeout=-1 if stopped is None else 0.05):
                if stopped is not None and stopped():
                    raise AbandonedError
        finally:
            self._waiting.remove(mine)

    def _after_fork(self) -> None:
        torch.set_num_threads(1)  # the others stayed behind, and torch would wait for them
        if self._lock.locked():
            raise ModelError(
                "this process was forked while another thread generated on the model, whose steering is still on it; "
                "load the model in this process, or fork before (multiprocessing: start method 'spawn')"
            )
        self._process = os.getpid()
