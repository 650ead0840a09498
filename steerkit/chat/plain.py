"""Plain JSON copies of what callers hand over: everything else is refused where it stands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from steerkit.chat.dialects import MAX_DIGITS, NAME
from steerkit.errors import MessageError, SteerkitError
from steerkit.types import Messages

_TOO_LARGE: Final = 10**MAX_DIGITS
_TOO_DEEP: Final = "got values nested too deeply; expected fewer levels"


def plain_messages(messages: Messages) -> list[dict[str, Any]]:
    """A copy of a conversation as plain JSON values.

    Raises:
        MessageError: it is no list of messages, or which value is no JSON.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence) or not messages:
        raise MessageError("messages: expected a list of at least one {role, content}")
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping):
            got = type(message).__name__
            raise MessageError(f"messages[{number}]: got {got}, expected a mapping with role and content")
    try:
        return [_plain(message, f"messages[{number}]", MessageError) for number, message in enumerate(messages)]
    except RecursionError:
        raise MessageError(f"messages: {_TOO_DEEP}") from None


def plain_json(value: Any, where: str, error: type[SteerkitError] = MessageError) -> Any:
    """A copy of one value as plain JSON: subclasses of text and numbers become what they are subclasses of.

    Raises:
        SteerkitError: of the kind given, with the path of the first value that is no JSON: of another type, a number
            that is not finite or has more than `MAX_DIGITS` digits, half a character, a key that is no text, a circle.
    """
    try:
        return _plain(value, where, error)
    except RecursionError:
        raise error(f"{where}: {_TOO_DEEP}") from None


def _plain(value: Any, where: str, error: type[SteerkitError]) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, where, error)
    if isinstance(value, int):
        if abs(value) >= _TOO_LARGE:
            raise error(f"{where}: got an integer of more than {MAX_DIGITS} digits, expected at most {MAX_DIGITS}")
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, Mapping):
        return _object(value, where, error)
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{number}]", error) for number, item in enumerate(value)]
    got = repr(float(value)) if isinstance(value, float) else type(value).__name__
    raise error(f"{where}: got {got}, expected a JSON value")


def _object(value: Mapping[Any, Any], where: str, error: type[SteerkitError]) -> dict[str, Any]:
    found = {}
    for key, item in value.items():
        if not isinstance(key, str):
            raise error(f"{where}: got the key {key!r:.80} of type {type(key).__name__}, expected text")
        name = _text(key, where, error)
        step = f".{name}" if NAME.fullmatch(name) else f"[{name!r:.80}]"
        found[name] = _plain(item, where + step, error)
    return found


def _text(value: str, where: str, error: type[SteerkitError]) -> str:
    plain = str.__str__(value)  # an enum's value, not its name
    try:
        plain.encode()
    except UnicodeEncodeError:
        raise error(f"{where}: got half a character (a lone surrogate), expected Unicode text") from None
    return plain
