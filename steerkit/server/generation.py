"""The seam between HTTP and generation: a prepared request in, its events out, in the order of their making."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol, TypeAlias

from steerkit.chat import TextDelta
from steerkit.errors import EngineError
from steerkit.runtime import Prepared, Retried
from steerkit.types import Turn

Event: TypeAlias = "TextDelta | Retried | Turn"
"""More text; `Retried`: what came so far is void; or the turn, the last event: judged, and on record."""


class Generation(Protocol):
    """A request on its way."""

    @property
    def token_times(self) -> tuple[float, float] | None:
        """Times of its first and its newest token, as `time.monotonic` has them; None before the first."""

    def events(self) -> AsyncIterator[Event]:
        """The events as they come. Raises SteerkitError, or what else ended it."""

    def cancel(self) -> None:
        """Give it up: the token that is on its way is the last, and nothing is recorded."""


class Generator(Protocol):
    """Generates requests for the server; `steerkit.server.worker` has the member that runs them in one process."""

    @property
    def load(self) -> tuple[int, int]:
        """Requests that run, and that wait."""

    @property
    def failure(self) -> EngineError | None:
        """Error of an engine that is gone, so that no request can be generated any more."""

    def submit(self, prepared: Prepared) -> Generation:
        """Take a request in. Called in an event loop, where its events arrive. Raises BusyError."""

    def close(self) -> None:
        """Finish what was taken in, refuse what comes, and return when the model is free."""


class BusyError(Exception):
    """No room for another request."""
