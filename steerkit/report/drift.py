"""The drift of SAEs between two models, as people read it on a terminal, and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from rich.console import Console

from steerkit.report.evaluation import percent, share_json
from steerkit.report.out import without_nan
from steerkit.report.rows import print_rows
from steerkit.report.text import short

if TYPE_CHECKING:
    from steerkit.lab.train.health import ReadingDrift, SiteDrift

_TITLES: Final = ("Layer", "Moved", "FVU", "there", "L0", "there", "Dead", "there", "Died", "Alive", "Rate", "Mean")
_READING_TITLES: Final = ("Reading", "Place", "Holds", "there", "p", "AUROC", "there", "p", "")
_SHOWN: Final = 5
Features: TypeAlias = Mapping[str, Mapping[str, str]]
"""By policy, the features that it names and that changed, and how."""


def show_drift(
    out: Console, sites: Sequence[SiteDrift], readings: Sequence[ReadingDrift], features: Features, factor: float
) -> None:
    """Print a row for each site, one for each reading, and what the words mean."""
    rows = [
        (
            str(one.site.compact),
            _number(one.moved, 3),
            *(_number(value, 3) for value in one.fvu),
            *(_number(value, 1) for value in one.l0),
            *map(str, one.dead),
            *(str(len(part)) for part in (one.died, one.alive, one.rates, one.means)),
        )
        for one in sites
    ]
    print_rows(out, _TITLES, rows, main=6, words=())
    every, changed = sum(one.d_sae for one in sites), sum(len(one.changed) for one in sites)
    out.print(f"{changed:,} of {every:,} features changed, on {sites[0].tokens:,} tokens; there: on the other model")
    out.print(
        f"Moved: squared change of the activations over their variance. Died, Alive: fire at 10 tokens or more on one "
        f"model alone. Rate, Mean: share of tokens above 0, and mean over all tokens, {factor:g} times as large or "
        f"small; by Wilcoxon's signed-rank test over texts, 5 % false discoveries",
        soft_wrap=True,
    )
    for one in sites:
        if largest := [f"{change.index} ({change.before:.2g} to {change.after:.2g})" for change in one.rates[:_SHOWN]]:
            out.print(f"{one.site.name}: rates that changed most: {', '.join(largest)}", soft_wrap=True)
    if readings:
        _show_readings(out, readings)
    for policy, named in features.items():
        said = "; ".join(f"{name} {how}" for name, how in named.items()) or "none"
        out.print(f"features of policy {policy} that changed: {said}", soft_wrap=True)


def _show_readings(out: Console, readings: Sequence[ReadingDrift]) -> None:
    rows = [
        (
            f"{one.policy} {one.rule}: {one.name} {'below' if one.below else 'above'} {short(one.bound)}",
            one.place,
            *map(percent, one.beyond),
            f"{one.p:.2g}",
            *_separation(one),
            "moved" if one.moved else "",
        )
        for one in readings
    ]
    out.print()
    print_rows(out, _READING_TITLES, rows, main=5, words=("Reading", "Place", ""))
    out.print(
        "Holds: conversations in which the condition holds at a token of its place; p: McNemar's exact test, corrected "
        "(Holm), and DeLong's paired test",
        soft_wrap=True,
    )


def _separation(one: ReadingDrift) -> tuple[str, str, str]:
    if one.separation is None:
        return "", "", ""
    areas = [
        f"{area:.3f} ({low:.3f} to {high:.3f})"
        for area, (low, high) in zip(one.separation.auroc, one.separation.intervals, strict=True)
    ]
    return areas[0], areas[1], f"{one.separation.p:.2g}"


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def drift_json(
    sites: Sequence[SiteDrift], readings: Sequence[ReadingDrift], features: Features
) -> list[dict[str, Any]]:
    """A row for each site, each reading and each policy as JSON; NaN is null."""
    found = []
    for one in sites:
        plain = {**asdict(one), "changed": len(one.changed)}
        found.append({"site": one.site, **{key: without_nan(value) for key, value in plain.items() if key != "site"}})
    for reading in readings:
        plain = {**asdict(reading), "beyond": [share_json(share) for share in reading.beyond], "moved": reading.moved}
        found.append({"reading": plain.pop("name"), **plain})
    return [*found, *({"policy": policy, "changed": dict(changed)} for policy, changed in features.items())]
