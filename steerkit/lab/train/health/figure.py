"""One picture of a set's health: how many features fire in each layer, what they keep, and how often each fires."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from steerkit.errors import MissingExtraError, SaeError
from steerkit.lab.train.health.fidelity import Fidelity
from steerkit.sae import DENSE

_DECADES: Final = 5
"""Firing rates are shown from 1e-5 to 1."""
_BINS: Final = 4  # for each power of ten
_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#767676"


def draw(found: Sequence[Fidelity], path: Path, title: str) -> None:
    """Draw to a file whose ending names the format, such as `.png`.

    Raises:
        MissingExtraError: matplotlib is not installed.
        SaeError: the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError.of("--figure", "figures") from None
    figure = Figure(figsize=(12, 4.6), dpi=150, layout="constrained")
    density, recovered, rates = figure.subplots(1, 3, width_ratios=(1, 1, 1.15))
    figure.suptitle(f"{title}: {found[0].tokens:,} held-out tokens", fontsize=11)
    _density(density, found)
    _recovered(recovered, found)
    figure.colorbar(_rates(rates, found), ax=rates, label="share of the layer's features")
    for axes in (density, recovered, rates):
        axes.set_xlabel("layer")
        axes.set_xticks(
            range(len(found)), [str(one.site.compact) for one in found], fontsize=8 if len(found) > 12 else 9
        )
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise SaeError(f"{path}: the figure cannot be written ({reason})") from None


def _density(axes: Any, found: Sequence[Fidelity]) -> None:
    """L0 as bars, with the bound above which single features mean little."""
    dense = [one.l0 > DENSE * one.d_sae for one in found]
    axes.bar(range(len(found)), [one.l0 for one in found], color=[_ORANGE if d else _BLUE for d in dense], width=0.7)
    bound = DENSE * max(one.d_sae for one in found)
    highest = max(one.l0 for one in found)
    if highest > bound / 4:
        axes.axhline(bound, color=_GREY, linewidth=1, linestyle="--")
        axes.text(len(found) - 0.5, bound, "too dense above ", color=_GREY, ha="right", va="bottom", fontsize=8)
    for place, one in enumerate(found):
        if len(found) <= 8:
            axes.text(place, one.l0, f"{one.l0:.0f}", ha="center", va="bottom", fontsize=8)
    axes.set_ylim(0, 1.15 * max(highest, bound if highest > bound / 4 else 0))
    axes.set_title("L0: active features per token", fontsize=10)
    _bare(axes)


def _recovered(axes: Any, found: Sequence[Fidelity]) -> None:
    """Loss recovered against both ablations, and the variance explained; what is far below 0 is cut and said."""
    places = range(len(found))
    lines = (
        ("against zeros", [one.recovered for one in found], _BLUE, "o"),
        ("against the mean", [one.recovered_mean for one in found], _ORANGE, "s"),
        ("variance explained", [1 - one.fvu for one in found], _GREY, "^"),
    )
    low = min(min(values) for _, values, _, _ in lines)
    bottom = max(-0.5, min(0.0 if low < 0.5 else 0.5, low) - 0.02)
    for label, values, colour, marker in lines:
        shown = [max(value, bottom) for value in values]
        axes.plot(places, shown, color=colour, marker=marker, markersize=5, linewidth=1.2, label=label)
        for place, value in zip(places, values, strict=True):
            if value < bottom:
                axes.annotate(f"{value:.1f}", (place, bottom), fontsize=7, color=colour, ha="center", va="bottom")
    axes.axhline(1, color=_GREY, linewidth=0.8)
    axes.set_ylim(bottom, max(1.03, *(value + 0.02 for _, values, _, _ in lines for value in values)))
    axes.set_title("Kept with the reconstruction in place", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    _bare(axes)


def _rates(axes: Any, found: Sequence[Fidelity]) -> Any:
    """A column of the histogram for each layer; the lowest row holds the features that never fire."""
    rows = _DECADES * _BINS + 2
    columns = []
    for one in found:
        column = [0.0] * rows
        for rate in one.rates:
            column[_row(rate)] += 1 / one.d_sae
        columns.append(column)
    image = axes.pcolormesh(
        [place - 0.5 for place in range(len(found) + 1)],
        list(range(rows + 1)),
        [[column[row] or math.nan for column in columns] for row in range(rows)],
        cmap="viridis_r",
        vmin=0,
    )
    ticks = {0.5: "never"} | {2 + _BINS * power: f"$10^{{{power - _DECADES}}}$" for power in range(_DECADES)}
    axes.set_yticks([*ticks, rows], [*ticks.values(), "1"])
    axes.axhline(1, color=_GREY, linewidth=0.8)
    axes.set_ylim(0, rows)
    axes.set_title("Firing rate: share of tokens a feature fires at", fontsize=10)
    return image


def _row(rate: float) -> int:
    """0 for never, 1 for below the lowest decade, then a row for each quarter of a decade."""
    if rate <= 0:
        return 0
    return max(1, min(_DECADES * _BINS + 1, 2 + math.floor((math.log10(rate) + _DECADES) * _BINS)))


def _bare(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
