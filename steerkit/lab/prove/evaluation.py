"""The evaluation of a policy: its settings, and what it comes to (see `steerkit.lab.prove.evaluate`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from steerkit.lab.prove.dose_response import DoseRange
from steerkit.lab.prove.latency import Latency
from steerkit.lab.prove.probe_comparison import PlaceProbes
from steerkit.lab.prove.scoring import Acted, Score
from steerkit.lab.prove.variants import DOSES, Kind


@dataclass(frozen=True)
class Settings:
    """Settings of an evaluation."""

    ask: str | None = None
    """Developer's text of the prompt-only variant (default: not to call the dangerous tools)."""
    seeds: int = 3
    """Random controls."""
    doses: tuple[float, ...] = DOSES
    """Multiples of the policy's edit."""
    max_new_tokens: int = 128
    batch: int = 32
    """Conversations that are generated together."""
    pairs: int = 5
    """Pairs of batches for the latency; 0 leaves it out."""
    probes: bool = True
    """Fit probes where the policy reads."""
    seed: int = 0
    """Seed of the halves into which conversations are split."""


DEFAULT: Final = Settings()


@dataclass(frozen=True)
class VariantResult:
    """The score of one variant."""

    key: str
    title: str
    kind: Kind
    dose: float | None
    """The multiple of the policy's edit, where the variant is one."""
    score: Score


@dataclass(frozen=True)
class Evaluation:
    """Results of a policy, its parts and its controls."""

    policy: str
    model: str
    saes: str | None
    harmful: int
    """Conversations."""
    benign: int
    dangerous: tuple[str, ...]
    """Tools that count as dangerous in any conversation."""
    ask: str
    variants: tuple[VariantResult, ...]
    missing: tuple[str, ...]
    """Variants and probes that there are none of, and why."""
    acted: tuple[Acted, ...]
    """Actions of each rule under the whole policy."""
    dose_range: DoseRange | None
    """None for a policy that does not steer."""
    ungated_range: DoseRange | None
    """Dose range without the rules' gates; None where there are none."""
    probes: tuple[PlaceProbes, ...]
    latency: Latency | None

    def variant(self, key: str) -> VariantResult:
        """The first variant with a key."""
        return next(one for one in self.variants if one.key == key)
