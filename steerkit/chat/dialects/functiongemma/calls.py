"""A call as `call:NAME{key:value}` with bare keys and quoted strings, read strictly and written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from steerkit.chat.dialects.symbols import NAME, QUOTE, CallSyntaxError, Scanner, Symbol, in_a_string
from steerkit.chat.dialects.syntax import Written
from steerkit.chat.dialects.values import Form, read_arguments, written_number
from steerkit.errors import MessageError
from steerkit.types import Call, Json, Span

_WORDS: Final[Mapping[str, Json]] = {"true": True, "false": False, "null": None, "None": None}

WRITTEN: Final = Written("call:", comma=",", colon=":", nulls=("null", "None"), bare_keys=True)
"""A call's writing without its strings, whose quotes are a token."""


class Marks(NamedTuple):
    """The control tokens of a call in one family."""

    begin: str
    end: str
    quote: str
    control: tuple[str, ...]
    """Texts that no string can hold."""
    sort_keys: bool = False
    """Objects are written with their keys in order, as the family's template does."""


def read_call(marks: Marks, symbols: Sequence[Symbol], span: Span) -> Call:
    """The call of the characters between its control tokens, which stand at the ends of the span.

    Raises:
        CallSyntaxError: it is not exactly a call.
    """
    scan = Scanner(symbols, span.end - 1)
    scan.word("call", "'call:'")
    scan.expect(":")
    name, name_span = scan.name("a tool's name")
    scan.blank()
    expected = f"{marks.quote}, a number, true, false, null, [ or {{"
    form = Form(partial(_read_string, marks.quote), _read_key, _WORDS, expected)
    parts = read_arguments(scan, form) if scan.peek() == "{" else ()
    scan.finish()
    return Call(name, {part.name: part.value for part in parts}, span, name_span, parts)


def _read_key(scan: Scanner, depth: int) -> tuple[str, Span]:
    return scan.name("a key")


def _read_string(quote: str, scan: Scanner) -> str | None:
    if scan.kind() != QUOTE:
        return None
    opened = scan.take().token
    text: list[str] = []
    while not scan.at_end():
        symbol = scan.take()
        if symbol.kind == QUOTE:
            return "".join(text)
        if symbol.kind:
            raise in_a_string(symbol)
        text.append(symbol.text)
    raise CallSyntaxError(f"got a string that is never closed, expected {quote}", opened)


def encode_call(marks: Marks, name: str, arguments: Mapping[str, Json]) -> str:
    """A call as the model writes it, control tokens included.

    Raises:
        MessageError: the parser would refuse it: a name or key outside `[A-Za-z0-9_.-]+`, a string that holds a
            control token, a number that is not finite or has more than `MAX_DIGITS` digits, a value that is no JSON.
    """
    return f"{marks.begin}call:{_name(name)}{_value(marks, dict(arguments))}{marks.end}"


def _value(marks: Marks, value: Json) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return written_number(value)
    if isinstance(value, str):
        held = next((token for token in marks.control if token in value), None)
        if held is not None:
            raise MessageError(f"got the string {value[:80]!r}, which holds {held}; the wire format cannot carry it")
        return f"{marks.quote}{value}{marks.quote}"
    if isinstance(value, list):
        return f"[{','.join(_value(marks, item) for item in value)}]"
    if isinstance(value, Mapping):
        keys = sorted(value, key=lambda key: str(key).lower()) if marks.sort_keys else value
        return "{" + ",".join(f"{_name(key)}:{_value(marks, value[key])}" for key in keys) + "}"
    raise MessageError(f"got {type(value).__name__}, expected a JSON value")


def _name(name: str) -> str:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise MessageError(f"got the name {str(name)[:80]!r}, expected letters, digits, '_', '.' and '-'")
    return name
