"""One feature, as `steerkit features show --json` writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from steerkit.sites import Feature, Site


@dataclass(frozen=True)
class ContextRow:
    """Tokens around one at which the feature is strong."""

    text: int
    position: int
    value: float
    start: int
    tokens: tuple[str, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.values):
            raise ValueError(f"got {len(self.tokens)} tokens with {len(self.values)} values")


@dataclass(frozen=True)
class TokenRow:
    """A token that the decoder row promotes or suppresses."""

    token: str
    id: int
    score: float


@dataclass(frozen=True)
class FeatureReport:
    """What a feature reads and writes."""

    report: Literal["feature"]
    layer: int
    index: int
    label: str | None
    model: str
    saes: str
    kind: str
    site: str
    """Its hook point."""
    data: str
    tokens: int
    active: int
    statistics: Mapping[str, float]
    """By unit; `density` a share of the tokens, the others in raw activation."""
    statistics_from: str
    contexts: tuple[ContextRow, ...]
    promoted: tuple[TokenRow, ...]
    suppressed: tuple[TokenRow, ...]
    weights: Mapping[str, float] = field(default_factory=dict)
    """Numbers of the SAE's own weights."""

    @property
    def feature(self) -> Feature:
        """The feature itself. Raises ValueError where its hook point is none."""
        return Feature(Site(self.layer, self.site), self.index)  # type: ignore[arg-type]

    @property
    def address(self) -> str:
        """Such as `3:72`, as pages and queries take it."""
        return self.feature.address

    @property
    def title(self) -> str:
        """Name in a list, such as `Layer 3 feature 72`."""
        said = str(self.feature)
        return said[0].upper() + said[1:]

    @property
    def lead(self) -> str:
        """Its label."""
        return self.label or "no label yet"

    @property
    def fires(self) -> str:
        """Share of the data's tokens at which it fires, in words."""
        share = 100 * self.active / self.tokens if self.tokens else 0.0
        return f"above 0 at {self.active:,} of {self.tokens:,} tokens ({share:.2g} %)"

    @property
    def numbers(self) -> list[tuple[str, str]]:
        """Statistics and weights, written out."""
        both = [*self.statistics.items(), *self.weights.items()]
        return [(unit, measured(unit, value)) for unit, value in both]

    def __post_init__(self) -> None:
        _ = self.feature


def measured(unit: str, value: float) -> str:
    """A statistic as people read it."""
    return f"{100 * value:.3g} %" if unit == "density" else f"{value:.4g}"
