"""Words of the user's own text: what a policy's `from_user` lets through as an argument's value."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Final

from steerkit.types import Json, Messages

_NUMBER: Final = re.compile(r"(?<![\w.,])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\w]|[.,]\d)", re.ASCII)
_MOST: Final = 20_000
"""Characters of the user's text that are looked at, the last ones."""

_LONGEST: Final = 100
"""Characters of a number."""


def own_texts(messages: Messages) -> tuple[str, ...]:
    """The texts of the user's messages; nothing of tools' results, developers or the model."""
    found: list[str] = []
    for message in messages:
        content = message.get("content") if message.get("role") == "user" else None
        if isinstance(content, str):
            found.append(content)
        elif isinstance(content, Iterable):
            parts = (part.get("text") if isinstance(part, Mapping) else part for part in content)
            found += [part for part in parts if isinstance(part, str)]
    return tuple(found)


def words_of(texts: Sequence[str]) -> list[str]:
    """The texts in pieces that are never cut: words, runs of blanks, and any other character by itself."""
    found: list[str] = []
    for text in texts:
        for kind, run in groupby(text[-_MOST:], key=_kind):
            chars = list(run)
            found += ["".join(chars)] if kind else chars
    return found


def _kind(char: str) -> int:
    return 1 if char.isalnum() else 2 if char.isspace() else 0


def numbers_of(texts: Sequence[str]) -> list[str]:
    """The numbers that stand in the texts, without commas between their thousands."""
    found = (match[0].replace(",", "") for text in texts for match in _NUMBER.finditer(text[-_MOST:]))
    return list(dict.fromkeys(number for number in found if len(number) <= _LONGEST))


def is_own(value: Json, texts: Sequence[str]) -> bool:
    """True if a value is the user's own: a text that is a run of whole words of one of theirs (blanks count alike), a
    number that stands there, a list of such, or null. Nothing else is."""
    if value is None:
        return True
    if isinstance(value, list):
        return all(is_own(item, texts) for item in value)
    if isinstance(value, str):
        wanted = " ".join(value.split())
        return bool(wanted) and any(_holds(" ".join(text[-_MOST:].split()), wanted) for text in texts)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return any(_equal(value, number) for number in numbers_of(texts))
    return False


def _holds(text: str, wanted: str) -> bool:
    at = text.find(wanted)
    while at >= 0:
        if _parts(text, at) and _parts(text, at + len(wanted)):
            return True
        at = text.find(wanted, at + 1)
    return False


def _parts(text: str, at: int) -> bool:
    """True if no word goes on over a place in a text."""
    return not (0 < at < len(text) and text[at - 1].isalnum() and text[at].isalnum())


def _equal(value: int | float, written: str) -> bool:
    if isinstance(value, int) and "." not in written:
        return value == int(written)
    return math.isfinite(float(written)) and float(written) == value
