"""A call as `{"name": N, "arguments": {…}}` in JSON, read strictly and written."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Final

from steerkit.chat.dialects.symbols import NAME, CallSyntaxError, Scanner, Symbol, in_a_string
from steerkit.chat.dialects.syntax import Pair, Written
from steerkit.chat.dialects.values import Form, read_arguments, written_number
from steerkit.errors import MessageError
from steerkit.types import Argument, Call, Json, Span

CALL: Final = Pair("<tool_call>", "</tool_call>")
MARKUP: Final = (*CALL[:2], "<tool_response>", "</tool_response>", "<tools>", "</tools>", "<think>", "</think>")
"""Structure that is written as markup, which a JSON string holds with `<` as an escape."""

_ESCAPES: Final = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def read_call(symbols: Sequence[Symbol], span: Span) -> Call:
    """The call of the characters between its control tokens, which stand at the ends of the span.

    The name comes first, so that it is known before the arguments are written. Names and the arguments' keys are
    written without escapes, so that what is read while they are written is what is executed.

    Raises:
        CallSyntaxError: it is not exactly a call.
    """
    scan = Scanner(symbols, span.end - 1)
    scan.expect("{")
    scan.word('"name"', '"name"')
    scan.expect(":")
    name, name_span = _quoted_name(scan, "a tool's name")
    scan.blank()
    parts: tuple[Argument, ...] = ()
    if scan.peek() != "}":
        scan.expect(",", "',' or '}'")
        scan.word('"arguments"', '"arguments"')
        scan.expect(":")
        parts = read_arguments(scan, _FORM)
    scan.expect("}")
    scan.finish()
    return Call(name, {part.name: part.value for part in parts}, span, name_span, parts)


def _quoted_name(scan: Scanner, what: str) -> tuple[str, Span]:
    """A name between quotes, with its tokens but those of the quotes alone."""
    scan.expect('"', what)
    if not NAME.fullmatch(scan.peek() or " "):
        raise scan.error(what)  # a blank before the name too
    found = scan.name(what)
    if scan.peek() != '"':
        raise scan.error("'\"'")
    scan.take()
    return found


def _read_key(scan: Scanner, depth: int) -> tuple[str, Span]:
    """A key: of the arguments a name, inside them any text."""
    if depth == 0:
        return _quoted_name(scan, "a key")
    scan.blank()
    first = scan.here()
    text = _read_string(scan)
    if text is None:
        raise scan.error("a key")
    return text, Span(first, scan.last() + 1)


def _read_string(scan: Scanner) -> str | None:
    if scan.peek() != '"':
        return None
    opened = scan.take().token
    text: list[str] = []
    while not scan.at_end():
        symbol = scan.take()
        if symbol.kind:
            raise in_a_string(symbol)
        if symbol.text == '"':
            return "".join(text)
        if symbol.text < " ":
            raise CallSyntaxError(f"got {symbol.text!r} inside a string, expected it escaped", symbol.token)
        text.append(_escaped(scan) if symbol.text == "\\" else symbol.text)
    raise CallSyntaxError("got a string that is never closed, expected '\"'", opened)


def _escaped(scan: Scanner) -> str:
    """The character that an escape stands for, after its backslash."""
    token = scan.here()
    char = _taken(scan)
    if char != "u":
        if char not in _ESCAPES:
            raise CallSyntaxError(f"got '\\{char}' inside a string, expected an escape of JSON", token)
        return _ESCAPES[char]
    code = _code(scan, token)
    if 0xD800 <= code < 0xDC00 and _taken(scan) == "\\" and _taken(scan) == "u":
        low = _code(scan, token)
        if 0xDC00 <= low < 0xE000:
            return chr(0x10000 + (code - 0xD800 << 10) + low - 0xDC00)
    if 0xD800 <= code < 0xE000:
        raise CallSyntaxError("got half a character (a lone surrogate) inside a string", token)
    return chr(code)


def _code(scan: Scanner, token: int) -> int:
    digits = "".join(_taken(scan) for _ in range(4))
    if not re.fullmatch("[0-9A-Fa-f]{4}", digits):
        raise CallSyntaxError(f"got '\\u{digits}' inside a string, expected four hexadecimal digits", token)
    return int(digits, 16)


def _taken(scan: Scanner) -> str:
    """The next character; nothing at the end and at what is no character."""
    return "" if scan.peek() is None else scan.take().text


_FORM: Final = Form(
    _read_string, _read_key, {"true": True, "false": False, "null": None}, "'\"', a number, true, false, null, [ or {"
)


def encode_call(name: str, arguments: Mapping[str, Json]) -> str:
    """A call as the model writes it, control tokens included.

    Raises:
        MessageError: the parser would refuse it: a name of a tool or argument outside `[A-Za-z0-9_.-]+`, a number that
            is not finite or has more than `MAX_DIGITS` digits, half a character, a value that is no JSON.
    """
    for key in (name, *arguments):
        if not isinstance(key, str) or not NAME.fullmatch(key):
            raise MessageError(f"got the name {str(key)[:80]!r}, expected letters, digits, '_', '.' and '-'")
    return f'{CALL.begin}\n{{"name": "{name}", "arguments": {_value(dict(arguments))}}}\n{CALL.end}'


def _value(value: Json) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, (int, float)):
        return written_number(value)
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_string(key)}: {_value(item)}" for key, item in value.items()) + "}"
    raise MessageError(f"got {type(value).__name__}, expected a JSON value")


def _string(text: str) -> str:
    """A string of JSON, in which nothing is markup and nothing a control token."""
    try:
        text.encode()
    except (UnicodeEncodeError, AttributeError):
        raise MessageError(f"got {text!r:.80}, expected Unicode text") from None
    written = json.dumps(text, ensure_ascii=False)
    return written.replace("<", "\\u003c") if "<|" in text or any(mark in text for mark in MARKUP) else written


WRITTEN: Final = Written('\n{"name": "', '", "arguments": ', "}\n", string=_string)
"""A call's writing, as Python's `json.dumps` has it."""
