"""Found features on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Console

from steerkit.report.rows import print_rows
from steerkit.report.tokens import visible

if TYPE_CHECKING:
    from steerkit.lab import Measured, Share
    from steerkit.lab.find import Causes, Found, FoundProbe, SteeringEdits
    from steerkit.sites import Feature

_LABEL: Final = 40
"""Characters of a label that a table shows."""


def show_found(out: Console, found: Found, without: int) -> None:
    """The features, the probe, and what they were measured on."""
    from steerkit.lab import FALSE, LEVEL, conformal_rank
    from steerkit.lab.find import fewest_to_choose_on

    if found.features:
        rows = []
        for one in found.features:
            fires = " / ".join(f"{100 * side.value:.0f} %" for side in one.fires)
            cells = (_auroc(one.measured), _share(one.measured.recall), _share(one.measured.false))
            alike = str(len(one.alike)) if one.alike else ""
            name = _name(one.feature) + (" lower" if one.lower else "")
            rows.append((name, *cells, f"{one.adjusted_p:.1g}", f"{one.effect:+.2f}", fires, alike, _short(one.label)))
        titles = ("Feature", "AUROC (95 %)", "Recall", "False", "p", "Effect", "Fires", "Alike", "Label")
        print_rows(out, titles, rows, main=5, words=("Feature", "Label"))
        out.print("sorted by AUROC, in either direction, where they were chosen; shown is what was measured, but for p")
    chosen, held = found.chosen_on, found.held_out
    out.print(
        f"at {found.place}: chosen on {chosen[0]} + {chosen[1]} conversations, measured on {held[0]} + {held[1]} others"
        + (f"; {without} have no step there" if without else "")
    )
    out.print(
        f"{found.significant:,} of {found.tests:,} features tell the sets apart (Benjamini-Hochberg, 5 % false "
        f"discoveries; smallest corrected p {found.least_p:.2g})"
    )
    allowed = max(0, conformal_rank(chosen[1], FALSE))
    out.print(
        f"a bound set on {chosen[1]} negatives holds for a new one with a chance of at most "
        f"{100 * (allowed + 1) / (chosen[1] + 1):.2g} % (wanted: {100 * FALSE:g} %)"
    )
    if found.probe is None and found.possible_p > LEVEL:
        needed = fewest_to_choose_on(found.tests)
        out.print(
            f"cannot tell: chosen on {chosen[0]} + {chosen[1]}, one feature that told the sets wholly apart would have "
            f"a corrected p of {found.possible_p:.2g}; it takes {needed} + {needed} to choose on"
        )
    elif found.probe is None:
        out.print("no finding: what the best features show is what chance shows among so many")
    else:
        _show_probe(out, found.probe)


def _show_probe(out: Console, probe: FoundProbe) -> None:
    measured, names = probe.measured, ", ".join(f"{weight:+.3g} {_name(f)}" for f, weight in probe.weights.items())
    out.print(f"probe of {len(probe.weights)}: {names}, bias {probe.bias:+.3g}")
    out.print(
        f"   AUROC {_auroc(measured)}, recall {_share(measured.recall)} at {_share(measured.false)} false positives, "
        f"bound {measured.bound:.4g}"
    )
    said = "beats every listed feature" if probe.beats else "does not beat every listed feature"
    out.print(f"   it {said} on held-out conversations (AUROC {probe.gain:+.3f}, DeLong's paired test p {probe.p:.2g})")


def show_causes(out: Console, tried: Causes) -> None:
    """Print the effects of single edits on the decision."""
    rows = []
    for one in tried.candidates:
        numbers = [f"{value:+.3f}" for value in (one.attribution, one.ablated, one.clamped)]
        name = _name(one.feature) + ("" if one.listed else " *")
        rows.append((name, one.verdict, *numbers, f"{one.random:.3f}", f"{one.p:.1g}", _short(one.label)))
    out.print()
    titles = ("Feature", "Verdict", "Estimate", "Ablated", "Clamped", "Random", "p", "Label")
    print_rows(out, titles, rows, main=7, words=("Feature", "Verdict", "Label"))
    out.print("sorted by what clamping does, those beyond the control first")
    out.print(
        f"of the decision's log-odds ({tried.score:.2f} in {tried.count} held-out positives) this much goes when a "
        f"feature is 0 (ablated), or what it usually is in the negatives (clamped); random: directions as long as that"
    )
    out.print(
        f"the gradient's estimate ranks them as the clamps do with Spearman {tried.rank_clamped:.2f}, as the ablations "
        f"do with {tried.rank_ablated:.2f}; * brought in by the estimate alone"
    )
    silent = [one for one in tried.candidates if one.verdict == "cannot tell"]
    if silent:
        out.print(
            f"cannot tell: of {len(silent)} features too few conversations say anything; the smallest corrected p that "
            f"these could have is {min(one.least_p for one in silent):.2g}"
        )


def show_steering_edits(out: Console, steering: SteeringEdits | None) -> None:
    """Print what edits made together do to the call, beside their controls and the ways that they beat."""
    from steerkit.lab import LEVEL

    out.print()
    if steering is None:
        out.print("no edits to steer by: only at reply.start, and of layers whose features do more than chance")
        return
    rows = []
    for one in (steering, *steering.beaten):
        where = ", ".join(site.name for site in one.sites)
        change = f"{one.score:+.2f} to {one.edited:+.2f}"
        shares = [_share(share) for share in (one.turned, one.stopped, one.kept)]
        kept_open = _share(one.kept_open) if one.gated else ""
        edits = str(len(one.edits)) if one.edits else "whole"
        rows.append((one.way, edits, where, f"{one.strength:g}", change, *shares, kept_open))
    titles = ("Way", "Edits", "Sites", "Strength", "Log-odds", "Turned", "Stopped", "Kept", "Kept without gate")
    print_rows(out, titles, rows, main=6, words=("Way", "Sites", "Log-odds"))
    out.print(
        "of held-out conversations: calls that the edits alone turn; that are stopped where the edits act behind their "
        "condition; negatives whose decision is kept then; the first way is the one that is written"
    )
    for one in steering.beaten:
        if one.lead is not None:
            lead, calls, kept = one.lead, one.stopped.count, one.kept.count
            out.print(
                f"   more than by {one.way}: {lead.calls:+d} of {calls} calls stopped, {lead.kept:+d} of {kept} "
                f"negatives kept (McNemar's exact test p {lead.p:.2g})"
                + ("" if one.proven else "; that way is not proven")
            )
    _show_controls(out, steering)
    if steering.gate is not None:
        out.print("   they have a condition of their own, as the one above reads later layers:")
        _show_probe(out, steering.gate)
    if not steering.proven:
        few = f"so few conversations cannot tell (smallest p possible {steering.least_p:.2g})"
        why = "that is no more than chance" if steering.least_p < LEVEL else few
        out.print(f"   {why}, so a policy is written without them")


def _show_controls(out: Console, steering: SteeringEdits) -> None:
    kind = "clamped" if any("clamp" in edit for edit in steering.edits.values()) else "shifted"
    where = steering.sites[0].name if len(steering.sites) == 1 else f"{len(steering.sites)} sites"
    what = f"{len(steering.edits)} features of {where} {kind} together"
    if steering.vectors:
        what = f"difference of means added at {where}"
    out.print(
        f"{what}, strength {steering.strength:g}: the call's log-odds go from {steering.score:+.2f} to "
        f"{steering.edited:+.2f} in held-out positives (to {steering.random:+.2f} under random directions as long; "
        f"p {steering.p:.2g})"
    )
    controls = steering.controls
    out.print(
        f"   calls that are no longer opened: {_share(steering.turned)}; under random directions "
        f"{_share(controls.random)}, random decoder rows {_share(controls.rows)}, the opposite "
        f"{_share(controls.opposite)}, the difference of means at these sites {_share(controls.difference)}"
    )
    if not steering.gated:
        out.print("   they act without a gate, as so few of the negatives' decisions change")


def _short(label: str) -> str:
    label = visible(label)
    return label if len(label) <= _LABEL else label[: _LABEL - 1] + "…"


def _name(feature: Feature) -> str:
    return feature.handle


def _auroc(measured: Measured) -> str:
    low, high = measured.interval
    return f"{measured.auroc:.3f} ({low:.3f} to {high:.3f})"


def _share(share: Share) -> str:
    low, high = share.interval
    return f"{100 * share.value:.0f} % ({100 * low:.0f} to {100 * high:.0f})"
