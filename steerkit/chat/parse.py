"""Reads a reply's tokens as text and calls, in any chunks. A malformed call is a value, never a guess."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from steerkit.chat.tokenizer import Tokenizer, token_bytes
from steerkit.chat.values import CallSyntaxError, read_call
from steerkit.chat.wire import Wire
from steerkit.types import CallLike, MalformedCall, Span

MAX_CALL_TOKENS = 4096
MAX_CALLS = 64


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More plain text."""

    text: str


@dataclass(frozen=True, slots=True)
class CallOpened:
    """A call begins."""

    position: int
    """Of `<start_function_call>`."""


@dataclass(frozen=True, slots=True)
class CallClosed:
    """A call is complete, well-formed or not. It is not judged yet."""

    call: CallLike


Event: TypeAlias = "TextDelta | CallOpened | CallClosed"
Finish: TypeAlias = Literal["stop", "tool_call", "fabricated", "length"]


@dataclass(frozen=True, slots=True)
class Parsed:
    """A whole reply."""

    text: str
    """Outside calls."""
    calls: tuple[CallLike, ...]
    finish: Finish
    """`tool_call`: the model waits for a result. `fabricated`: it opened a result without having asked for one; what
    follows is not read. `length`: it was cut off."""


def parse(tokenizer: Tokenizer, ids: Iterable[int], *, offset: int = 0) -> Parsed:
    """Parse a whole reply; `offset` is the position of its first token."""
    parser = Parser(tokenizer, offset=offset)
    parser.feed(ids)
    return parser.finish()


class Parser:
    """Parses a reply as it comes; any chunking gives the same text and calls.

    A control token outside its place is a malformed call of its own, so that a forged or garbled structure is seen.
    Tokens after a stop are ignored.
    """

    def __init__(self, tokenizer: Tokenizer, *, offset: int = 0) -> None:
        self._wire = Wire.of(tokenizer)
        self._bytes = token_bytes(tokenizer)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._position = offset
        self._text: list[str] = []
        self._calls: list[CallLike] = []
        self._open: list[int] | None = None
        self._start = 0
        self._finish: Finish | None = None

    def feed(self, ids: Iterable[int]) -> tuple[Event, ...]:
        """What the next tokens mean. Token ids may be of any integer type, a tensor's elements included."""
        events: list[Event] = []
        for token in map(int, ids):
            if self._finish is not None:
                break
            events += self._outside(token) if self._open is None else self._inside(token)
            self._position += 1
        return tuple(events)

    def finish(self) -> Parsed:
        """The reply; a call that is still open was cut off, and is malformed.

        After a stop it holds exactly what the events told. Without one it may add to them: that cut-off call, and a
        replacement character for one cut off in its middle.
        """
        if self._open is not None:
            list(self._close_broken("got the end of the reply, expected <end_function_call>", self._position))
        self._text.append(self._utf8.decode(b"", final=True))
        return Parsed("".join(self._text), tuple(self._calls), self._finish or "length")

    def _outside(self, token: int) -> Iterator[Event]:
        wire = self._wire
        if token in wire.control:
            yield from self._say(self._utf8.decode(b"", final=True))
            self._utf8.reset()
        if token == wire.call:
            self._open, self._start = [], self._position
            yield CallOpened(self._position)
        elif token in wire.stops:
            waits: Finish = "tool_call" if self._calls else "fabricated"
            self._finish = waits if token == wire.response else "stop"
        elif token in wire.control:
            raw = self._bytes.text([token])
            yield from self._add(
                MalformedCall(
                    f"got a stray {raw}, expected text or <start_function_call>", self._position, raw, self._span(1)
                )
            )
        else:
            yield from self._say(self._utf8.decode(self._bytes(token)))

    def _inside(self, token: int) -> Iterator[Event]:
        assert self._open is not None  # the caller looked
        wire = self._wire
        if token == wire.end_call:
            yield from self._close()
        elif token in wire.stops:
            raw = self._bytes.text([token])
            yield from self._close_broken(f"got {raw}, expected <end_function_call>", self._position)
            self._finish = "tool_call" if token == wire.response else "stop"
        else:
            self._open.append(token)

    def _close(self) -> Iterator[Event]:
        tokens = self._open or []
        if len(tokens) > MAX_CALL_TOKENS:
            yield from self._close_broken(
                f"got {len(tokens)} tokens, expected at most {MAX_CALL_TOKENS}", self._start, 1
            )
            return
        try:
            call = read_call(tokens, self._start, self._wire, self._bytes)
        except CallSyntaxError as error:
            yield from self._close_broken(str(error), error.token, 1)
            return
        self._open = None
        yield from self._add(call)

    def _close_broken(self, error: str, position: int, ending: int = 0) -> Iterator[Event]:
        """End the open call as malformed; `ending` counts its `<end_function_call>`."""
        end = [self._wire.end_call] * ending
        raw = self._bytes.text([self._wire.call, *(self._open or [])[:MAX_CALL_TOKENS], *end])
        span = Span(self._start, self._position + ending)
        self._open = None
        yield from self._add(MalformedCall(error, position, raw, span))

    def _add(self, call: CallLike) -> Iterator[Event]:
        if len(self._calls) == MAX_CALLS:
            return
        if len(self._calls) == MAX_CALLS - 1:
            call = MalformedCall(f"got more than {MAX_CALLS - 1} calls in one reply", self._position, "", call.span)
        self._calls.append(call)
        yield CallClosed(call)

    def _say(self, text: str) -> Iterator[Event]:
        if text:
            self._text.append(text)
            yield TextDelta(text)

    def _span(self, length: int) -> Span:
        return Span(self._position, self._position + length)
