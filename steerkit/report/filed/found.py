"""A search for features, as `steerkit features find --json` writes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from steerkit.report.filed.shares import CountedShare, FeatureName, MeasuredShare, Separation


@dataclass(frozen=True)
class FoundRow:
    """A feature that tells the sets apart."""

    feature: FeatureName
    label: str
    lower: bool
    adjusted_p: float
    measured: Separation
    effect: float | None
    fires: tuple[CountedShare, CountedShare]
    alike: tuple[FeatureName, ...]

    @property
    def name(self) -> str:
        """Its handle, and its direction where that is down."""
        return self.feature.handle + (" lower" if self.lower else "")


@dataclass(frozen=True)
class WeightRow(FeatureName):
    """A feature of a probe."""

    weight: float = 0.0


@dataclass(frozen=True)
class FoundProbeRow:
    """A weighted sum of features, or of raw activations."""

    weights: tuple[WeightRow, ...]
    measured: Separation
    prevails: bool = False
    """Of activations: it does better than features."""


@dataclass(frozen=True)
class CauseRow:
    """A feature, edited by itself."""

    feature: FeatureName
    label: str
    listed: bool
    attribution: float
    ablated: float
    clamped: float
    random: float
    p: float
    verdict: str


@dataclass(frozen=True)
class CausesRow:
    """What single features do to the decision."""

    candidates: tuple[CauseRow, ...]


@dataclass(frozen=True)
class ControlsRow:
    """Calls that are no longer opened under controls."""

    random: MeasuredShare
    rows: MeasuredShare
    opposite: MeasuredShare
    difference: MeasuredShare


@dataclass(frozen=True)
class SteeringRow:
    """A way to steer."""

    way: str
    strength: float
    gated: bool
    score: float
    edited: float
    turned: MeasuredShare
    stopped: MeasuredShare
    kept: MeasuredShare
    kept_open: MeasuredShare
    controls: ControlsRow
    proven: bool
    sites: tuple[str, ...]
    beaten: tuple[SteeringRow, ...] = ()


@dataclass(frozen=True)
class Words:
    """Sentences about each part, as the terminal has them."""

    found: tuple[str, ...] = ()
    probe: tuple[str, ...] = ()
    causes: tuple[str, ...] = ()
    steering: tuple[str, ...] = ()


@dataclass(frozen=True)
class FoundReport:
    """Features that tell two sets of conversations apart."""

    report: Literal["find"]
    place: str
    chosen_on: tuple[int, int]
    held_out: tuple[int, int]
    tests: int
    significant: int
    least_p: float
    features: tuple[FoundRow, ...]
    probe: FoundProbeRow | None
    model: str
    saes: str
    sets: tuple[str, str]
    """Files of the positives and of the negatives."""
    said: Words
    notes: tuple[str, ...] = ()
    raw: FoundProbeRow | None = None
    causal: CausesRow | None = None
    turned: SteeringRow | None = None

    @property
    def title(self) -> str:
        """Name in a list."""
        return f"Features that tell {self.sets[0]} from {self.sets[1]}"

    @property
    def lead(self) -> str:
        """The result in a sentence."""
        said = f"None of {self.tests:,} features tells them apart."
        if self.features:
            best = max(self.features, key=lambda one: one.measured.auroc)
            said = (
                f"{self.significant:,} of {self.tests:,} features tell them apart; {best.name} alone has AUROC "
                f"{best.measured.auroc:.3f}."
            )
        if self.raw is not None and self.raw.prevails:
            said += f" A probe on raw activations does better: AUROC {self.raw.measured.auroc:.3f}."
        if self.turned is None or not self.turned.proven:
            return said
        return f"{said} Edits stop {self.turned.stopped.hits:g} of {self.turned.stopped.count} calls."

    def __post_init__(self) -> None:
        names = [one.feature for one in self.features]
        names += [one.feature for one in self.causal.candidates] if self.causal else []
        _ = [one.handle for one in names]
