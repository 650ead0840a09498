"""Values that several reports have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from steerkit.sites import Feature, Site


class ShareLike(Protocol):
    """A share with its 95 % interval, as it was measured or as a file has it."""

    @property
    def hits(self) -> float:
        """Numerator."""

    @property
    def count(self) -> int:
        """Denominator."""

    @property
    def value(self) -> float:
        """The share itself."""

    @property
    def interval(self) -> tuple[float, float]:
        """Low and high."""


class MeasuredLike(Protocol):
    """A separation of two sets, as it was measured or as a file has it."""

    @property
    def auroc(self) -> float:
        """Area under the curve."""

    @property
    def interval(self) -> tuple[float, float]:
        """Of the area."""

    @property
    def bound(self) -> float:
        """Chosen on the other part."""

    @property
    def recall(self) -> ShareLike:
        """Held-out positives beyond the bound."""

    @property
    def false(self) -> ShareLike:
        """Held-out negatives beyond the bound."""


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True)
class CountedShare:
    """A share without an interval."""

    hits: int | float
    count: int

    @property
    def value(self) -> float:
        """The share itself."""
        return self.hits / self.count if self.count else 0.0


@dataclass(frozen=True)
class MeasuredShare(CountedShare):
    """A measured share."""

    interval: Interval


@dataclass(frozen=True)
class Separation:
    """Separation of two sets by a number."""

    auroc: float
    interval: Interval
    bound: float
    recall: MeasuredShare
    false: MeasuredShare


@dataclass(frozen=True)
class ProbeRow(Separation):
    """A way to tell two sets apart."""

    name: str
    kind: str


@dataclass(frozen=True)
class FeatureName:
    """A feature, by the layer of its `attn_out` or by its site."""

    index: int
    layer: int | None = None
    site: str | None = None

    @property
    def feature(self) -> Feature:
        """The feature itself. Raises ValueError where the site is none."""
        return Feature(Site.of(self.layer if self.site is None else self.site), self.index)  # type: ignore[arg-type]

    @property
    def handle(self) -> str:
        """Such as `l3_72`."""
        return self.feature.handle

    @property
    def address(self) -> str:
        """Such as `3:72`, as pages and queries take it."""
        return self.feature.address
