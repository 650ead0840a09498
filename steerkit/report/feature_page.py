"""One feature as a page of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from steerkit.report.feature import FeatureView
from steerkit.report.page import page, shaded, text, tiles
from steerkit.report.tokens import share

if TYPE_CHECKING:
    from steerkit.lab.find.top_logits import TokenScore


def feature_page(view: FeatureView) -> str:
    """The view as a self-contained HTML page."""
    label = view.label or "no label yet"
    return page(
        f"{view.title}: {label}",
        "\n".join(
            [
                f"<h1>{text(view.title.capitalize())}</h1>",
                f'<p class="lead">{text(label)}</p>',
                f'<p class="soft">{view.kind} SAE on {view.contexts.feature.site.point}, {text(view.model)}; '
                f"{text(view.fires)} of {text(view.data)}</p>",
                "<h2>Statistics</h2>",
                f'<p class="soft">Raw activation, from {text(view.statistics_from)}; q99 is what 99 % of the tokens do '
                "not exceed.</p>",
                tiles(view.numbers),
                "<h2>Where it is strongest</h2>",
                _contexts(view),
                "<h2>What its decoder row writes</h2>",
                '<p class="soft">The logit that the direction adds to each token through the norms and the '
                "unembedding, in standard deviations over the vocabulary; later layers are left out.</p>",
                f'<div class="columns">{_scores("Promoted", "", view.tokens.promoted)}'
                f"{_scores('Suppressed', 'cold', view.tokens.suppressed)}</div>",
            ]
        ),
    )


def _contexts(view: FeatureView) -> str:
    best = view.contexts.best
    if not best:
        return f'<p class="soft">Nowhere: it is 0 at every token of {text(view.data)}.</p>'
    rows = "\n".join(
        f'<tr><td class="number">{one.value:.4g}<br>'
        f'<span class="soft">text {one.text}, token {one.position}</span></td>'
        f"<td>{shaded(one.tokens, one.values, best[0].value, one.position - one.start)}</td></tr>"
        for one in best
    )
    return (
        f'<p class="soft">One context of a text of {text(view.data)} at most, and the same tokens once; shaded by '
        f"activation, a token's value is its title.</p>\n<table>\n{rows}\n</table>"
    )


def _scores(title: str, kind: str, scores: Sequence[TokenScore]) -> str:
    if not scores:
        return f'<section><p class="soft">{title}</p><p>None.</p></section>'
    high = max(abs(one.score) for one in scores)
    rows = "".join(
        f'<tr><td class="tokens"><span title="token {one.id}">{text(one.token)}</span></td>'
        f'<td class="bar"><span style="--share:{share(abs(one.score), high):.2f}"></span></td>'
        f'<td class="number">{one.score:+.2f}</td></tr>'
        for one in scores
    )
    return f'<section class="{kind}"><p class="soft">{title}</p><table>{rows}</table></section>'
