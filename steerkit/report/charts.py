"""Coordinates of a page's figures: shares with their intervals, and curves with theirs.

`templates/charts.html` draws them as inline SVG. All lengths are in units of the figure's view box.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from steerkit.report.filed import ShareLike

_WIDTH: Final = 760


class Bar(NamedTuple):
    """One row of a figure of shares: a value from 0 to 1 with its interval."""

    name: str
    value: float
    low: float
    high: float
    text: str
    """Label at its end."""
    colour: str = "hot"
    """`hot`, or `cold` for a control."""


class Curve(NamedTuple):
    """One line of a figure of curves."""

    name: str
    points: Sequence[tuple[float, float, float, float]]
    """x, value, low and high."""
    colour: str
    """`a`, `b` or `c`."""


class Point(NamedTuple):
    """Coordinates, from the upper left corner."""

    x: float
    y: float

    def __str__(self) -> str:
        return f"{self.x} {self.y}"


class Tick(NamedTuple):
    """A labelled position on an axis."""

    at: float
    text: str


class BarRow(NamedTuple):
    """A bar as it is drawn."""

    name: str
    y: int
    width: float
    low: float
    high: float
    text: str
    colour: str


class ShareFigure(NamedTuple):
    """Bars with whiskers, one below the other."""

    label: str
    rows: Sequence[BarRow]
    ticks: Sequence[Tick]
    height: int
    width: int = _WIDTH
    left: int = 300
    """Left end of the axis; names stand before it."""
    right: int = 632
    """Right end of the axis; values stand after it."""


class CurveLine(NamedTuple):
    """A curve as it is drawn."""

    name: str
    points: Sequence[Point]
    band: Sequence[Point]
    """Outline of the intervals, once around."""
    legend: int
    """x of its name below the figure."""
    colour: str


class CurveFigure(NamedTuple):
    """Curves with bands over a common axis, and a legend below."""

    label: str
    x_label: str
    lines: Sequence[CurveLine]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    width: int = _WIDTH
    height: int = 300
    left: int = 56
    right: int = 736
    top: int = 12
    bottom: int = 242


def counted(share: ShareLike) -> str:
    """Hits and count in words; hits that are no whole number, as of near-copies, to one decimal."""
    return f"{round(share.hits, 1):g} of {share.count}"


def share_figure(bars: Sequence[Bar], label: str, *, start: float = 0.0, percent: bool = True) -> ShareFigure:
    """Rows of values from `start` to 1; the axis in percent or as it is."""
    empty = ShareFigure(label, (), (), 26 * len(bars) + 34)

    def at(value: float) -> float:
        return round(empty.left + (empty.right - empty.left) * max(0.0, value - start) / (1 - start), 1)

    steps = [start + (1 - start) * quarter / 4 for quarter in range(5)]
    ticks = [Tick(at(step), f"{100 * step:.0f} %" if percent else f"{step:.3g}") for step in steps]
    rows = []
    for number, one in enumerate(bars):
        width = round(at(one.value) - empty.left, 1)
        rows.append(BarRow(one.name, 8 + 26 * number, width, at(one.low), at(one.high), one.text, one.colour))
    return empty._replace(rows=rows, ticks=ticks)


def curve_figure(curves: Sequence[Curve], label: str, x_label: str) -> CurveFigure:
    """Curves of shares over some numbers, which stand side by side at equal distances."""
    empty = CurveFigure(label, x_label, (), (), ())
    xs = sorted({point[0] for one in curves for point in one.points})
    step, rise = (empty.right - empty.left) / max(1, len(xs) - 1), empty.bottom - empty.top

    def at(x: float, y: float) -> Point:
        return Point(round(empty.left + step * xs.index(x), 1), round(empty.top + rise * (1 - y), 1))

    lines = []
    for number, one in enumerate(curves):
        points = [at(x, value) for x, value, _, _ in one.points]
        upper = [at(x, high) for x, _, _, high in one.points]
        lower = [at(x, low) for x, _, low, _ in reversed(one.points)]
        lines.append(CurveLine(one.name, points, upper + lower, empty.left + 230 * number, one.colour))
    return empty._replace(
        lines=lines,
        x_ticks=[Tick(at(x, 0).x, f"{x:g}") for x in xs],
        y_ticks=[Tick(empty.top + rise * (1 - tick), f"{100 * tick:.0f} %") for tick in (0, 0.25, 0.5, 0.75, 1)],
    )
