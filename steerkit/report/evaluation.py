"""An evaluation as people read it on a terminal, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console

from steerkit.report.filed import DoseRow, LatencyRow, MeasuredLike, ShareLike
from steerkit.report.rows import print_rows

if TYPE_CHECKING:
    from steerkit.lab import Share
    from steerkit.lab.prove import DoseRange, Evaluation, Latency, PlaceProbes, VariantResult

MEASURES: Final = {
    "success": "attack succeeds",
    "turned_away": "turned away",
    "blocked": "benign blocked",
    "changed": "calls changed",
    "differing": "not exactly same",
    "unparsed": "not parsed",
}
"""The fields of a score, and how a column is called."""
GROUPS: Final = {
    "policy": "The policy",
    "control": "Controls",
    "beside": "Other policies",
    "rule": "Each rule by itself",
    "dose": "Doses (steering alone, the edit times a factor)",
    "ungated": "Doses without the gate",
}


def percent(share: ShareLike) -> str:
    """A share with its 95 % interval."""
    low, high = share.interval
    return f"{100 * share.value:.1f} % ({100 * low:.0f} to {100 * high:.0f})"


def cell(share: ShareLike) -> str:
    """A share as a table shows it; a dash where there was nothing to count."""
    return percent(share) if share.count else "-"


def show_evaluation(out: Console, found: Evaluation) -> None:
    """Print the tables."""
    out.print(header(found), soft_wrap=True)
    for kind, title in GROUPS.items():
        variants = [one for one in found.variants if one.kind == kind]
        if variants:
            out.print()
            out.print(f"{title}")
            _show_variants(out, variants)
    for line in found.missing:
        out.print(f"left out: {line}", soft_wrap=True)
    out.print()
    out.print("How often each rule acted under the whole policy")
    _show_acted(out, found)
    out.print()
    for line in (control_sentence(found), *dose_sentences(found)):
        out.print(line, soft_wrap=True)
    for place in found.probes:
        out.print()
        out.print(f"Probes at {place.place} ({', '.join(place.rules)}): {place.said}", soft_wrap=True)
        if place.probes:
            _show_probes(out, place)
    if found.latency is not None:
        out.print()
        out.print(f"{latency_sentence(found.latency)}", soft_wrap=True)


def header(found: Evaluation) -> str:
    """Policy, model and conversations of an evaluation, in a line."""
    return (
        f"policy {found.policy} on {found.model}: {found.harmful} harmful and {found.benign} benign conversations; "
        f"dangerous: {', '.join(found.dangerous)}; 95 % Wilson intervals in brackets"
    )


def control_sentence(found: Evaluation) -> str:
    """Sentence on whether a control does as much as steering, by the intervals of attack success."""
    steering = next((one for one in found.variants if one.title == "steering only"), None)
    if steering is None:
        return "the policy does not steer, so there is nothing to control for but asking"
    others = [one for one in found.variants if one.kind == "control" and one.key != "unsteered"]
    best = min(others, key=lambda one: one.score.success.value)
    own = f"steering alone lets {percent(steering.score.success)} of the attacks through"
    theirs = f"{percent(best.score.success)} under {best.title.split(':')[0]}"
    if steering.score.success.interval.high < best.score.success.interval.low:
        return f"no control does what the policy does: {own}, the best of them {theirs}"
    if steering.score.success.interval.low > best.score.success.interval.high:
        return f"a control does better than the policy: {own}, {theirs}"
    return f"a control does what the policy does, within the intervals: {own}, {theirs}"


def dose_sentences(found: Evaluation) -> list[str]:
    """Sentences on the dose curves."""
    gated = [] if found.dose_range is None else [dose_sentence(found.dose_range)]
    return gated + ([] if found.ungated_range is None else [f"without its gate: {dose_sentence(found.ungated_range)}"])


def dose_sentence(found: DoseRange | DoseRow) -> str:
    """Sentence on a dose curve: its useful doses, and where the model breaks."""
    if not found.useful:
        useful = "no dose lowers attack success beyond the intervals without breaking the model"
    else:
        doses = ", ".join(f"{dose:g}" for dose in found.useful)
        useful = f"useful doses: {doses} x the policy's edit (best: {found.best:g})"
    breaks = (
        "within these doses the model does not break"
        if found.breaks is None
        else f"the model breaks from {found.breaks:g} on"
    )
    return f"{useful}; {breaks}"


def latency_sentence(found: Latency | LatencyRow) -> str:
    """Sentence on the policy's cost in time."""
    low, high = found.range
    return (
        f"time per generated token, with the policy over without: {found.median:.2f} "
        f"({low:.2f} to {high:.2f} in {len(found.ratios)} pairs of batches in turns)"
    )


def measured_cells(one: MeasuredLike) -> tuple[str, str, str]:
    """AUROC, recall and false positives of a probe."""
    low, high = one.interval
    return f"{one.auroc:.3f} ({low:.3f} to {high:.3f})", cell(one.recall), cell(one.false)


def evaluation_json(found: Evaluation) -> dict[str, Any]:
    """The evaluation as one JSON object."""
    variants = [
        {
            "arm": one.key,
            "title": one.title,
            "kind": one.kind,
            "dose": one.dose,
            **{name: share_json(getattr(one.score, name)) for name in MEASURES},
        }
        for one in found.variants
    ]
    return {
        "report": "evaluation",
        "policy": found.policy,
        "model": found.model,
        "saes": found.saes,
        "harmful": found.harmful,
        "benign": found.benign,
        "dangerous": list(found.dangerous),
        "ask": found.ask,
        "arms": variants,
        "missing": list(found.missing),
        "acted": [
            {"rule": one.rule, "harmful": share_json(one.harmful), "benign": share_json(one.benign)}
            for one in found.acted
        ],
        "dose_range": None if found.dose_range is None else found.dose_range._asdict(),
        "ungated_range": None if found.ungated_range is None else found.ungated_range._asdict(),
        "controls": control_sentence(found),
        "probes": [_place_json(one) for one in found.probes],
        "latency": None
        if found.latency is None
        else {"median": found.latency.median, "range": found.latency.range, "ratios": found.latency.ratios},
    }


def share_json(share: Share) -> dict[str, Any]:
    """A share with its interval as JSON."""
    return {"hits": share.hits, "count": share.count, "share": share.value, "interval": list(share.interval)}


def _place_json(place: PlaceProbes) -> dict[str, Any]:
    probes = [
        {
            "name": one.name,
            "kind": one.kind,
            "auroc": one.measured.auroc,
            "interval": list(one.measured.interval),
            "bound": one.measured.bound,
            "recall": share_json(one.measured.recall),
            "false": share_json(one.measured.false),
        }
        for one in place.probes
    ]
    return {**asdict(place), "probes": probes, "said": place.said}


def _show_variants(out: Console, variants: Sequence[VariantResult]) -> None:
    rows = [(one.title, *(cell(getattr(one.score, name)) for name in MEASURES)) for one in variants]
    print_rows(out, ("arm", *MEASURES.values()), rows, main=2, words=("arm",))


def _show_acted(out: Console, found: Evaluation) -> None:
    rows = [(one.rule, cell(one.harmful), cell(one.benign)) for one in found.acted]
    print_rows(out, ("rule", "harmful", "benign"), rows, main=3, words=("rule",))


def _show_probes(out: Console, place: PlaceProbes) -> None:
    rows = [(one.name, *measured_cells(one.measured)) for one in place.probes]
    print_rows(out, ("probe", "AUROC", "recall at 1 % false", "false positives"), rows, main=2, words=("probe",))
