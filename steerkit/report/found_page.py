"""Found features as a page with figures."""

from __future__ import annotations

from typing import Any

from steerkit.report.charts import Bar, ShareFigure, counted, share_figure
from steerkit.report.filed import FoundReport, MeasuredShare, SteeringRow
from steerkit.report.found_words import auroc_text, share_text


def found_values(found: FoundReport) -> dict[str, Any]:
    """The variables of `found.html`."""
    steering = found.turned
    return {
        "found": found,
        "tiles": _tiles(found),
        "aurocs": _aurocs(found),
        "steering": steering,
        "ways": [] if steering is None else [steering, *steering.beaten],
        "stopped": None if steering is None else _stopped(steering),
        "auroc": auroc_text,
        "share": share_text,
    }


def _tiles(found: FoundReport) -> list[tuple[str, str]]:
    chosen, held = found.chosen_on, found.held_out
    values = [
        ("tell them apart", f"{found.significant:,} of {found.tests:,}"),
        ("chosen on", f"{chosen[0]} + {chosen[1]}"),
        ("measured on", f"{held[0]} + {held[1]}"),
        ("smallest p", f"{found.least_p:.2g}"),
    ]
    if found.probe is not None:
        values.append(("probe's AUROC", f"{found.probe.measured.auroc:.3f}"))
    if found.turned is not None:
        values.append(("calls stopped", counted(found.turned.stopped)))
    return values


def _aurocs(found: FoundReport) -> ShareFigure:
    rows = [(one.name, one.measured, "cold") for one in found.features]
    if found.probe is not None:
        rows.insert(0, (f"probe of {len(found.probe.weights)}", found.probe.measured, "hot"))
    if found.raw is not None:
        rows.insert(0, ("raw activations", found.raw.measured, "hot"))
    bars = [
        Bar(name, one.auroc, *one.interval, f"recall {100 * one.recall.value:.0f} %", colour)
        for name, one, colour in rows
    ]
    return share_figure(bars, "AUROC of probes and of single features", start=0.5, percent=False)


def _stopped(steering: SteeringRow) -> ShareFigure:
    """The calls that edits turn, beside the controls."""
    controls = steering.controls
    rows: list[tuple[str, MeasuredShare, str]] = [
        ("the edits", steering.turned, "hot"),
        ("random directions", controls.random, "cold"),
        ("random decoder rows", controls.rows, "cold"),
        ("the opposite", controls.opposite, "cold"),
        ("difference of means", controls.difference, "cold"),
    ]
    bars = [Bar(name, one.value, *one.interval, counted(one), how) for name, one, how in rows]
    return share_figure(bars, "Calls that are no longer opened, by what is written")
