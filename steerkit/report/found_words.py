"""Sentences on found features, for the terminal and for pages; an indented one goes on from the one before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerkit.report.filed import MeasuredLike, ShareLike

if TYPE_CHECKING:
    from steerkit.lab import Measured
    from steerkit.lab.find import Causes, Found, FoundProbe, SteeringEdits


def found_sentences(found: Found, without: int) -> list[str]:
    """Sentences on the extent of a search, and on how much of it can be chance."""
    from steerkit.lab import FALSE, LEVEL, conformal_rank
    from steerkit.lab.find import fewest_to_choose_on

    chosen, held = found.chosen_on, found.held_out
    order = "sorted by AUROC, in either direction, where they were chosen; shown is what was measured, but for p"
    allowed = max(0, conformal_rank(chosen[1], FALSE))
    said = [
        *([order] if found.features else []),
        f"at {found.place}: chosen on {chosen[0]} + {chosen[1]} conversations, measured on {held[0]} + {held[1]} others"
        + (f"; {without} have no step there" if without else ""),
        f"{found.significant:,} of {found.tests:,} features tell the sets apart (Benjamini-Hochberg, 5 % false "
        f"discoveries; smallest corrected p {found.least_p:.2g})",
        f"a bound set on {chosen[1]} negatives holds for a new one with a chance of at most "
        f"{100 * (allowed + 1) / (chosen[1] + 1):.2g} % (wanted: {100 * FALSE:g} %)",
    ]
    if found.probe is None and found.possible_p > LEVEL:
        needed = fewest_to_choose_on(found.tests)
        said.append(
            f"cannot tell: chosen on {chosen[0]} + {chosen[1]}, one feature that told the sets wholly apart would have "
            f"a corrected p of {found.possible_p:.2g}; it takes {needed} + {needed} to choose on"
        )
    elif found.probe is None:
        said.append("no finding: what the best features show is what chance shows among so many")
    return said


def probe_sentences(probe: FoundProbe | None) -> list[str]:
    """The weights of a probe, and what it buys."""
    if probe is None:
        return []
    measured = probe.measured
    names = ", ".join(f"{weight:+.3g} {feature.handle}" for feature, weight in probe.weights.items())
    beats = "beats every listed feature" if probe.beats else "does not beat every listed feature"
    return [
        f"probe of {len(probe.weights)}: {names}, bias {probe.bias:+.3g}",
        _measured_sentence(measured),
        f"   it {beats} on held-out conversations (AUROC {probe.gain:+.3f}, DeLong's paired test p {probe.p:.2g})",
    ]


def raw_sentences(raw: FoundProbe | None, on_features: object | None, taken: object | None) -> list[str]:
    """Sentences on a probe on raw activations, by how much it tells the sets apart better than what is on features,
    and which of them is taken."""
    if raw is None:
        return []
    rival, test = "the condition on features", "DeLong's paired test"
    if on_features is None:
        rival, test = "chance", "rank-sum test"
    verdict = f"its bound tells them apart no better than {rival}, which is taken as it can be read"
    if taken is raw:
        verdict = f"its bound tells them apart better than {rival}, so it is what a policy compares"
    elif taken is None:
        verdict = "that may be chance"
    where = f" at {raw.place}" if raw.place is not None else ""
    window = f", the largest mean of {raw.mean_over} tokens" if raw.mean_over is not None else ""
    return [
        f"probe on raw activations of {', '.join(site.name for site in raw.sites)}{where}{window}:",
        _measured_sentence(raw.measured),
        f"   {verdict} (AUROC {raw.gain:+.3f}, {test} p {raw.p:.2g})",
    ]


def _measured_sentence(measured: Measured) -> str:
    return (
        f"   AUROC {auroc_text(measured)}, recall {share_text(measured.recall)} at {share_text(measured.false)} false "
        f"positives, bound {measured.bound:.4g}"
    )


def cause_sentences(tried: Causes | None) -> list[str]:
    """Sentences on the numbers of single edits."""
    if tried is None:
        return []
    said = [
        "sorted by what clamping does, those beyond the control first",
        f"of the decision's log-odds ({tried.score:.2f} in {tried.count} held-out positives) this much goes when a "
        f"feature is 0 (ablated), or what it usually is in the negatives (clamped); random: directions as long as that",
        f"the gradient's estimate ranks them as the clamps do with Spearman {tried.rank_clamped:.2f}, as the ablations "
        f"do with {tried.rank_ablated:.2f}; * brought in by the estimate alone",
    ]
    silent = [one for one in tried.candidates if one.verdict == "cannot tell"]
    if silent:
        said.append(
            f"cannot tell: of {len(silent)} features too few conversations say anything; the smallest corrected p that "
            f"these could have is {min(one.least_p for one in silent):.2g}"
        )
    return said


def steering_sentences(steering: SteeringEdits | None) -> list[str]:
    """Sentences on edits made together: the call, their controls, and the ways that they beat."""
    if steering is None:
        return ["no edits to steer by: only at reply.start, and of layers whose features do more than chance"]
    said = [
        "of held-out conversations: calls that the edits alone turn; that are stopped where the edits act behind their "
        "condition; negatives whose decision is kept then; the first way is the one that is written"
    ]
    for one in steering.beaten:
        if one.lead is not None:
            lead, calls, kept = one.lead, one.stopped.count, one.kept.count
            said.append(
                f"   more than by {one.way}: {lead.calls:+d} of {calls} calls stopped, {lead.kept:+d} of {kept} "
                f"negatives kept (McNemar's exact test p {lead.p:.2g})"
                + ("" if one.proven else "; that way is not proven")
            )
    said += _control_sentences(steering)
    if steering.gates is not None:
        said += ["   they have a condition of their own, as the one above reads later layers:"]
        gates = steering.gates
        said += probe_sentences(gates.on_features)
        said += raw_sentences(gates.raw, gates.on_features, gates.best)
    return [*said, *_chance_sentences(steering)]


def _control_sentences(steering: SteeringEdits) -> list[str]:
    kind = "clamped" if any("clamp" in edit for edit in steering.edits.values()) else "shifted"
    where = steering.sites[0].name if len(steering.sites) == 1 else f"{len(steering.sites)} sites"
    what = f"{len(steering.edits)} features of {where} {kind} together"
    if steering.vectors:
        what = f"difference of means added at {where}"
    controls = steering.controls
    said = [
        f"{what}, strength {steering.strength:g}: the call's log-odds go from {steering.score:+.2f} to "
        f"{steering.edited:+.2f} in held-out positives (to {steering.random:+.2f} under random directions as long; "
        f"p {steering.p:.2g})",
        f"   calls that are no longer opened: {share_text(steering.turned)}; under random directions "
        f"{share_text(controls.random)}, random decoder rows {share_text(controls.rows)}, the opposite "
        f"{share_text(controls.opposite)}, the difference of means at these sites {share_text(controls.difference)}",
    ]
    ungated = "   they act without a gate, as so few of the negatives' decisions change"
    return said if steering.gated else [*said, ungated]


def _chance_sentences(steering: SteeringEdits) -> list[str]:
    from steerkit.lab import LEVEL

    if steering.proven:
        return []
    few = f"so few conversations cannot tell (smallest p possible {steering.least_p:.2g})"
    why = "that is no more than chance" if steering.least_p < LEVEL else few
    return [f"   {why}, so a policy is written without them"]


def auroc_text(measured: MeasuredLike) -> str:
    """An area under the curve with its interval."""
    low, high = measured.interval
    return f"{measured.auroc:.3f} ({low:.3f} to {high:.3f})"


def share_text(share: ShareLike) -> str:
    """A share with its interval, in whole percent."""
    low, high = share.interval
    return f"{100 * share.value:.0f} % ({100 * low:.0f} to {100 * high:.0f})"
