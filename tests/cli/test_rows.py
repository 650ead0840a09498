"""Rows on a terminal: a table where it fits, and never a line wider than the terminal where words allow it."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from steerkit.report.rows import print_rows

TITLES = ("name", "first", "second", "third")
ROWS = [("a", "1.5", "2", "x" * 30), ("bb中", "10", "", "y" * 20)]


def printed(width: int) -> list[str]:
    out = StringIO()
    print_rows(Console(file=out, width=width, highlight=False), TITLES, ROWS, main=2, words=("name",))
    return out.getvalue().splitlines()


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (
            80,
            [
                f"name  first  second{'third':>32}",
                f"a       1.5       2  {'x' * 30}",
                f"bb中     10          {'y' * 20:>30}",
            ],
        ),
        (
            46,
            [
                "name  first",
                "a       1.5",
                "    second 2;",
                f"    third {'x' * 30}",
            ],
        ),
        (8, ["name", "a", "    first 1.5;", "    second 2;", f"    third {'x' * 30}"]),
    ],
)
def test_rows_are_as_wide_as_they_may_be(width: int, lines: list[str]) -> None:
    """Side by side, the rest below, or all below; wide characters count twice and empty cells are left out below."""
    assert printed(width)[: len(lines)] == lines
    assert ("second" in printed(width)[-1]) is False
