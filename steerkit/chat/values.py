"""The strict grammar inside a call: a name, then an object of typed values. Nothing is repaired, nothing is guessed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from steerkit.chat.tokenizer import TokenBytes
from steerkit.chat.wire import MAX_DIGITS, NAME, Wire
from steerkit.types import Argument, Call, Json, Span

MAX_DEPTH = 32
"""Objects and lists inside each other."""

_ESCAPE, _CONTROL, _BROKEN = "\ue000", "\ue001", "\ue002"
"""Marks of `Symbol.kind`, never compared with text."""
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?P<fraction>\.[0-9]+)?(?P<exponent>[eE][+-]?[0-9]+)?")
_WORDS: dict[str, Json] = {"true": True, "false": False, "null": None, "None": None}


class Symbol(NamedTuple):
    """One character of a call, or one control token in it."""

    text: str
    kind: str
    """Empty for a character."""
    token: int
    """Position of the token it came from (a character over several tokens: of the last)."""


class CallSyntaxError(Exception):
    """What is wrong inside a call, and at which token; never leaves this room."""

    def __init__(self, text: str, token: int) -> None:
        super().__init__(text)
        self.token = token


def read_call(tokens: Sequence[int], start: int, wire: Wire, table: TokenBytes) -> Call:
    """The call between `<start_function_call>` at position `start` and its end: `tokens` are those in between.

    Raises:
        CallSyntaxError: it is not exactly a call.
    """
    reader = _Reader(_symbols(tokens, start + 1, wire, table), start + 1 + len(tokens))
    span = Span(start, start + len(tokens) + 2)
    return reader.call(span)


def _symbols(tokens: Sequence[int], start: int, wire: Wire, table: TokenBytes) -> list[Symbol]:
    found: list[Symbol] = []
    pending = b""  # the first bytes of a character whose others are in the next token
    for position, token in enumerate(tokens, start):
        if token in wire.control:
            if pending:
                found.append(Symbol("", _BROKEN, position - 1))
                pending = b""
            found.append(Symbol(table.text([token]), _ESCAPE if token == wire.escape else _CONTROL, position))
            continue
        pending += table(token)
        try:
            text, pending = pending.decode("utf-8"), b""
        except UnicodeDecodeError as error:
            text, pending = pending[: error.start].decode("utf-8"), pending[error.start :]
            found += [Symbol(char, "", position) for char in text]
            if error.reason != "unexpected end of data":
                found.append(Symbol("", _BROKEN, position))
                pending = b""
            continue
        found += [Symbol(char, "", position) for char in text]
    if pending:
        found.append(Symbol("", _BROKEN, start + len(tokens) - 1))
    return found


class _Reader:
    """Recursive descent over symbols."""

    def __init__(self, symbols: Sequence[Symbol], end: int) -> None:
        self.symbols, self.end, self.at = symbols, end, 0

    def call(self, span: Span) -> Call:
        self._word("call")
        self._expect(":")
        name, name_span = self._name("a tool's name")
        self._blank()
        parts = self._arguments() if self._peek() == "{" else ()
        self._blank()
        if self.at < len(self.symbols):
            raise self._error("the end of the call")
        return Call(name, {part.name: part.value for part in parts}, span, name_span, parts)

    def _arguments(self) -> tuple[Argument, ...]:
        parts = []
        for key, key_span in self._members():
            value, value_span = self._value(1)
            parts.append(Argument(key, value, key_span, value_span))
        return tuple(parts)

    def _members(self) -> Iterator[tuple[str, Span]]:
        """The keys of an object; after each the caller reads its value."""
        self._expect("{")
        self._blank()
        if self._peek() == "}":
            self.at += 1
            return
        seen: set[str] = set()
        while True:
            key, span = self._name("a key")
            if key in seen:
                raise CallSyntaxError(f"got the key '{key}' twice, expected it once", span.start)
            seen.add(key)
            self._expect(":")
            yield key, span
            self._blank()
            if self._peek() == "}":
                self.at += 1
                return
            self._expect(",", "',' or '}'")

    def _value(self, depth: int) -> tuple[Json, Span]:
        self._blank()
        first = self._here()
        char, kind = self._peek(), self._kind()
        if depth > MAX_DEPTH and char in ("{", "["):
            raise CallSyntaxError(f"got more than {MAX_DEPTH} objects and lists inside each other", first)
        value: Json
        if kind == _ESCAPE:
            value = self._string()
        elif char == "{":
            value = {key: self._value(depth + 1)[0] for key, _ in self._members()}
        elif char == "[":
            value = self._list(depth)
        else:
            value = self._literal()
        return value, Span(first, self._before() + 1)

    def _string(self) -> str:
        opened = self._here()
        self.at += 1
        text: list[str] = []
        while self.at < len(self.symbols):
            symbol = self.symbols[self.at]
            self.at += 1
            if symbol.kind == _ESCAPE:
                return "".join(text)
            if symbol.kind:
                what = f"the control token {symbol.text}" if symbol.kind == _CONTROL else "bytes that are no UTF-8"
                raise CallSyntaxError(f"got {what} inside a string", symbol.token)
            text.append(symbol.text)
        raise CallSyntaxError("got a string that is never closed, expected <escape>", opened)

    def _list(self, depth: int) -> list[Json]:
        self.at += 1
        items: list[Json] = []
        self._blank()
        if self._peek() == "]":
            self.at += 1
            return items
        while True:
            items.append(self._value(depth + 1)[0])
            self._blank()
            if self._peek() == "]":
                self.at += 1
                return items
            self._expect(",", "',' or ']'")

    def _literal(self) -> Json:
        first, start = self._here(), self.at
        while (self._peek() or ",") not in ",]}{[: \t\r\n":
            self.at += 1
        text = "".join(symbol.text for symbol in self.symbols[start : self.at])
        if text in _WORDS:
            return _WORDS[text]
        match = _NUMBER.fullmatch(text)
        if match is None:
            if not text:
                raise self._error("a value")
            raise CallSyntaxError(f"got {text[:80]!r}, expected <escape>, a number, true, false, null, [ or {{", first)
        if len(text.removeprefix("-")) > MAX_DIGITS:
            raise CallSyntaxError(f"got a number of {len(text)} characters, expected at most {MAX_DIGITS}", first)
        if match["fraction"] is None and match["exponent"] is None:
            return int(text)
        number = float(text)
        if not math.isfinite(number):
            raise CallSyntaxError(f"got {text[:80]!r}, expected a number that a float can hold", first)
        return number

    def _name(self, what: str) -> tuple[str, Span]:
        self._blank()
        first, start = self._here(), self.at
        while NAME.fullmatch(self._peek() or " "):
            self.at += 1
        if self.at == start:
            raise self._error(what)
        name = "".join(symbol.text for symbol in self.symbols[start : self.at])
        return name, Span(first, self._before() + 1)

    def _word(self, word: str) -> None:
        self._blank()
        got = "".join(symbol.text for symbol in self.symbols[self.at : self.at + len(word)] if not symbol.kind)
        if got != word:
            raise self._error(f"'{word}:'")
        self.at += len(word)

    def _expect(self, char: str, what: str | None = None) -> None:
        self._blank()
        if self._peek() != char:
            raise self._error(what or f"'{char}'")
        self.at += 1

    def _blank(self) -> None:
        while (self._peek() or "x") in " \t\r\n":
            self.at += 1

    def _peek(self) -> str | None:
        """The next character; None at a control token and at the end."""
        if self.at >= len(self.symbols) or self.symbols[self.at].kind:
            return None
        return self.symbols[self.at].text

    def _kind(self) -> str:
        return self.symbols[self.at].kind if self.at < len(self.symbols) else ""

    def _here(self) -> int:
        return self.symbols[self.at].token if self.at < len(self.symbols) else self.end

    def _before(self) -> int:
        return self.symbols[self.at - 1].token

    def _error(self, expected: str) -> CallSyntaxError:
        if self.at >= len(self.symbols):
            return CallSyntaxError(f"got the end of the call, expected {expected}", self.end)
        symbol = self.symbols[self.at]
        got = "bytes that are no UTF-8" if symbol.kind == _BROKEN else repr(symbol.text)
        return CallSyntaxError(f"got {got}, expected {expected}", symbol.token)
