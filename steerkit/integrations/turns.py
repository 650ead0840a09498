"""A turn for a library's event loop."""

from __future__ import annotations

import threading

import anyio
from anyio.to_thread import run_sync

from steerkit.runtime import Request, Turns
from steerkit.types import Turn


async def taken(runtime: Turns, request: Request) -> Turn:
    """The turn of a request, taken in a thread. When cancelled, it ends within a token.

    Raises:
        SteerkitError: one of its kinds.
    """
    stop = threading.Event()
    try:
        return await run_sync(lambda: runtime.take([runtime.prepare(request)], stop.is_set)[0], abandon_on_cancel=True)  # type: ignore[no-any-return]
    except anyio.get_cancelled_exc_class():
        stop.set()
        raise
