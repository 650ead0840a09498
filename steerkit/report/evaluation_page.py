"""An evaluation as a page of its own, with figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from steerkit.report.charts import Bar, Curve, curves, shares
from steerkit.report.evaluation import (
    GROUPS,
    MEASURES,
    cell,
    control_sentence,
    dose_sentence,
    latency_sentence,
    measured_cells,
)
from steerkit.report.page import page, text, tiles

if TYPE_CHECKING:
    from steerkit.lab.measured import Share
    from steerkit.lab.prove.evaluation import ArmResult, Evaluation
    from steerkit.lab.prove.probe_comparison import PlaceProbes

_WORDS = (
    ("attack succeeds", "of the harmful conversations, those in which a dangerous or an undeclared tool is called and "
     "no guard withholds the call"),
    ("turned away", "answered in plain text, without a call of any kind"),
    ("benign blocked", "of the benign conversations in which the plain model's calls may be run, those in which the "
     "guard withholds a call or none is made"),
    ("calls changed", "benign conversations whose calls no longer fit the plain model's by BFCL's AST match"),
    ("not exactly same", "benign ones whose calls, their order or the text differ at all"),
    ("not parsed", "replies with a malformed call, or that do not end"),
)  # fmt: skip


def eval_page(found: Evaluation) -> str:
    """The evaluation as a self-contained HTML page."""
    parts = [
        f"<h1>Policy {text(found.policy)}</h1>",
        f'<p class="lead">{text(_lead(found))}</p>',
        f'<p class="soft">{found.harmful} harmful and {found.benign} benign conversations on {text(found.model)}; '
        f"dangerous: {text(', '.join(found.dangerous))}. Shares carry their 95 % Wilson interval.</p>",
        tiles(_tiles(found)),
        "<h2>Does the attack succeed?</h2>",
        '<p class="soft">Share of the harmful conversations; controls in blue. A random edit has the norm that the '
        "policy's has, at the same tokens behind the same gate.</p>",
        shares(_bars(_compared(found), "success"), "Attack success by arm"),
        f'<p class="verdict">{_sentence(control_sentence(found))}</p>',
        "<h2>What does it cost benign calls?</h2>",
        '<p class="soft">Share of the benign conversations whose calls no longer fit the plain model\'s.</p>',
        shares(_bars(_compared(found), "changed"), "Benign calls changed by arm"),
        *_doses(found),
        *(part for kind, title in GROUPS.items() for part in _table(found, kind, title)),
        *_acted(found),
        *(part for place in found.probes for part in _probes(place)),
        *_method(found),
    ]
    return page(f"Policy {found.policy}: evaluation", "\n".join(parts))


def _lead(found: Evaluation) -> str:
    plain, whole = (found.arm(key).score for key in ("unsteered", "policy"))
    return (
        f"Attack success falls from {100 * plain.success.value:.0f} % to {100 * whole.success.value:.0f} %; "
        f"{100 * whole.blocked.value:.0f} % of benign calls are blocked, {100 * whole.changed.value:.0f} % change."
    )


def _tiles(found: Evaluation) -> list[tuple[str, str]]:
    plain, whole = (found.arm(key).score for key in ("unsteered", "policy"))
    values = [
        ("attacks, plain", f"{plain.success.hits} of {plain.success.count}"),
        ("attacks, policy", f"{whole.success.hits} of {whole.success.count}"),
        ("turned away", f"{whole.turned_away.hits} of {whole.turned_away.count}"),
        ("benign blocked", f"{whole.blocked.hits} of {whole.blocked.count}"),
        ("calls changed", f"{whole.changed.hits} of {whole.changed.count}"),
        ("not parsed", f"{whole.unparsed.hits} of {whole.unparsed.count}"),
    ]
    return values if found.latency is None else [*values, ("time per token", f"x {found.latency.median:.2f}")]


def _compared(found: Evaluation) -> list[ArmResult]:
    """The policy's arms and the controls, the unsteered model first."""
    controls = [one for one in found.arms if one.kind == "control"]
    policy = [one for one in found.arms if one.kind == "policy"]
    return [*controls[:1], *policy, *controls[1:]]


def _bars(arms: Sequence[ArmResult], name: str) -> list[Bar]:
    rows = []
    for one in arms:
        share: Share = getattr(one.score, name)
        title = one.title.split(":")[0]
        said = f"{share.hits} of {share.count}"
        rows.append(Bar(title, share.value, *share.interval, said, "cold" if one.kind == "control" else "hot"))
    return rows


def _doses(found: Evaluation) -> list[str]:
    parts = []
    for kind, title, words, said in (
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
    ):
        if said is not None:
            parts += [f"<h2>{title}</h2>", f'<p class="soft">{words}</p>', _dose_figure(found, kind, title)]
            parts.append(f'<p class="verdict">{_sentence(dose_sentence(said))}</p>')
    return parts


def _dose_figure(found: Evaluation, kind: str, label: str) -> str:
    lines = []
    for name, title, colour in (
        ("success", "attack succeeds", "a"),
        ("changed", "benign calls changed", "b"),
        ("unparsed", "replies not parsed", "c"),
    ):
        points = []
        for one in found.arms:
            if one.kind == kind:
                share: Share = getattr(one.score, name)
                points.append((one.dose or 0.0, share.value, *share.interval))
        lines.append(Curve(title, points, colour))
    return curves(lines, label, "multiples of the policy's edit")


def _sentence(said: str) -> str:
    """Words as a sentence, as markup."""
    return f"{text(said[0].upper() + said[1:])}."


def _table(found: Evaluation, kind: str, title: str) -> list[str]:
    arms = [one for one in found.arms if one.kind == kind]
    if not arms:
        return []
    head = "".join(f'<th class="number soft">{text(name)}</th>' for name in MEASURES.values())
    rows = "\n".join(
        f"<tr><td>{text(one.title)}</td>"
        + "".join(f'<td class="number">{_stacked(getattr(one.score, name))}</td>' for name in MEASURES)
        + "</tr>"
        for one in arms
    )
    return [f"<h2>{text(title)}</h2>", f"<table><tr><th></th>{head}</tr>\n{rows}\n</table>"]


def _stacked(share: Share) -> str:
    """A share over its interval."""
    if not share.count:
        return "-"
    low, high = share.interval
    return f'{100 * share.value:.1f} %<br><span class="soft">{100 * low:.0f} to {100 * high:.0f}</span>'


def _acted(found: Evaluation) -> list[str]:
    rows = "\n".join(
        f'<tr><td>{text(one.rule)}</td><td class="number">{cell(one.harmful)}</td>'
        f'<td class="number">{cell(one.benign)}</td></tr>'
        for one in found.acted
    )
    head = '<tr><th></th><th class="number soft">harmful</th><th class="number soft">benign</th></tr>'
    return [
        "<h2>How often each rule acted</h2>",
        '<p class="soft">Under the whole policy: steering wrote, or the guard decided by this rule.</p>',
        f"<table>{head}\n{rows}\n</table>",
    ]


def _probes(place: PlaceProbes) -> list[str]:
    title = f"<h2>What tells them apart at {text(place.place)}</h2>"
    said = f'<p class="verdict">{_sentence(place.said)}</p>'
    if not place.probes:
        return [title, said]
    bars = [
        Bar(
            one.name,
            one.measured.auroc,
            *one.measured.interval,
            f"recall {100 * one.measured.recall.value:.0f} %",
            "cold" if one.kind == "raw" else "hot",
        )
        for one in place.probes
    ]
    rows = "\n".join(
        f"<tr><td>{text(one.name)}</td>"
        + "".join(f'<td class="number">{value}</td>' for value in measured_cells(one.measured))
        + "</tr>"
        for one in place.probes
    )
    head = "".join(
        f'<th class="number soft">{name}</th>' for name in ("AUROC", "recall at 1 % false", "false positives")
    )
    return [
        title,
        f'<p class="soft">Read by {text(", ".join(place.rules))}; layers {place.layers[0]} to {place.layers[-1]}. '
        f"Probes and bounds were chosen on {place.fitted_on[0]} harmful and {place.fitted_on[1]} benign conversations "
        f"and measured on {place.held_out[0]} and {place.held_out[1]} others. The figure shows the AUROC; "
        "0.5 is chance.</p>",
        shares(bars, f"AUROC of probes at {place.place}", start=0.5, percent=False),
        f"<table><tr><th></th>{head}</tr>\n{rows}\n</table>",
        said,
    ]


def _method(found: Evaluation) -> list[str]:
    words = "".join(f"<p><b>{name}</b>: {said}.</p>" for name, said in _WORDS)
    missing = "".join(f'<p class="soft">Left out: {text(line)}.</p>' for line in found.missing)
    latency = "" if found.latency is None else f"<p>{_sentence(latency_sentence(found.latency))}</p>"
    return [
        "<h2>How it was measured</h2>",
        words,
        f"<p>Prompt only adds to the developer's text: “{text(found.ask)}”</p>",
        "<p>Controls of steering run without the guard. Random features, opposite sign and doses are the policy itself "
        "with other decoder rows for its edited features, so gate, tokens and norm are the same; the difference of "
        "means is taken from one half of the conversations and used on the other, with the mean norm that the policy "
        "wrote.</p>",
        latency,
        missing,
    ]
