"""Reads a reply's tokens as text and calls, in any chunks. A malformed call is a value, never a guess."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from steerkit.chat.dialects import CallSyntaxError, Dialect, Reply
from steerkit.chat.places import GrammarState, place_machine
from steerkit.chat.tokenizer import Tokenizer
from steerkit.types import CallLike, MalformedCall, Span

MAX_CALL_TOKENS = 4096
MAX_CALLS = 64


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More plain text."""

    text: str


@dataclass(frozen=True, slots=True)
class ThoughtDelta:
    """More of a thought, which is no part of the reply's text."""

    thought: str


@dataclass(frozen=True, slots=True)
class CallOpened:
    """A call begins."""

    position: int
    """Position of the token that begins it."""


@dataclass(frozen=True, slots=True)
class CallClosed:
    """A call is complete, well-formed or not. It is not judged yet."""

    call: CallLike


Event: TypeAlias = "TextDelta | ThoughtDelta | CallOpened | CallClosed"
Finish: TypeAlias = Literal["stop", "tool_call", "fabricated", "length"]


@dataclass(frozen=True, slots=True)
class Parsed:
    """A complete reply."""

    text: str
    """Outside calls and thoughts."""
    calls: tuple[CallLike, ...]
    finish: Finish
    """`tool_call`: the model waits for a result. `fabricated`: it opened a result without having asked for one; what
    follows is not read. `length`: it was cut off."""
    thought: str = ""
    """Its thoughts, where the dialect has them; Gemma 4's begin with the name of their channel."""


def parse(tokenizer: Tokenizer, ids: Iterable[int], *, offset: int = 0) -> Parsed:
    """Parse a complete reply; `offset` is the position of its first token."""
    parser = Parser(tokenizer, offset=offset)
    parser.feed(ids)
    return parser.finish()


class Parser:
    """Parses a reply as it comes; any chunking gives the same text and calls.

    A control token outside its place is a malformed call of its own, so that a forged or garbled structure is seen.
    Tokens after a stop are ignored.
    """

    def __init__(self, tokenizer: Tokenizer, *, offset: int = 0) -> None:
        self._machine = place_machine(tokenizer)
        self._reader = ReplyReader(self._machine.dialect, offset)
        self._state = GrammarState(reply=Reply())

    def feed(self, ids: Iterable[int]) -> tuple[Event, ...]:
        """The events of the next tokens. Token ids may be of any integer type, a tensor's elements included."""
        events: list[Event] = []
        for token in map(int, ids):
            before, self._state = self._state, self._machine.read(self._state, token)
            events += self._reader.read(before.reply or Reply(), token, self._state.reply or Reply())
        return tuple(events)

    def finish(self) -> Parsed:
        """The reply; a call that is still open was cut off, and is malformed.

        After a stop it holds exactly what the events told. Without one it may add to them: that cut-off call, and a
        replacement character for one cut off in its middle.
        """
        return self._reader.parsed()


class ReplyReader:
    """Collects text, thoughts and calls of a reply whose grammar somebody else advances."""

    def __init__(self, dialect: Dialect, offset: int) -> None:
        self._dialect = dialect
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._position = offset
        self._text: list[str] = []
        self._thought: list[str] = []
        self._calls: list[CallLike] = []
        self._open: list[int] = []
        """Tokens inside the call that is open."""
        self._start = offset
        """Position of the token that began it."""
        self._state = Reply()
        self._blank = ""
        """Blanks that are text only if more text follows."""
        self._holds_blank = dialect.syntax.layout
        self._finish: Finish | None = None

    def read(self, before: Reply, token: int, after: Reply) -> tuple[Event, ...]:
        """Read one token: the events that it decides.

        Args:
            before: the grammar's state before it.
            token: its id.
            after: the state after it.
        """
        events = tuple(self._inside(token, after) if before.in_call else self._outside(before, token, after))
        self._state = after
        self._position += 1
        return events

    def parsed(self) -> Parsed:
        """The reply as it ends here; what is open stays open."""
        calls, rest = list(self._calls), codecs.getincrementaldecoder("utf-8")("replace")
        if self._state.in_call and len(calls) < MAX_CALLS:
            error = f"got the end of the reply, expected {self._dialect.syntax.call.end}"
            calls.append(self._numbered(self._broken(error, self._position)))
        rest.setstate(self._utf8.getstate())
        half = rest.decode(b"", final=True)
        text, thought = "".join(self._text), "".join(self._thought)
        if self._state.mode == "thought":
            return Parsed(text, tuple(calls), self._finish or "length", thought + half)
        return Parsed(text + half, tuple(calls), self._finish or "length", thought)

    def _outside(self, before: Reply, token: int, after: Reply) -> Iterator[Event]:
        dialect, in_thought = self._dialect, before.mode == "thought"
        if before.mode == "done":
            return
        if token not in dialect.control:
            yield from self._say(self._utf8.decode(dialect.bytes(token)), in_thought)
            return
        yield from self._say(self._utf8.decode(b"", final=True), in_thought)
        self._utf8.reset()
        if after.mode == "done":
            self._finish = self._ended(token)
        elif after.in_call:
            self._open, self._start, self._blank = [], self._position, ""
            yield CallOpened(self._position)
        elif after.mode != before.mode:  # a thought begins or ends
            self._blank, self._holds_blank = "", dialect.syntax.layout
        else:
            raw = dialect.bytes.text([token])
            where = "in a thought" if in_thought else f"expected text or {dialect.syntax.call.begin}"
            span = Span(self._position, self._position + 1)
            yield from self._add(MalformedCall(f"got a stray {raw}, {where}", self._position, raw, span))

    def _ended(self, token: int) -> Finish:
        """The meaning of the stop token that ended the reply, outside a call."""
        if token == self._dialect.waits:
            return "tool_call" if self._calls else "fabricated"
        return "tool_call" if self._calls and self._dialect.syntax.asks_by_end else "stop"

    def _inside(self, token: int, after: Reply) -> Iterator[Event]:
        if after.mode == "done":
            raw = self._dialect.bytes.text([token])
            error = f"got {raw}, expected {self._dialect.syntax.call.end}"
            self._finish = "tool_call" if token == self._dialect.waits else "stop"
            yield from self._add(self._broken(error, self._position))
        elif after.in_call:
            self._open.append(token)
        else:
            self._holds_blank = self._dialect.syntax.layout
            yield from self._add(self._closed())

    def _closed(self) -> CallLike:
        """The call whose last token is read now."""
        if len(self._open) > MAX_CALL_TOKENS:
            error = f"got {len(self._open)} tokens, expected at most {MAX_CALL_TOKENS}"
            return self._broken(error, self._start, 1)
        try:
            return self._dialect.read_call(self._open, self._start)
        except CallSyntaxError as error:
            return self._broken(str(error), error.token, 1)

    def _broken(self, error: str, position: int, ending: int = 0) -> MalformedCall:
        """The open call as malformed; `ending` counts the token that ends it."""
        end = [self._dialect.end_call] * ending
        raw = self._dialect.bytes.text([self._dialect.call, *self._open[:MAX_CALL_TOKENS], *end])
        return MalformedCall(error, position, raw, Span(self._start, self._position + ending))

    def _add(self, call: CallLike) -> Iterator[Event]:
        if len(self._calls) < MAX_CALLS:
            call = self._numbered(call)
            self._calls.append(call)
            yield CallClosed(call)

    def _numbered(self, call: CallLike) -> CallLike:
        """The call; the last that a reply may have is malformed, as it is one too many."""
        if len(self._calls) < MAX_CALLS - 1:
            return call
        return MalformedCall(f"got more than {MAX_CALLS - 1} calls in one reply", self._position, "", call.span)

    def _say(self, text: str, in_thought: bool) -> Iterator[Event]:
        if self._holds_blank and text:
            text = self._blank + text
            if text.isspace():
                self._blank = text
                return
            after_call = self._calls and not in_thought
            text, self._blank, self._holds_blank = text if after_call else text.lstrip(), "", False
        if text and in_thought:
            self._thought.append(text)
            yield ThoughtDelta(text)
        elif text:
            self._text.append(text)
            yield TextDelta(text)
