"""All that is shown of one feature, and how it looks on a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.text import Text

from steerkit.report.filed import ContextRow, FeatureReport, TokenRow
from steerkit.report.tokens import shaded_text, visible

if TYPE_CHECKING:
    from steerkit.lab.find import DecoderTokens, FeatureContexts
    from steerkit.sae import Kind


class FeatureView(NamedTuple):
    """One feature as `steerkit features show` finds it."""

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
    weights: Mapping[str, float] = MappingProxyType({})
    """Numbers of the SAE's own weights, by name."""

    @property
    def report(self) -> FeatureReport:
        """The same as a report."""
        found = self.contexts
        return FeatureReport(
            report="feature",
            layer=found.feature.layer,
            index=found.feature.index,
            label=self.label,
            model=self.model,
            saes=self.saes,
            kind=self.kind,
            site=found.feature.site.point,
            data=self.data,
            tokens=found.tokens,
            active=found.active,
            statistics=dict(self.statistics),
            statistics_from=self.statistics_from,
            contexts=tuple(ContextRow(*one) for one in found.best),
            promoted=tuple(TokenRow(*one) for one in self.tokens.promoted),
            suppressed=tuple(TokenRow(*one) for one in self.tokens.suppressed),
            weights=dict(self.weights),
        )


def feature_json(view: FeatureView) -> dict[str, Any]:
    """The view as one JSON object."""
    return asdict(view.report)


def show_feature(out: Console, view: FeatureView) -> None:
    """Print the view for people."""
    found = view.report
    out.print(Text.assemble((str(found.feature), "bold"), f"  {visible(view.label or '(no label)')}"), soft_wrap=True)
    out.print(f"{view.kind} SAE on {found.site}, {view.model}; {found.fires} of {view.data}", soft_wrap=True)
    numbers = Text("  ".join(f"{unit} {value}" for unit, value in found.numbers))
    _section(out, f"Statistics ({view.statistics_from})", [numbers])
    _section(out, "Strongest at", _contexts(found.contexts))
    tokens = [_tokens(end) for end in (found.promoted, found.suppressed)]
    _section(out, "Tokens that its decoder row promotes, and suppresses (logit, in standard deviations)", tokens)


def _section(out: Console, title: str, lines: Sequence[Text]) -> None:
    out.print()
    out.print(Text(title, style="bold"))
    for line in lines:
        out.print(Text("  ") + line, soft_wrap=True)  # a pipe gets unbroken lines


def _contexts(best: Sequence[ContextRow]) -> list[Text]:
    places = [f"text {one.text} token {one.position}" for one in best]
    width = max(map(len, places), default=0)
    lines = []
    for one, place in zip(best, places, strict=True):
        tokens = shaded_text(one.tokens, one.values, best[0].value, one.position - one.start)
        lines.append(Text.assemble(f"{one.value:>9.4g}  ", (f"{place:<{width}}", "dim"), "  ") + tokens)
    return lines or [Text("nowhere: it is 0 at every token")]


def _tokens(end: Sequence[TokenRow]) -> Text:
    return Text("  ".join(f"{quoted(one.token)} {one.score:+.1f}" for one in end) or "none")


def quoted(token: str) -> str:
    """A token with its blanks in sight."""
    return f"'{visible(token)}'"
