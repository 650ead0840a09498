"""A stream of server-sent events that says when the store has grown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

from starlette.responses import StreamingResponse

from steerkit.audit import Store
from steerkit.errors import AuditError

_LOOK: Final = 0.5
"""Seconds between two looks."""
_LIFE: Final = 15.0
"""Seconds after which a stream ends, and the browser opens the next one: a server that is to end need not wait long."""


def live(store: Store, after: int, ending: Callable[[], bool]) -> StreamingResponse:
    """Events `grown`, with the sequence of the newest record each time that there is a newer one.

    Args:
        store: that may grow.
        after: sequence of the newest record that the page knows.
        ending: says that the server is to end.
    """
    return StreamingResponse(_events(store, after, ending), media_type="text/event-stream")


async def _events(store: Store, known: int, ending: Callable[[], bool]) -> AsyncIterator[bytes]:
    yield b"retry: 1000\n\n"
    for _ in range(round(_LIFE / _LOOK)):
        try:
            newest = await asyncio.to_thread(lambda: store.newest)
        except AuditError:
            return
        if newest != known:
            known = newest
            yield b"event: grown\nid: %d\ndata: %d\n\n" % (known, known)
        if ending():
            return
        await asyncio.sleep(_LOOK)
