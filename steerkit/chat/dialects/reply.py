"""The state of a reply's grammar, of which every dialect has its own transitions."""

from __future__ import annotations

from typing import Final, NamedTuple

NAME_BYTES: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")
BLANK: Final = frozenset(b" \t\r\n")
LONGEST_NAME: Final = 128
"""Bytes of a name or key that a state keeps: a longer one is no name of a tool."""


class Reply(NamedTuple):
    """Progress through the grammar of a reply."""

    mode: str = "text"
    """`text`, `thought`, `head` (before the name), `open` (the name is next), `name`, `named` (after it), `key`,
    `value`, `between` (after a value), `closed` (after the object), `broken` or `done`."""
    word: str = ""
    """The part of a fixed text that was read in `head` and `named`, the key in `key` and `value`."""
    depth: int = 0
    """Open braces and brackets inside a value; in `closed`, braces that are still open around the arguments."""
    in_string: bool = False
    name: str = ""
    """The call's name, as far as it was read."""
    escaped: bool = False
    """Inside a string, after a backslash that takes the next character."""

    @property
    def in_call(self) -> bool:
        """Inside a call, well-formed so far or not."""
        return self.mode not in ("text", "thought", "done")


BROKEN: Final = Reply("broken")
