"""An explanation of a call as a page of its own: the conversation, shaded by the feature that is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING, Final

from steerkit.report.explanation import ExplainView, acts_at, change, name_of, reads
from steerkit.report.page import page, text, tiles
from steerkit.report.text import call_text
from steerkit.report.tokens import drawn, share
from steerkit.types import Site

if TYPE_CHECKING:
    from steerkit.lab.explain.explanation import Reason

_STYLE: Final = """
.beside { display: grid; grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); gap: 0.8rem; margin-top: 1rem; }
.beside > div { padding: 0.8rem 1rem; background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  overflow-wrap: anywhere; }
.call { font: 1rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
.decision { font-weight: 600; letter-spacing: 0.03em; }
.allow { color: #1c7c43; } .flag, .retry, .hold { color: #a65f00; } .deny, .stop { color: #b3261e; }
@media (prefers-color-scheme: dark) { .allow { color: #6fcf97; } .flag, .retry, .hold { color: #f2b45c; }
  .deny, .stop { color: #ff8a80; } }
.talk > p { margin: 0.9rem 0 0; }
.talk .chosen { outline: 2px solid var(--ink); outline-offset: 1px; }
.why label { display: block; cursor: pointer; }
.why input { margin: 0 0.4rem 0 0; accent-color: rgb(var(--hot)); }
.why td:first-child { width: 34%; }
.why .bar { width: 12%; }
.against .bar span { background: rgb(var(--cold) / 0.85); }
.sides { display: grid; grid-template-columns: minmax(0, 1fr); gap: 0 1.5rem; }
tr:has(input:checked) > * { background: rgb(var(--hot) / 0.1); }
.head > * { color: var(--soft); font-size: 0.8rem; }
@media (max-width: 40rem) { .beside { grid-template-columns: minmax(0, 1fr); } }
"""


def explain_page(view: ExplainView) -> str:
    """The explanation as a self-contained HTML page; a feature is chosen by radio buttons, without a script."""
    found = view.found
    reasons = [*found.reasons, *found.opposing]
    numbers = [
        ("log-odds of the choice", f"{found.score:.2f}"),
        (f"go without the first {len(found.reasons)}", f"{found.without.lost:+.2f}"),
        ("without as many random ones", _mean([one.lost for one in found.controls])),
        ("features until it changes", "-" if found.turning is None else str(len(found.turning.features))),
    ]
    body = [
        "<h1>Why this call</h1>",
        f'<p class="soft">record {text(found.record)}, call {found.call}</p>',
        '<div class="beside">',
        f'<div class="call">{text(call_text(view.call))}</div>',
        _verdict(view),
        "</div>",
        f'<p class="lead">{text(view.choice)}</p>',
        *(f'<p class="soft">{text(remark)}</p>' for remark in view.remarks),
        tiles(numbers),
        *(f"<p>{text(line)}</p>" for line in view.together),
        "<h2>The features, by layer</h2>",
        '<p class="soft">Log-odds of the choice that go when a feature is 0: by estimate, ablated at every token, at '
        "the choice's step alone, and of a random feature in its place. Choose one to see where it is active.</p>",
        '<div class="why">',
        '<label><input type="radio" name="feature" id="f0" checked> all of them: where they act</label>',
        *(_site(view, site, reasons) for site in found.layers),
        "</div>",
        "<h2>The conversation</h2>",
        '<p class="soft">Shaded by the chosen feature; framed is the token that is explained. A title says what the '
        "features are at a token.</p>",
        _talk(view, reasons),
    ]
    rules = "".join(
        f"body:has(#f{number}:checked) .talk span {{ --share: var(--s{number}, 0); }}\n"
        for number in range(len(reasons) + 1)
    )
    return page(f"Why {call_text(view.call)}", "\n".join(body), _STYLE + rules)


def _verdict(view: ExplainView) -> str:
    verdict = view.verdict
    rule = f"{verdict['policy'] + '/' if verdict['policy'] else ''}{verdict['rule']}"
    # The decision is one of a closed set, but a record is foreign text.
    return (
        f'<div><span class="decision {text(str(verdict["decision"]))}">{text(str(verdict["decision"]).upper())}</span> '
        f'{text(rule)}<br><span class="soft">{text(str(verdict["reason"]))}</span></div>'
    )


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):+.2f}" if values else "-"


def _site(view: ExplainView, site: Site, reasons: Sequence[Reason]) -> str:
    """The listed features of one site, and all its features together."""
    high = max((abs(one.role.effect) for one in reasons), default=0.0)
    rows = "".join(
        _row(view, number, one, high) for number, one in enumerate(reasons, start=1) if one.feature.site == site
    )
    titles = ("", "", "estimate", "ablated", "at the choice", "random", "reads")
    head = "".join(f'<td class="{"number" if 2 <= n <= 5 else ""}">{title}</td>' for n, title in enumerate(titles))
    table = f'<table><tr class="head">{head}</tr>{rows}</table>' if rows else ""
    total = f"all its features together {view.found.layers[site]:+.2f}, by estimate"
    return f'<p><b>{site.name.capitalize()}</b> <span class="soft">{total}</span></p>{table}'


def _row(view: ExplainView, number: int, one: Reason, high: float) -> str:
    side = "" if one.role.effect > 0 else ' class="against"'
    changes = "".join(
        f'<td class="number">{text(change(part))}</td>' for part in (one.ablated, one.at_choice, one.control_ablated)
    )
    return (
        f'<tr{side}><td><label><input type="radio" name="feature" id="f{number}">{name_of(one)} '
        f'<span class="soft">{text(one.label or "no label")}<br>at {text(acts_at(view.found, one))}</span></label></td>'
        f'<td class="bar"><span style="--share:{share(abs(one.role.effect), high):.2f}"></span></td>'
        f'<td class="number">{one.role.effect:+.2f}</td>{changes}<td>{text(reads(one))}</td></tr>'
    )


def _talk(view: ExplainView, reasons: Sequence[Reason]) -> str:
    """The tokens, a heading where what they belong to changes."""
    found = view.found
    length = len(found.tokens)
    effects = [sum(abs(one.role.effects[at]) for one in reasons if at < len(one.role.effects)) for at in range(length)]
    curves = [effects, *([*one.role.values, *[0.0] * (length - len(one.role.values))] for one in reasons)]
    highs = [max(curve, default=0.0) for curve in curves]
    parts = []
    for source, run in groupby(range(length), key=found.sources.__getitem__):
        spans = "<wbr>".join(_span(view, reasons, curves, highs, at) for at in run)
        parts.append(f'<p class="soft">{text(source)}</p><div class="tokens">{spans}</div>')
    return f'<div class="talk">{"".join(parts)}</div>'


def _span(
    view: ExplainView,
    reasons: Sequence[Reason],
    curves: Sequence[Sequence[float]],
    highs: Sequence[float],
    at: int,
) -> str:
    """One token with its share of each feature's highest value."""
    found = view.found
    shares = [share(curve[at], high) for curve, high in zip(curves, highs, strict=True)]
    style = ";".join(f"--s{number}:{value:.2f}" for number, value in enumerate(shares) if value >= 0.005)
    active = [
        f"{name_of(one)} {curve[at]:.3g}" for one, curve in zip(reasons, curves[1:], strict=True) if curve[at] > 0
    ]
    title = "; ".join([f"token {at}", *active])
    chosen = ' class="chosen"' if at == found.choice.position + 1 else ""
    marks = f' style="{style}"' if style else ""
    return f'<span{chosen} title="{title}"{marks}>{escape(drawn(found.tokens[at]))}</span>'
