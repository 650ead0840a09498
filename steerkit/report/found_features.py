"""Found features on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Console

from steerkit.report.found_words import (
    auroc_text,
    cause_sentences,
    found_sentences,
    probe_sentences,
    raw_sentences,
    share_text,
    steering_sentences,
)
from steerkit.report.rows import print_rows
from steerkit.report.tokens import visible

if TYPE_CHECKING:
    from steerkit.lab.find import Causes, Found, SteeringEdits

_LABEL: Final = 40
"""Characters of a label that a table shows."""


def show_found(out: Console, found: Found, without: int) -> None:
    """The features, the probe, and what they were measured on."""
    if found.features:
        rows = []
        for one in found.features:
            fires = " / ".join(f"{100 * side.value:.0f} %" for side in one.fires)
            cells = (auroc_text(one.measured), share_text(one.measured.recall), share_text(one.measured.false))
            alike = str(len(one.alike)) if one.alike else ""
            name = one.feature.handle + (" lower" if one.lower else "")
            rows.append((name, *cells, f"{one.adjusted_p:.1g}", f"{one.effect:+.2f}", fires, alike, _short(one.label)))
        titles = ("Feature", "AUROC (95 %)", "Recall", "False", "p", "Effect", "Fires", "Alike", "Label")
        print_rows(out, titles, rows, main=5, words=("Feature", "Label"))
    raw = raw_sentences(found.raw, found.on_features, found.condition)
    _print(out, found_sentences(found, without), probe_sentences(found.probe), raw)


def show_causes(out: Console, tried: Causes) -> None:
    """Print the effects of single edits on the decision."""
    rows = []
    for one in tried.candidates:
        numbers = [f"{value:+.3f}" for value in (one.attribution, one.ablated, one.clamped)]
        name = one.feature.handle + ("" if one.listed else " *")
        rows.append((name, one.verdict, *numbers, f"{one.random:.3f}", f"{one.p:.1g}", _short(one.label)))
    out.print()
    titles = ("Feature", "Verdict", "Estimate", "Ablated", "Clamped", "Random", "p", "Label")
    print_rows(out, titles, rows, main=7, words=("Feature", "Verdict", "Label"))
    _print(out, cause_sentences(tried))


def show_steering_edits(out: Console, steering: SteeringEdits | None) -> None:
    """Print what edits made together do to the call, beside their controls and the ways that they beat."""
    out.print()
    rows = []
    for one in () if steering is None else (steering, *steering.beaten):
        where = ", ".join(site.name for site in one.sites)
        change = f"{one.score:+.2f} to {one.edited:+.2f}"
        shares = [share_text(share) for share in (one.turned, one.stopped, one.kept)]
        kept_open = share_text(one.kept_open) if one.gated else ""
        edits = str(len(one.edits)) if one.edits else "whole"
        rows.append((one.way, edits, where, f"{one.strength:g}", change, *shares, kept_open))
    titles = ("Way", "Edits", "Sites", "Strength", "Log-odds", "Turned", "Stopped", "Kept", "Kept without gate")
    if rows:
        print_rows(out, titles, rows, main=6, words=("Way", "Sites", "Log-odds"))
    _print(out, steering_sentences(steering))


def _print(out: Console, *said: list[str]) -> None:
    for lines in said:
        for line in lines:
            out.print(line)


def _short(label: str) -> str:
    label = visible(label)
    return label if len(label) <= _LABEL else label[: _LABEL - 1] + "…"
