"""Stand-ins for content that was redacted, or that is missing.

Each is an empty value of the type that was there, so that whoever reads a record need not ask first; a text says in a
word what became of it. `marker` is what a record's JSON has in that place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

MISSING: Final[Mapping[str, Any]] = {"missing": True}


class Gone:
    """Content that is not there any more."""

    marker: Mapping[str, Any] = MISSING
    """`{"redacted": HMAC in hex}`, or `{"missing": true}` where a record only commits to it."""

    @property
    def word(self) -> str:
        """`(redacted)` or `(missing)`."""
        return word_of(self.marker)


class GoneText(str, Gone):
    """A text: `(redacted)` or `(missing)`."""


class GoneItems(tuple[Any, ...], Gone):
    """An empty list."""


class GoneObject(dict[str, Any], Gone):
    """An empty object."""


def is_marker(value: Any) -> bool:
    """True for the JSON that stands for content that is gone."""
    return isinstance(value, dict) and (value == MISSING or value.keys() == {"redacted"})


def stand_in(kind: type, marker: Mapping[str, Any]) -> Gone:
    """A stand-in for a `str`, a `tuple` or a `dict`."""
    found: Gone = GoneText(word_of(marker)) if kind is str else GoneItems() if kind is tuple else GoneObject()
    found.marker = marker
    return found


def word_of(marker: Mapping[str, Any]) -> str:
    """`(redacted)` or `(missing)`."""
    return "(redacted)" if "redacted" in marker else "(missing)"
