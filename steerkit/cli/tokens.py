"""Tokens as people read them: what cannot be seen is drawn, and a value shades the token it was read at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.text import Text

_DRAWN: Final = {
    **{code: chr(0x2400 + code) for code in range(0x20)},
    **dict.fromkeys((0x0A, 0x2028, 0x2029), "↵"),
    0x09: "⇥",
    0x7F: "␡",
    # Later controls, half characters, and marks that turn the direction of what follows them.
    **dict.fromkeys((*range(0x80, 0xA0), *range(0xD800, 0xE000)), "\ufffd"),
    **dict.fromkeys((0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)), "\ufffd"),
}
_STYLES: Final = ((0.6, "black on dark_orange"), (0.25, "bold dark_orange"), (0.0, "orange3"))


def visible(text: str) -> str:
    """A text without what would move a cursor, colour a terminal or reorder a line; of the same length."""
    return text.translate(_DRAWN)


def drawn(token: str) -> str:
    """A token's text as `visible`; a dot for one that is no more than the beginning of a character."""
    return visible(token) or "·"


def share(value: float, high: float) -> float:
    """How much of the highest value this is, from 0 to 1."""
    return min(1.0, max(0.0, value / high)) if high > 0 else 0.0


def shaded_text(tokens: Sequence[str], values: Sequence[float], high: float, strongest: int) -> Text:
    """Tokens in one line for a terminal, by their share of `high`; the strongest stands in «», also without colours."""
    line = Text()
    for number, (token, value) in enumerate(zip(tokens, values, strict=True)):
        part = share(value, high)
        style = next((name for least, name in _STYLES if part > least), "")
        before, after = ("«", "»") if number == strongest else ("", "")
        line.append(f"{before}{drawn(token)}{after}", style=style)
    return line
