"""The inside of a call as characters that know their tokens, and a scanner over them."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from steerkit.chat.tokenizer import TokenBytes
from steerkit.types import Span

NAME: Final = re.compile(r"[A-Za-z0-9_.-]+")
"""Names of tools and keys of their arguments."""

QUOTE, CONTROL, BROKEN = "\ue000", "\ue001", "\ue002"
"""Kinds of a `Symbol` that is no character; never compared with text."""


class Symbol(NamedTuple):
    """One character of a call, or one control token in it."""

    text: str
    kind: str
    """Empty for a character."""
    token: int
    """Position of the token it came from (a character over several tokens: of the last)."""


class CallSyntaxError(Exception):
    """The fault inside a call, and the token it stands at; never leaves this room."""

    def __init__(self, text: str, token: int) -> None:
        super().__init__(text)
        self.token = token


def symbols_of(
    tokens: Sequence[int], start: int, control: Collection[int], quote: int | None, table: TokenBytes
) -> list[Symbol]:
    """The characters of some tokens, of which the first stands at position `start`.

    Args:
        tokens: inside of a call.
        start: position of the first.
        control: tokens that are structure.
        quote: the control token that opens and closes strings, if the dialect has one.
        table: bytes of the tokens.
    """
    found: list[Symbol] = []
    pending = b""  # the first bytes of a character whose others are in the next token
    for position, token in enumerate(tokens, start):
        if token in control:
            if pending:
                found.append(Symbol("", BROKEN, position - 1))
                pending = b""
            found.append(Symbol(table.text([token]), QUOTE if token == quote else CONTROL, position))
            continue
        pending += table(token)
        try:
            text, pending = pending.decode("utf-8"), b""
        except UnicodeDecodeError as error:
            text, pending = pending[: error.start].decode("utf-8"), pending[error.start :]
            found += [Symbol(char, "", position) for char in text]
            if error.reason != "unexpected end of data":
                found.append(Symbol("", BROKEN, position))
                pending = b""
            continue
        found += [Symbol(char, "", position) for char in text]
    if pending:
        found.append(Symbol("", BROKEN, start + len(tokens) - 1))
    return found


class Scanner:
    """A position in the characters of a call; blanks between its words mean nothing."""

    def __init__(self, symbols: Sequence[Symbol], end: int) -> None:
        self._symbols, self._end, self._at = symbols, end, 0

    def peek(self) -> str | None:
        """The next character; None at a control token and at the end."""
        return None if self.kind() or self.at_end() else self._symbols[self._at].text

    def kind(self) -> str:
        """The next symbol's kind; empty for a character and at the end."""
        return "" if self.at_end() else self._symbols[self._at].kind

    def at_end(self) -> bool:
        """True after the last symbol."""
        return self._at >= len(self._symbols)

    def take(self) -> Symbol:
        """The next symbol, which the caller knows to be there."""
        self._at += 1
        return self._symbols[self._at - 1]

    def blank(self) -> None:
        """Pass over blanks."""
        while (self.peek() or "x") in " \t\r\n":
            self._at += 1

    def expect(self, char: str, what: str | None = None) -> None:
        """Pass over blanks and this character. Raises CallSyntaxError."""
        self.blank()
        if self.peek() != char:
            raise self.error(what or f"'{char}'")
        self._at += 1

    def word(self, word: str, what: str) -> None:
        """Pass over blanks and these characters. Raises CallSyntaxError."""
        self.blank()
        symbols = self._symbols[self._at : self._at + len(word)]
        if "".join(symbol.text for symbol in symbols if not symbol.kind) != word:
            raise self.error(what)
        self._at += len(word)

    def name(self, what: str) -> tuple[str, Span]:
        """A name and its tokens, after blanks. Raises CallSyntaxError."""
        self.blank()
        first, start = self.here(), self._at
        while NAME.fullmatch(self.peek() or " "):
            self._at += 1
        if self._at == start:
            raise self.error(what)
        return self._text(start), Span(first, self.last() + 1)

    def bare(self) -> str:
        """Characters up to the next mark, blank or control token."""
        start = self._at
        while (self.peek() or ",") not in ",]}{[: \t\r\n":
            self._at += 1
        return self._text(start)

    def finish(self) -> None:
        """Pass over blanks to the end. Raises CallSyntaxError."""
        self.blank()
        if not self.at_end():
            raise self.error("the end of the call")

    def here(self) -> int:
        """Position of the next symbol's token; at the end, of the token after the call's inside."""
        return self._end if self.at_end() else self._symbols[self._at].token

    def last(self) -> int:
        """Position of the token of the symbol before."""
        return self._symbols[self._at - 1].token

    def error(self, expected: str) -> CallSyntaxError:
        """The fault that the next symbol is something else than this."""
        if self.at_end():
            return CallSyntaxError(f"got the end of the call, expected {expected}", self._end)
        symbol = self._symbols[self._at]
        got = "bytes that are no UTF-8" if symbol.kind == BROKEN else repr(symbol.text)
        return CallSyntaxError(f"got {got}, expected {expected}", symbol.token)

    def _text(self, start: int) -> str:
        return "".join(symbol.text for symbol in self._symbols[start : self._at])


def in_a_string(symbol: Symbol) -> CallSyntaxError:
    """The fault that a symbol that is no character stands in a string."""
    what = f"the control token {symbol.text}" if symbol.kind != BROKEN else "bytes that are no UTF-8"
    return CallSyntaxError(f"got {what} inside a string", symbol.token)
