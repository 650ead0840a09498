"""Answers over HTTP: a reply whole or as a stream, and what becomes of it when its reader goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from steerkit.server.door import GONE, visit_of
from steerkit.server.errors import ApiError
from steerkit.server.fields import Asked
from steerkit.server.log import log_failure
from steerkit.server.outcome import Outcome, record_header
from steerkit.server.service import Answering, Service

T = TypeVar("T")


class Reply(Protocol):
    """The forms of a reply at one endpoint; those of a stream are server-sent events."""

    def whole(self, outcome: Outcome) -> dict[str, Any]:
        """JSON of the reply."""

    def opening(self) -> Iterator[bytes]:
        """Events before everything."""

    def text(self, text: str) -> Iterator[bytes]:
        """Events of more text."""

    def ending(self, outcome: Outcome) -> Iterator[bytes]:
        """Events after the text."""

    def failed(self, error: ApiError) -> Iterator[bytes]:
        """Events of a stream that fails after its opening."""


class GoneError(Exception):
    """The reader went away."""


class Stream(StreamingResponse):
    """Events as they come; whatever ends the response ends the generation."""

    def __init__(self, frames: AsyncIterator[bytes], cancel: Callable[[], None], headers: Mapping[str, str]) -> None:
        super().__init__(frames, media_type="text/event-stream", headers={"x-accel-buffering": "no", **headers})
        self._cancel = cancel

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events as they come."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._cancel()


async def answer(service: Service, request: Request, asked: Asked, reply: Reply) -> Response:
    """The response to a request. Nothing of it is sent before its first text or its outcome is known.

    Raises:
        ApiError: it is refused, it failed, or a rule stopped the run.
    """
    visit = visit_of(request)
    answering = await service.submit(asked, visit)
    try:
        wanted = answering.next() if asked.form.stream else answering.outcome()
        first = await until_gone(request, wanted)
    except BaseException as error:
        answering.cancel()
        if not isinstance(error, GoneError):
            raise
        visit.status = GONE
        return Response(status_code=GONE)
    if isinstance(first, Outcome) and first.status == "stopped":
        raise first.stopped()
    headers = record_header(first.turn) if isinstance(first, Outcome) else {}
    if not asked.form.stream:
        assert isinstance(first, Outcome)  # of `outcome`
        return JSONResponse(reply.whole(first), headers=dict(headers))
    frames = _frames(answering, first, reply, {"request": visit.id})
    return Stream(frames, answering.cancel, headers)


async def _frames(
    answering: Answering, piece: str | Outcome, reply: Reply, said: Mapping[str, Any]
) -> AsyncIterator[bytes]:
    for frame in reply.opening():
        yield frame
    try:
        while isinstance(piece, str):
            for frame in reply.text(piece):
                yield frame
            piece = await answering.next()
        if piece.status == "stopped":
            raise piece.stopped()
    except Exception as error:
        failure = ApiError.of(error)
        if failure.status >= 500:
            log_failure("stream failed", said, error)
        for frame in reply.failed(failure):
            yield frame
        return
    for frame in reply.ending(piece):
        yield frame


async def until_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, unless the reader goes away first. The request's body must have been read.

    Raises:
        GoneError: the reader went away; the work is cancelled.
    """
    doing, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((doing, gone), return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        raise GoneError
    finally:
        for task in (doing, gone):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
