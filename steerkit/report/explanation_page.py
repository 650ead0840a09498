"""An explanation of a call as an HTML page: the conversation, shaded by the feature that is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from steerkit.report.explanation import ExplainView, acts_at, change, name_of, reads
from steerkit.report.page import page
from steerkit.report.text import call_text
from steerkit.report.tokens import share

if TYPE_CHECKING:
    from steerkit.lab.explain import Reason


class _Token(NamedTuple):
    """A token of the conversation."""

    text: str
    marks: str
    """CSS classes: `chosen` of the token that is explained, `forced` of those that a grammar chose."""
    title: str
    style: str
    """CSS variables: its share of each feature's highest value."""


def explain_page(view: ExplainView) -> str:
    """The explanation as a self-contained HTML page; a feature is chosen by radio buttons, without a script."""
    found, verdict = view.found, view.verdict
    reasons = [*found.reasons, *found.opposing]
    numbers = [
        ("log-odds of the choice", f"{found.score:.2f}"),
        (f"go without the first {len(found.reasons)}", f"{found.without.lost:+.2f}"),
        ("without as many random ones", _mean([one.lost for one in found.controls])),
        ("features until it changes", "-" if found.turning is None else str(len(found.turning.features))),
    ]
    return page(
        "explanation.html",
        view=view,
        found=found,
        call=call_text(view.call),
        verdict=verdict,
        rule=f"{verdict.policy + '/' if verdict.policy else ''}{verdict.rule}",
        tiles=numbers,
        reasons=reasons,
        high=max((abs(one.role.effect) for one in reasons), default=0.0),
        conversation=_conversation(view, reasons),
        name_of=name_of,
        acts_at=acts_at,
        change=change,
        reads=reads,
    )


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):+.2f}" if values else "-"


def _conversation(view: ExplainView, reasons: Sequence[Reason]) -> list[tuple[str, list[_Token]]]:
    """Tokens by the message or part that they belong to."""
    found = view.found
    length = len(found.tokens)
    effects = [sum(abs(one.role.effects[at]) for one in reasons if at < len(one.role.effects)) for at in range(length)]
    curves = [effects, *([*one.role.values, *[0.0] * (length - len(one.role.values))] for one in reasons)]
    highs = [max(curve, default=0.0) for curve in curves]
    runs = groupby(range(length), key=found.sources.__getitem__)
    return [(source, [_token(view, reasons, curves, highs, at) for at in run]) for source, run in runs]


def _token(
    view: ExplainView,
    reasons: Sequence[Reason],
    curves: Sequence[Sequence[float]],
    highs: Sequence[float],
    at: int,
) -> _Token:
    shares = [share(curve[at], high) for curve, high in zip(curves, highs, strict=True)]
    style = ";".join(f"--s{number}:{value:.2f}" for number, value in enumerate(shares) if value >= 0.005)
    active = [
        f"{name_of(one)} {curve[at]:.3g}" for one, curve in zip(reasons, curves[1:], strict=True) if curve[at] > 0
    ]
    chosen, forced = at == view.found.choice.position + 1, view.found.grammar_chose(at)
    marks = " ".join(["chosen"] * chosen + ["forced"] * forced)
    title = "; ".join([f"token {at}", *["chosen by a grammar"] * forced, *active])
    return _Token(view.found.tokens[at], marks, title, style)
