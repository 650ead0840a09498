"""All that is shown of one feature, and how it looks on a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.text import Text

from steerkit.report.tokens import shaded_text, visible

if TYPE_CHECKING:
    from steerkit.lab.find import Context, DecoderTokens, FeatureContexts
    from steerkit.sae import Kind


class FeatureView(NamedTuple):
    """One feature as `steerkit features show` presents it."""

    label: str | None
    model: str
    """The name that the user gave."""
    saes: str
    """Their folder or repository."""
    kind: Kind
    data: str
    """Source of the contexts."""
    contexts: FeatureContexts
    tokens: DecoderTokens
    statistics: Mapping[str, float]
    """By unit, in raw activation; `density` a share of the tokens."""
    statistics_from: str
    """The set's own file, or the data."""

    @property
    def title(self) -> str:
        """Such as `layer 3 feature 72`."""
        return str(self.contexts.feature)

    @property
    def fires(self) -> str:
        """Share of the data's tokens at which it fires, in words."""
        found = self.contexts
        return f"above 0 at {found.active:,} of {found.tokens:,} tokens ({100 * found.active / found.tokens:.2g} %)"

    @property
    def numbers(self) -> list[tuple[str, str]]:
        """The statistics, written out."""
        return [(unit, measured(unit, value)) for unit, value in self.statistics.items()]


def measured(unit: str, value: float) -> str:
    """A statistic as people read it."""
    return f"{100 * value:.3g} %" if unit == "density" else f"{value:.4g}"


def feature_json(view: FeatureView) -> dict[str, Any]:
    """The view as one JSON object."""
    found = view.contexts
    return {
        "layer": found.feature.layer,
        "index": found.feature.index,
        "label": view.label,
        "model": view.model,
        "saes": view.saes,
        "kind": view.kind,
        "site": found.feature.site.point,
        "data": view.data,
        "tokens": found.tokens,
        "active": found.active,
        "statistics": dict(view.statistics),
        "statistics_from": view.statistics_from,
        "contexts": [one._asdict() for one in found.best],
        "promoted": [one._asdict() for one in view.tokens.promoted],
        "suppressed": [one._asdict() for one in view.tokens.suppressed],
    }


def show_feature(out: Console, view: FeatureView) -> None:
    """Print the view for people."""
    out.print(Text.assemble((view.title, "bold"), f"  {visible(view.label or '(no label)')}"), soft_wrap=True)
    out.print(
        f"{view.kind} SAE on {view.contexts.feature.site.point}, {view.model}; {view.fires} of {view.data}",
        soft_wrap=True,
    )
    numbers = Text("  ".join(f"{unit} {value}" for unit, value in view.numbers))
    _section(out, f"Statistics ({view.statistics_from})", [numbers])
    _section(out, "Strongest at", _contexts(view.contexts.best))
    _section(out, "Tokens that its decoder row promotes, and suppresses (logit, in standard deviations)", _tokens(view))


def _section(out: Console, title: str, lines: Sequence[Text]) -> None:
    out.print()
    out.print(Text(title, style="bold"))
    for line in lines:
        out.print(Text("  ") + line, soft_wrap=True)  # a pipe gets unbroken lines


def _contexts(best: Sequence[Context]) -> list[Text]:
    places = [f"text {one.text} token {one.position}" for one in best]
    width = max(map(len, places), default=0)
    lines = []
    for one, place in zip(best, places, strict=True):
        tokens = shaded_text(one.tokens, one.values, best[0].value, one.position - one.start)
        lines.append(Text.assemble(f"{one.value:>9.4g}  ", (f"{place:<{width}}", "dim"), "  ") + tokens)
    return lines or [Text("nowhere: it is 0 at every token")]


def _tokens(view: FeatureView) -> list[Text]:
    ends = (view.tokens.promoted, view.tokens.suppressed)
    return [Text("  ".join(f"{quoted(one.token)} {one.score:+.1f}" for one in end) or "none") for end in ends]


def quoted(token: str) -> str:
    """A token with its blanks in sight."""
    return f"'{visible(token)}'"
