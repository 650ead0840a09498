"""The strict grammar of typed values, for every dialect: nothing is repaired, nothing is guessed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from steerkit.chat.dialects.symbols import CallSyntaxError, Scanner
from steerkit.errors import MessageError
from steerkit.types import Argument, Json, Span

MAX_DEPTH: Final = 32
"""Objects and lists inside each other."""
MAX_DIGITS: Final = 1000
"""Digits of an integer in a call: Python's own bound is 4,300."""

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?P<fraction>\.[0-9]+)?(?P<exponent>[eE][+-]?[0-9]+)?")


class Form(NamedTuple):
    """A dialect's way to write strings, keys and words."""

    string: Callable[[Scanner], str | None]
    """Reads a string; None where the next symbol opens none."""
    key: Callable[[Scanner, int], tuple[str, Span]]
    """Reads the key of an object at a depth, 0 for the arguments, with its tokens."""
    words: Mapping[str, Json]
    """Values that are written as words."""
    expected: str
    """The ways to write a value, for errors."""


def read_arguments(scan: Scanner, form: Form) -> tuple[Argument, ...]:
    """The members of the object that comes next. Raises CallSyntaxError."""
    found = []
    for key, key_span in _members(scan, form, 0):
        value, value_span = _value(scan, form, 1)
        found.append(Argument(key, value, key_span, value_span))
    return tuple(found)


def _members(scan: Scanner, form: Form, depth: int) -> Iterator[tuple[str, Span]]:
    """The keys of an object; after each the caller reads its value."""
    scan.expect("{")
    scan.blank()
    if scan.peek() == "}":
        scan.take()
        return
    seen: set[str] = set()
    while True:
        key, span = form.key(scan, depth)
        if key in seen:
            raise CallSyntaxError(f"got the key '{key}' twice, expected it once", span.start)
        seen.add(key)
        scan.expect(":")
        yield key, span
        if _ends(scan, "}"):
            return


def _ends(scan: Scanner, end: str) -> bool:
    """True after the last member, False after a comma."""
    scan.blank()
    if scan.peek() == end:
        scan.take()
        return True
    scan.expect(",", f"',' or '{end}'")
    return False


def _value(scan: Scanner, form: Form, depth: int) -> tuple[Json, Span]:
    scan.blank()
    first, char = scan.here(), scan.peek()
    if depth > MAX_DEPTH and char in ("{", "["):
        raise CallSyntaxError(f"got more than {MAX_DEPTH} objects and lists inside each other", first)
    value: Json = form.string(scan)
    if value is None:
        if char == "{":
            value = {key: _value(scan, form, depth + 1)[0] for key, _ in _members(scan, form, depth)}
        elif char == "[":
            value = _list(scan, form, depth)
        else:
            value = _literal(scan, form)
    return value, Span(first, scan.last() + 1)


def _list(scan: Scanner, form: Form, depth: int) -> list[Json]:
    scan.take()
    items: list[Json] = []
    scan.blank()
    if scan.peek() == "]":
        scan.take()
        return items
    while True:
        items.append(_value(scan, form, depth + 1)[0])
        if _ends(scan, "]"):
            return items


def _literal(scan: Scanner, form: Form) -> Json:
    first = scan.here()
    text = scan.bare()
    if text in form.words:
        return form.words[text]
    match = _NUMBER.fullmatch(text)
    if match is None:
        if not text:
            raise scan.error("a value")
        raise CallSyntaxError(f"got {text[:80]!r}, expected {form.expected}", first)
    if len(text.removeprefix("-")) > MAX_DIGITS:
        raise CallSyntaxError(f"got a number of {len(text)} characters, expected at most {MAX_DIGITS}", first)
    if match["fraction"] is None and match["exponent"] is None:
        return int(text)
    number = float(text)
    if not math.isfinite(number):
        raise CallSyntaxError(f"got {text[:80]!r}, expected a number that a float can hold", first)
    return number


def written_number(value: int | float) -> str:
    """A number as every dialect writes it. Raises MessageError where no call can hold it."""
    if isinstance(value, float) and not math.isfinite(value):
        raise MessageError(f"got {value!r}, expected a finite number; the wire format has no other")
    if isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
        raise MessageError(f"got an integer of more than {MAX_DIGITS} digits, expected at most {MAX_DIGITS}")
    return repr(value)
