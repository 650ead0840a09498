"""Tokens as people read them: what cannot be seen is drawn, and a value shades the token it was read at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from unicodedata import category

from rich.text import Text


class _Drawn(dict[int, str]):
    """The sign of each character: itself, unless it is a control, a half character, or a mark without a shape.

    Such marks (Unicode's category Cf: direction marks, zero-width joiners, tags) reorder or hide what stands beside
    them; the categories decide, so that a new Unicode version brings its own.
    """

    def __missing__(self, code: int) -> str:
        hidden = category(chr(code)) in HIDDEN
        self[code] = "\ufffd" if hidden else chr(code)
        return self[code]


HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories whose characters move a cursor, end a line, reorder text or have no shape."""
_DRAWN: Final = _Drawn(
    {
        **{code: chr(0x2400 + code) for code in range(0x20)},
        **dict.fromkeys((0x0A, 0x85, 0x2028, 0x2029), "↵"),
        0x09: "⇥",
        0x7F: "␡",
    }
)
_LINES: Final = _Drawn({**_DRAWN, 0x0A: "\n"})
_STYLES: Final = ((0.6, "black on dark_orange"), (0.25, "bold dark_orange"), (0.0, "orange3"))


def visible(text: str) -> str:
    """A text in one line without what would move a cursor, colour a terminal or reorder it; of the same length."""
    return text.translate(_DRAWN)


def visible_lines(text: str) -> str:
    """A text of one or several lines, made `visible` line by line."""
    return text.translate(_LINES)


def drawn(token: str) -> str:
    """A token's text as `visible`; a dot for one that is no more than the beginning of a character."""
    return visible(token) or "·"


def share(value: float, high: float) -> float:
    """Share of the highest value, from 0 to 1."""
    return min(1.0, max(0.0, value / high)) if high > 0 else 0.0


def shade(value: float, high: float) -> str:
    """CSS class of a share of the highest value, from `s0` to `s100`: pages forbid styles in their elements."""
    return f"s{round(100 * share(value, high))}"


def shaded_text(tokens: Sequence[str], values: Sequence[float], high: float, strongest: int) -> Text:
    """Tokens in one line for a terminal, by their share of `high`; the strongest stands in «», also without colours."""
    line = Text()
    for number, (token, value) in enumerate(zip(tokens, values, strict=True)):
        part = share(value, high)
        style = next((name for least, name in _STYLES if part > least), "")
        before, after = ("«", "»") if number == strongest else ("", "")
        line.append(f"{before}{drawn(token)}{after}", style=style)
    return line
