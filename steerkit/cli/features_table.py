"""How found features look on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from steerkit.lab.causes import Causes
    from steerkit.lab.finding import Found, FoundProbe, Measured, Share
    from steerkit.lab.turning import Turned
    from steerkit.types import Feature

_LABEL: Final = 40
"""Characters of a label that a table shows."""


def show_found(out: Console, found: Found, without: int) -> None:
    """The features, the probe, and what they were measured on."""
    if found.features:
        table = _table("Feature", "AUROC (95 %)", "Recall", "False", "Effect", "Fires", "p", "Alike", "Label")
        for one in found.features:
            fires = " / ".join(f"{100 * side.value:.0f} %" for side in one.fires)
            cells = (_auroc(one.measured), _share(one.measured.recall), _share(one.measured.false))
            alike = str(len(one.alike)) if one.alike else ""
            name = _name(one.feature) + (" lower" if one.lower else "")
            table.add_row(name, *cells, f"{one.effect:+.2f}", fires, f"{one.adjusted_p:.1g}", alike, _short(one.label))
        out.print(table)
    chosen, held = found.chosen_on, found.held_out
    out.print(
        f"at {found.place}: chosen on {chosen[0]} + {chosen[1]} conversations, measured on {held[0]} + {held[1]} others"
        + (f"; {without} have no step there" if without else "")
    )
    out.print(
        f"{found.significant:,} of {found.tests:,} features tell the sets apart (Benjamini-Hochberg, 5 % false "
        f"discoveries; smallest corrected p {found.least_p:.2g})"
    )
    if min(chosen[1], held[1]) < 100:
        out.print("fewer than 100 negatives on a side: a bound for 1 % false positives lets none of those it saw pass")
    if found.probe is None:
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
    """What became of the decision when single features were edited."""
    table = _table("Feature", "Estimate", "Ablated", "Clamped", "Random", "p", "Verdict", "Label")
    for one in tried.candidates:
        numbers = [f"{value:+.3f}" for value in (one.attribution, one.ablated, one.clamped)]
        name = _name(one.feature) + ("" if one.listed else " *")
        table.add_row(name, *numbers, f"{one.random:.3f}", f"{one.p:.1g}", one.verdict, _short(one.label))
    out.print()
    out.print(table)
    out.print(
        f"of the decision's log-odds ({tried.score:.2f} in {tried.count} held-out positives) this much goes when a "
        f"feature is 0 (ablated), or what it usually is in the negatives (clamped); random: directions as long as that"
    )
    out.print(
        f"the gradient's estimate ranks them as the clamps do with Spearman {tried.rank_clamped:.2f}, as the ablations "
        f"do with {tried.rank_ablated:.2f}; * brought in by the estimate alone"
    )


def show_turned(out: Console, turned: Turned | None) -> None:
    """What became of the call under the edits of one layer together."""
    if turned is None:
        out.print("\nno edits to steer by: only at reply.start, and of a layer whose features do more than chance")
        return
    out.print(
        f"\n{len(turned.edits)} features of layer {turned.layer} clamped together, strength {turned.strength:g}: the "
        f"call's log-odds go from {turned.score:+.2f} to {turned.edited:+.2f} in held-out positives (to "
        f"{turned.random:+.2f} under random directions as long; p {turned.p:.2g})"
    )
    out.print(
        f"   calls that are no longer opened: {_share(turned.turned)}, under random directions "
        f"{_share(turned.turned_random)}"
    )
    if turned.gate is not None:
        out.print("   they have a condition of their own, as the one above reads later layers:")
        _show_probe(out, turned.gate)
    if not turned.proven:
        out.print("   that is no more than chance, so a policy is written without them")


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in titles:
        words = title in ("Feature", "Verdict", "Label")
        table.add_column(title, justify="left" if words else "right")
    return table


def _short(label: str) -> str:
    return label if len(label) <= _LABEL else label[: _LABEL - 1] + "…"


def _name(feature: Feature) -> str:
    return f"l{feature.layer}_{feature.index}"


def _auroc(measured: Measured) -> str:
    low, high = measured.interval
    return f"{measured.auroc:.3f} ({low:.3f} to {high:.3f})"


def _share(share: Share) -> str:
    low, high = share.interval
    return f"{100 * share.value:.0f} % ({100 * low:.0f} to {100 * high:.0f})"
