"""Rows of many columns on a terminal: a table where it fits, else what matters most in columns, the rest below."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from rich.cells import cell_len
from rich.console import Console

_GAP = "  "
_INDENT = "    "


def print_rows(
    out: Console, titles: Sequence[str], rows: Sequence[Sequence[str]], *, main: int, words: Sequence[str]
) -> None:
    """Print rows as wide as the console allows.

    Args:
        out: where to.
        titles: of the columns.
        rows: as many cells each; an empty one is left out where it would stand below.
        main: columns that stand beside each other where not all do; where not even they do, only the first.
        words: titles of the columns that are aligned on the left.
    """
    shown = len(titles)
    for shown in (len(titles), main, 1):
        widths = [max(cell_len(row[column]) for row in (titles, *rows)) for column in range(shown)]
        if sum(widths) + len(_GAP) * (shown - 1) <= out.width:
            break

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell + blank if title in words else blank + cell
            for cell, blank, title in zip(cells, _blanks(cells, widths), titles, strict=False)
        )
        return _GAP.join(padded).rstrip()

    out.print(line(titles[:shown]), style="bold", soft_wrap=True)
    for row in rows:
        out.print(line(row[:shown]), soft_wrap=True)
        rest = [f"{title} {cell}" for title, cell in zip(titles[shown:], row[shown:], strict=True) if cell]
        for part in _filled(rest, out.width - len(_INDENT)):
            out.print(_INDENT + part, soft_wrap=True)


def _blanks(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [" " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True)]


def _filled(parts: Sequence[str], width: int) -> list[str]:
    """Parts in as few lines as hold them; none is broken."""
    lines: list[str] = []
    for part in parts:
        if lines and cell_len(f"{lines[-1]}; {part}") < width:
            lines[-1] += f"; {part}"
        else:
            lines.append(part)
    return [f"{one};" for one, _ in pairwise(lines)] + lines[-1:]
