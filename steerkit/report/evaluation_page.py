"""An evaluation as a page with figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steerkit.report.charts import Bar, Curve, ShareFigure, counted, curve_figure, share_figure
from steerkit.report.evaluation import GROUPS, MEASURES, cell, dose_sentence, latency_sentence, measured_cells
from steerkit.report.filed import ArmRow, EvaluationReport, MeasuredShare, PlaceRow


def evaluation_values(found: EvaluationReport) -> dict[str, Any]:
    """The variables of `evaluation.html`."""
    compared = _compared(found)
    return {
        "found": found,
        "tiles": _tiles(found),
        "success": share_figure(_bars(compared, "success"), "Attack success by arm"),
        "changed": share_figure(_bars(compared, "changed"), "Benign calls changed by arm"),
        "dose_curves": _dose_curves(found),
        "tables": [(title, rows) for kind, title in GROUPS.items() if (rows := _of_kind(found, kind))],
        "measures": MEASURES,
        "cell": cell,
        "probes": [(one, _probe_figure(one), _probe_rows(one)) for one in found.probes],
        "latency": found.latency and latency_sentence(found.latency),
    }


def _tiles(found: EvaluationReport) -> list[tuple[str, str]]:
    plain, policy = found.arm("unsteered"), found.arm("policy")
    shares = {
        "attacks, plain": plain.success,
        "attacks, policy": policy.success,
        "turned away": policy.turned_away,
        "benign blocked": policy.blocked,
        "calls changed": policy.changed,
        "not parsed": policy.unparsed,
    }
    values = [(name, counted(one)) for name, one in shares.items()]
    return values if found.latency is None else [*values, ("time per token", f"x {found.latency.median:.2f}")]


def _compared(found: EvaluationReport) -> list[ArmRow]:
    """The policy's variants, the controls and other policies, the unsteered model first."""
    controls = _of_kind(found, "control")
    return [*controls[:1], *_of_kind(found, "policy"), *controls[1:], *_of_kind(found, "beside")]


def _of_kind(found: EvaluationReport, kind: str) -> list[ArmRow]:
    return [one for one in found.arms if one.kind == kind]


def _bars(variants: Sequence[ArmRow], name: str) -> list[Bar]:
    rows = []
    for one in variants:
        share: MeasuredShare = getattr(one, name)
        title = one.title.split(":")[0]
        said = counted(share)
        rows.append(Bar(title, share.value, *share.interval, said, "cold" if one.kind == "control" else "hot"))
    return rows


def _dose_curves(found: EvaluationReport) -> list[dict[str, Any]]:
    """Sections on the edit's strength, with its gate and without."""
    kinds = (
        (
            "dose",
            "How strong must the edit be?",
            "Steering alone, what it writes multiplied; 1 is the policy as it stands. Bands are 95 % intervals.",
            found.dose_range,
        ),
        (
            "ungated",
            "And without its gate?",
            "The same edits at every token of their place, in benign conversations too: what the gate keeps from harm.",
            found.ungated_range,
        ),
    )
    return [
        {
            "title": title,
            "words": words,
            "figure": curve_figure(_curves(found, kind), title, "multiples of the policy's edit"),
            "said": dose_sentence(said),
        }
        for kind, title, words, said in kinds
        if said is not None
    ]


def _curves(found: EvaluationReport, kind: str) -> list[Curve]:
    lines = []
    for name, title, colour in (
        ("success", "attack succeeds", "a"),
        ("changed", "benign calls changed", "b"),
        ("unparsed", "replies not parsed", "c"),
    ):
        points = []
        for one in _of_kind(found, kind):
            share: MeasuredShare = getattr(one, name)
            points.append((one.dose or 0.0, share.value, *share.interval))
        lines.append(Curve(title, points, colour))
    return lines


def _probe_figure(place: PlaceRow) -> ShareFigure:
    bars = [
        Bar(
            one.name,
            one.auroc,
            *one.interval,
            f"recall {100 * one.recall.value:.0f} %",
            "cold" if one.kind == "raw" else "hot",
        )
        for one in place.probes
    ]
    return share_figure(bars, f"AUROC of probes at {place.place}", start=0.5, percent=False)


def _probe_rows(place: PlaceRow) -> list[tuple[str, tuple[str, str, str]]]:
    return [(one.name, measured_cells(one)) for one in place.probes]
