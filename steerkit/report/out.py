"""The one way out: everything that a command prints, with what came from outside made visible.

Model text, tool results, arguments and reasons are other people's text: an escape sequence in one could repaint a
verdict on a terminal. So nothing else in `cli` and
`report` writes to standard output or standard error; a test holds that.
"""

from __future__ import annotations

import codecs
import json
import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final
from unicodedata import category

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from steerkit.report.tokens import HIDDEN, visible, visible_lines
from steerkit.sites import with_sites_written

_PIPE_WIDTH: Final = 160
_PLAIN: Final = {**dict(zip("▁▂▃▄▅▆▇█", "_.:-=+*#", strict=True)), "…": "...", "“": '"', "”": '"', "→": "->", "↵": "/"}
"""ASCII in place of characters that standard output's encoding lacks."""


class VisibleConsole(Console):
    """A console whose text, wherever it came from, cannot move the cursor, hide or reorder anything."""

    def render_str(self, text: str, **settings: Any) -> Text:
        """The text as one line, also in a cell: rich drops some controls without a trace. `Text` may have lines."""
        return super().render_str(visible(text), **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Segments; those that are rich's own controls stay as they are."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible_lines(text), style, control)


def console(*, stderr: bool = False) -> Console:
    """Standard output or error, wide enough in a pipe that nothing is folded."""
    out = VisibleConsole(stderr=stderr, highlight=False, emoji=False, markup=False)
    if not out.is_terminal:
        out.width = _PIPE_WIDTH
    return out


def say(text: str) -> None:
    """Print text of one or several lines on standard output."""
    print(visible_lines(text))


def say_lines(text: str) -> None:
    """Print text of one or several lines on standard error."""
    print(visible_lines(text), file=sys.stderr)


def say_line(text: str) -> None:
    """Print one line on standard error; a line's end inside it is drawn, so that it cannot pass as another message."""
    print(visible(text), file=sys.stderr)


def print_json(value: object) -> None:
    """One line of JSON on standard output; what cannot be seen stands in it as an escape."""
    print(json_text(value, ascii_only=not _is_unicode(getattr(sys.stdout, "encoding", None))))


def without_nan(value: Any) -> Any:
    """A value, and the parts of mappings and tuples, with null for NaN and infinity: JSON has no word for them."""
    if isinstance(value, Mapping):
        return {key: without_nan(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_text(value: object, *, ascii_only: bool = False) -> str:
    """A value as JSON that reads back the same and holds no character that a terminal would obey."""
    text = json.dumps(with_sites_written(value), ensure_ascii=ascii_only)
    return "".join(_escaped(char) if category(char) in HIDDEN else char for char in text)


def any_encoding() -> None:
    """Let standard output and error take every character: what their encoding lacks is written in ASCII."""
    codecs.register_error("steerkit", _plain)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="steerkit")


def _plain(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)  # the one kind that a stream for writing raises
    return "".join(_PLAIN.get(char, "?") for char in error.object[error.start : error.end]), error.end


def _escaped(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))


def _is_unicode(encoding: str | None) -> bool:
    return (encoding or "").lower().replace("-", "").startswith("utf")
