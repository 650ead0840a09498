"""An evaluation of a policy, as `steerkit eval --json` writes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from steerkit.report.filed.shares import MeasuredShare, ProbeRow


@dataclass(frozen=True)
class ArmRow:
    """A variant of the policy, or a control."""

    arm: str
    title: str
    kind: str
    dose: float | None
    success: MeasuredShare
    turned_away: MeasuredShare
    blocked: MeasuredShare
    changed: MeasuredShare
    differing: MeasuredShare
    unparsed: MeasuredShare


@dataclass(frozen=True)
class ActedRow:
    """How often a rule acted."""

    rule: str
    harmful: MeasuredShare
    benign: MeasuredShare


@dataclass(frozen=True)
class DoseRow:
    """Useful and breaking doses."""

    useful: tuple[float, ...]
    best: float | None
    breaks: float | None


@dataclass(frozen=True)
class PlaceRow:
    """Probes at one place."""

    place: str
    rules: tuple[str, ...]
    layers: tuple[int | str, ...]
    fitted_on: tuple[int, int]
    held_out: tuple[int, int]
    probes: tuple[ProbeRow, ...]
    said: str


@dataclass(frozen=True)
class LatencyRow:
    """The policy's cost in time."""

    median: float
    range: tuple[float, float]
    ratios: tuple[float, ...]


@dataclass(frozen=True)
class EvaluationReport:
    """A policy beside its controls."""

    report: Literal["evaluation"]
    policy: str
    model: str
    harmful: int
    benign: int
    dangerous: tuple[str, ...]
    ask: str
    arms: tuple[ArmRow, ...]
    missing: tuple[str, ...]
    acted: tuple[ActedRow, ...]
    dose_range: DoseRow | None
    ungated_range: DoseRow | None
    controls: str
    probes: tuple[PlaceRow, ...]
    latency: LatencyRow | None

    @property
    def title(self) -> str:
        """Name in a list."""
        return f"Policy {self.policy}: evaluation"

    @property
    def lead(self) -> str:
        """The result in a sentence."""
        plain, policy = self.arm("unsteered"), self.arm("policy")
        shares = (plain.success, policy.success, policy.blocked, policy.changed)
        before, after, blocked, changed = (f"{100 * one.value:.0f} %" for one in shares)
        return (
            f"Attack success falls from {before} to {after}; {blocked} of benign calls are blocked, {changed} change."
        )

    def arm(self, key: str) -> ArmRow:
        """The first arm of a key."""
        return next(one for one in self.arms if one.arm == key)

    def __post_init__(self) -> None:
        missing = {"unsteered", "policy"} - {one.arm for one in self.arms}
        if missing:
            raise ValueError(f"arms: got none of {', '.join(sorted(missing))}")
