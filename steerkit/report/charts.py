"""Figures of a page as inline SVG: shares with their intervals, and curves with theirs. No script, no network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from steerkit.report.page import text

_WIDTH: Final = 760
_ROW: Final = 26
_LEFT: Final = 300
_RIGHT: Final = 128


class Bar(NamedTuple):
    """One row of a figure of shares: a value from 0 to 1 with its interval."""

    name: str
    value: float
    low: float
    high: float
    said: str
    """What stands at its end."""
    kind: str = ""
    """`cold` for a control, else it is hot."""


class Curve(NamedTuple):
    """One line of a figure of curves."""

    name: str
    points: Sequence[tuple[float, float, float, float]]
    """x, value, low and high."""
    kind: str
    """`a`, `b` or `c`: its colour."""


def shares(bars: Sequence[Bar], label: str, *, start: float = 0.0, percent: bool = True) -> str:
    """Rows of values from `start` to 1, each a bar with a whisker for its interval; the axis in percent or as it is."""
    height = _ROW * len(bars) + 34
    span = _WIDTH - _LEFT - _RIGHT

    def at(value: float) -> float:
        return _LEFT + span * max(0.0, value - start) / (1 - start)

    parts = [_open(_WIDTH, height, label)]
    for tick in (start + (1 - start) * quarter / 4 for quarter in range(5)):
        x, said = at(tick), f"{100 * tick:.0f} %" if percent else f"{tick:.3g}"
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="6" y2="{height - 26}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - 8}" text-anchor="middle">{said}</text>')
    for number, bar in enumerate(bars):
        y = 8 + _ROW * number
        middle, low, high = y + _ROW / 2 - 3, at(bar.low), at(bar.high)
        parts.append(
            f'<text x="{_LEFT - 10}" y="{middle + 4:.1f}" text-anchor="end">{text(bar.name)}</text>'
            f'<rect class="{bar.kind or "hot"}" x="{_LEFT}" y="{y}" width="{at(bar.value) - _LEFT:.1f}" '
            f'height="{_ROW - 8}" rx="2"/>'
            f'<path class="whisker" d="M{low:.1f} {middle - 4:.1f}v8M{low:.1f} {middle:.1f}H{high:.1f}'
            f'M{high:.1f} {middle - 4:.1f}v8"/>'
            f'<text x="{_LEFT + span + 12}" y="{middle + 4:.1f}">{text(bar.said)}</text>'
        )
    return "".join([*parts, "</svg>"])


def curves(lines: Sequence[Curve], label: str, x_label: str) -> str:
    """Curves of shares over some numbers, which stand side by side at equal distances; intervals are bands.

    A legend stands below.
    """
    height, left, bottom, top = 300, 56, 58, 12
    span, rise = _WIDTH - left - 24, height - bottom - top
    xs = sorted({point[0] for line in lines for point in line.points})
    step = span / max(1, len(xs) - 1)

    def at(x: float, y: float) -> str:
        return f"{left + step * xs.index(x):.1f} {top + rise * (1 - y):.1f}"

    parts = [_open(_WIDTH, height, label)]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        y = top + rise * (1 - tick)
        parts.append(f'<line class="grid" x1="{left}" x2="{left + span}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{100 * tick:.0f} %</text>')
    for x in xs:
        place = at(x, 0).split()[0]
        parts.append(f'<text class="tick" x="{place}" y="{top + rise + 18}" text-anchor="middle">{x:g}</text>')
    centre, below = left + span / 2, top + rise + 36
    parts.append(f'<text class="tick" x="{centre:.1f}" y="{below}" text-anchor="middle">{text(x_label)}</text>')
    for number, line in enumerate(lines):
        upper = "L".join(at(x, high) for x, _, _, high in line.points)
        lower = "L".join(at(x, low) for x, _, low, _ in reversed(line.points))
        middle = "L".join(at(x, value) for x, value, _, _ in line.points)
        dots = "".join(
            f'<circle class="dot {line.kind}" r="3.4" cx="{cx}" cy="{cy}"/>'
            for cx, cy in (at(x, value).split() for x, value, _, _ in line.points)
        )
        parts.append(f'<path class="band {line.kind}" d="M{upper}L{lower}Z"/>')
        parts.append(f'<path class="line {line.kind}" d="M{middle}"/>{dots}')
        x = left + number * 230
        parts.append(f'<circle class="dot {line.kind}" r="4" cx="{x + 5}" cy="{height - 9}"/>')
        parts.append(f'<text x="{x + 16}" y="{height - 5}">{text(line.name)}</text>')
    return "".join([*parts, "</svg>"])


def _open(width: int, height: int, label: str) -> str:
    return f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{text(label)}">'
