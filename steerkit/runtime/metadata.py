"""Who asked, and whatever else a caller wants to find a turn by: a small flat mapping that stands in its records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from steerkit.errors import SettingError

Metadata: TypeAlias = "Mapping[str, str | int | float | bool | Sequence[str]]"
"""Such as `{"user": "ann", "session": "s-17", "tags": ["mail"]}`; records keep it as content that can be redacted."""

MOST_KEYS: Final = 32
MOST_CHARACTERS: Final = 512
"""Of a text."""
MOST_ITEMS: Final = 32
"""Of a list of texts."""


def metadata_of(given: object, where: str = "metadata") -> dict[str, Any] | None:
    """A copy of plain JSON values; None where there is none.

    Raises:
        SettingError: what was got, and what was expected.
    """
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise SettingError(f'{where}: got {type(given).__name__}, expected a mapping such as {{"user": "ann"}}')
    if len(given) > MOST_KEYS:
        raise SettingError(f"{where}: got {len(given)} keys, expected at most {MOST_KEYS}")
    for key in given:
        if not isinstance(key, str) or not key:
            raise SettingError(f"{where}: got the key {_short(key)}, expected text")
        _text(key, f"{where}: a key")
    return {str.__str__(key): _value(value, f"{where}[{key!r}]") for key, value in given.items()} or None


def _value(value: object, where: str) -> Any:
    if isinstance(value, str):
        return _text(value, where)
    if isinstance(value, (bool, int)):
        if not -(2**63) <= value < 2**63:
            raise SettingError(f"{where}: got an integer of {value.bit_length()} bits, expected at most 63")
        return bool(value) if isinstance(value, bool) else int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise SettingError(f"{where}: got {value}, expected a finite number")
        return float(value)
    if isinstance(value, (list, tuple)):
        if len(value) > MOST_ITEMS:
            raise SettingError(f"{where}: got a list of {len(value)}, expected at most {MOST_ITEMS}")
        for number, item in enumerate(value):
            if not isinstance(item, str):
                raise SettingError(f"{where}[{number}]: got {_short(item)}, expected text")
        return [_text(item, f"{where}[{number}]") for number, item in enumerate(value)]
    raise SettingError(f"{where}: got {_short(value)}, expected text, a number, true or false, or a list of texts")


def _text(text: str, where: str) -> str:
    if len(text) > MOST_CHARACTERS:
        raise SettingError(f"{where}: got {len(text)} characters, expected at most {MOST_CHARACTERS}")
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise SettingError(f"{where}: got half a character (a lone surrogate), expected Unicode text")
    return str.__str__(text)


def _short(value: object) -> str:
    """A value's kind, and its text where that is short and its own."""
    shown = repr(value) if value is None or isinstance(value, (bool, int, float, str)) else ""
    return shown if shown and len(shown) <= 40 else type(value).__name__
