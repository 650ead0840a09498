"""A call syntax on one tokenizer: its tokens as ids, and its grammar over them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from steerkit.chat.dialects.reply import Reply
from steerkit.chat.dialects.symbols import symbols_of
from steerkit.chat.dialects.syntax import Frame, Syntax
from steerkit.chat.tokenizer import TokenBytes, Tokenizer, token_bytes
from steerkit.types import Call, Span


@dataclass(frozen=True, eq=False)
class Dialect:
    """The dialect that a tokenizer's model speaks. One per tokenizer: `dialect_of` finds it."""

    syntax: Syntax
    frame: Frame
    """The way its turns are written."""
    names: Mapping[str, int]
    """Every control token by name: the syntax's, and whatever else the tokenizer calls special."""
    stops: frozenset[int]
    """Ids that end a reply: the turn's end, a result's beginning and eos."""
    pad: int
    """Id that sequences are padded with."""
    bytes: TokenBytes
    """Bytes of the tokenizer's tokens."""

    @cached_property
    def control(self) -> frozenset[int]:
        """Ids of every token that is structure and never text."""
        return frozenset(self.names.values())

    @cached_property
    def markup(self) -> tuple[str, ...]:
        """Structure that the tokenizer has no token for: text that holds it is changed, as no token tells it apart."""
        pairs = (self.syntax.declaration, self.syntax.result)
        return tuple(text for pair in pairs for text in pair[:2] if text not in self.names)

    @cached_property
    def structure(self) -> re.Pattern[str]:
        """Pattern of every control token and markup as text, made once: a tokenizer may have thousands of them."""
        # Longest first: one control token's name may begin another's.
        texts = sorted([*self.names, *self.markup], key=len, reverse=True)
        return re.compile("|".join(re.escape(text) for text in texts))

    @cached_property
    def call(self) -> int:
        """Id of the token that begins a call."""
        return self.names[self.syntax.call.begin]

    @cached_property
    def end_call(self) -> int:
        """Id of the token that ends a call."""
        return self.names[self.syntax.call.end]

    @cached_property
    def quote(self) -> int | None:
        """Id of the token that opens and closes strings."""
        return None if self.syntax.quote is None else self.names[self.syntax.quote]

    @cached_property
    def waits(self) -> int | None:
        """Id of the token that begins a result: after it, the model waits for one."""
        return self.names.get(self.syntax.result.begin)

    @cached_property
    def turn(self) -> int:
        """Id of the token that begins a turn."""
        return self.names[self.frame.begin]

    @cached_property
    def end_turn(self) -> int:
        """Id of the token that ends a turn."""
        return self.names[self.frame.end]

    @cached_property
    def thought(self) -> tuple[int | None, int | None]:
        """Ids of the tokens around a thought."""
        pair = self.syntax.thought
        return (None, None) if pair is None else (self.names.get(pair.begin), self.names.get(pair.end))

    def read_call(self, tokens: Sequence[int], start: int) -> Call:
        """The call whose inside these tokens are, and whose first token stands at `start`.

        Raises:
            CallSyntaxError: it is not exactly a call.
        """
        symbols = symbols_of(tokens, start + 1, self.control, self.quote, self.bytes)
        return self.syntax.read_call(symbols, Span(start, start + len(tokens) + 2))

    def after_token(self, state: Reply, token: int) -> Reply:
        """The state of a reply's grammar after one more token."""
        opened, closed = self.thought
        if state.mode == "done":
            return state
        if token in self.stops:
            return Reply("done")
        if state.mode == "thought":
            return Reply() if token == closed else state
        if token == self.end_call:
            return Reply()
        if state.mode == "text":
            return Reply("head") if token == self.call else Reply("thought") if token == opened else state
        if token == self.quote:
            return self.syntax.after_quote(state)
        if token in self.control:
            return state._replace(mode="broken")
        if state.mode != "broken":
            for byte in self.bytes(token):
                state = self.syntax.after_byte(state, byte)
        return state


def bound(syntax: Syntax, tokenizer: Tokenizer) -> Dialect | tuple[str, ...]:
    """The syntax on a tokenizer, or the tokens that this lacks."""
    vocabulary = tokenizer.get_vocab()
    frames = [(frame, _lacking(vocabulary, _tokens(frame))) for frame in syntax.frames]
    frame, missing = min(frames, key=lambda one: len(one[1]))
    missing = tuple(dict.fromkeys((*_lacking(vocabulary, (*syntax.required, *syntax.call[:2])), *missing)))
    if missing:
        return missing
    names = control_tokens(tokenizer, (*syntax.required, *syntax.optional, *syntax.call[:2], *_tokens(frame)))
    ends = (frame.end, syntax.result.begin, str(tokenizer.eos_token))
    stops = frozenset(vocabulary[name] for name in ends if name in vocabulary)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else names[frame.end]
    return Dialect(syntax, frame, names, stops, pad, token_bytes(tokenizer))


def control_tokens(tokenizer: Tokenizer, known: Sequence[str]) -> Mapping[str, int]:
    """The tokens of a tokenizer that are structure and never text, with their ids: those of a syntax, and whatever else
    the tokenizer calls special. Added tokens that are only text (Gemma's `<table>`) are not among them.
    """
    vocabulary = tokenizer.get_vocab()
    flagged = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    names = sorted({*known, *tokenizer.all_special_tokens, *flagged})
    return {name: vocabulary[name] for name in names if name in vocabulary}


def _tokens(frame: Frame) -> tuple[str, ...]:
    return (frame.begin, frame.end) if frame.end_role == "\n" else (frame.begin, frame.end, frame.end_role)


def _lacking(vocabulary: Mapping[str, int], tokens: Sequence[str]) -> tuple[str, ...]:
    return tuple(token for token in tokens if token not in vocabulary)
