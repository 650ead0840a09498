"""Probes on SAE features against probes on raw activations, at the places that a policy reads.

Probes are fitted on one half of the conversations and measured on the other; equal conversations stay on one side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from steerkit.engine import LoadedModel
from steerkit.lab.cases import Case, place_maxima, steps_at, sums_at
from steerkit.lab.copies import weights_of
from steerkit.lab.extra import check_extra
from steerkit.lab.material import FEWEST, copies_among
from steerkit.lab.measured import Measured, measure
from steerkit.lab.policy_conditions import PlacedReading, Sum, placed_readings, sum_of
from steerkit.lab.ranking import rank_features, split
from steerkit.lab.sparse_probe import dense_probe, sparse_probe
from steerkit.lab.two_sample import auroc_gain
from steerkit.policy import Policy
from steerkit.sae import SaeSet
from steerkit.sites import Feature, Site
from steerkit.types import Place

MOST: Final = 16
"""Features that the sparse probe may combine."""
_SCREENED: Final = 1_000
_LEVEL: Final = 0.05


@dataclass(frozen=True)
class ProbeResult:
    """One way to tell harmful conversations apart."""

    name: str
    kind: str
    """`policy`: what the policy itself reads; `sparse`: a few SAE features; `features`: all; `raw`: the activations."""
    measured: Measured


@dataclass(frozen=True)
class PlaceProbes:
    """The probes at one place that a policy reads."""

    place: Place
    rules: tuple[str, ...]
    """Rules that read there."""
    layers: tuple[int | str, ...]
    """Layers that the policy reads there, and all lower ones."""
    fitted_on: tuple[int, int]
    """Harmful and benign conversations with a step at the place that probes and bounds were chosen on."""
    held_out: tuple[int, int]
    probes: tuple[ProbeResult, ...]
    """Empty where there are too few conversations."""
    gain: float
    """By how much the held-out AUROC of all SAE features exceeds that of the raw activations."""
    p_features: float
    """One-sided p value that the features are better (DeLong's paired test)."""
    p_raw: float
    """One-sided p value that the raw activations are better."""

    @property
    def said(self) -> str:
        """Verdict on the SAE features, in words."""
        if not self.probes:
            return f"too few conversations reach {self.place} to fit and measure a probe"
        by_kind = {one.kind: one.measured.auroc for one in self.probes}
        pair = f"AUROC {by_kind['features']:.3f} against {by_kind['raw']:.3f}"
        if self.p_features < _LEVEL:
            return f"SAE features tell them apart better than raw activations do: {pair}, p = {self.p_features:.2g}"
        if self.p_raw < _LEVEL:
            return f"raw activations tell them apart better than SAE features do: {pair}, p = {self.p_raw:.2g}"
        return (
            f"SAE features buy no detection here that {sum(self.held_out)} conversations can show: {pair}; they buy a "
            f"condition that can be read, and an edit"
        )


def read_places(policy: Policy) -> dict[Place, list[PlacedReading]]:
    """By place, the readings that decide there."""
    found: dict[Place, list[PlacedReading]] = {}
    for one in placed_readings(policy):
        found.setdefault(one.place, []).append(one)
    return found


def gate_probes(
    loaded: LoadedModel,
    saes: SaeSet,
    policy: Policy,
    cases: Sequence[Case],
    harmful: Sequence[bool],
    seed: int = 0,
) -> list[PlaceProbes]:
    """The probes at every place that the policy's gates and evidence read.

    Args:
        loaded: the model.
        saes: the set.
        policy: raw.
        cases: prompts with the plain model's replies.
        harmful: which of them are harmful.
        seed: of the split.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    check_extra("comparing probes")
    found = []
    for place, readings in read_places(policy).items():
        placed = [case._replace(steps=steps_at(loaded, case, place)) for case in cases]
        numbers = [number for number, case in enumerate(placed) if case.steps]
        some, positive = [placed[n] for n in numbers], torch.tensor([bool(harmful[n]) for n in numbers])
        rules = tuple(dict.fromkeys(one.rule for one in readings))
        reads = [sum_of(policy, one.reading) for one in readings]
        top = max(latent.site for one in reads for latent in one.weights)
        lower = SaeSet(saes.name, [one for site, one in saes.checkpoints.items() if site <= top])
        if not lower:
            continue  # no features there to compare with
        found.append(_at_place(loaded, lower, place, rules, some, positive, reads, seed))
    return found


def _at_place(
    loaded: LoadedModel,
    saes: SaeSet,
    place: Place,
    rules: tuple[str, ...],
    cases: Sequence[Case],
    positive: Tensor,
    reads: Sequence[Sum],
    seed: int,
) -> PlaceProbes:
    layers = tuple(site.compact for site in saes)
    groups = copies_among(cases).groups
    weights = weights_of(groups, positive)
    if min(float(weights[side].sum()) for side in (positive, ~positive)) < FEWEST - 0.5:
        return PlaceProbes(place, rules, layers, (0, 0), (0, 0), (), 0.0, 1.0, 1.0)
    chosen, held = split(groups, positive, 0.5, seed)
    fitted_on, held_out = (
        (
            round(float(weights[rows] @ positive[rows].double())),
            round(float(weights[rows] @ (~positive[rows]).double())),
        )
        for rows in (chosen, held)
    )
    if min(*fitted_on, *held_out) < 2:
        return PlaceProbes(place, rules, layers, fitted_on, held_out, (), 0.0, 1.0, 1.0)
    there = place_maxima(loaded, saes, cases)
    table = there.largest
    scores: list[tuple[str, str, Tensor]] = []
    for one in dict.fromkeys((read.name, read.below) for read in reads):
        read = next(read for read in reads if (read.name, read.below) == one)
        values = sums_at(loaded, saes, cases, table, read.weights, read.bias)
        scores.append((read.name, "policy", -values if read.below else values))
    scores.append(_sparse(loaded, saes, cases, table, positive, chosen, groups, seed))
    for name, kind, by_layer in (
        ("all SAE features", "features", table),
        ("raw activations", "raw", there.activations),
    ):
        scores.append((name, kind, _dense(torch.cat(list(by_layer.values()), dim=1), positive, chosen, weights)))
    by_kind = {kind: values[held] for _, kind, values in scores}
    features, raw = by_kind["features"], by_kind["raw"]
    gain, p_features = auroc_gain(features, raw, positive[held], weights[held])
    _, p_raw = auroc_gain(raw, features, positive[held], weights[held])
    results = tuple(ProbeResult(name, kind, measure(s, positive, chosen, held, groups)) for name, kind, s in scores)
    return PlaceProbes(place, rules, layers, fitted_on, held_out, results, gain, p_features, p_raw)


def _sparse(
    loaded: LoadedModel,
    saes: SaeSet,
    cases: Sequence[Case],
    table: Mapping[Site, Tensor],
    positive: Tensor,
    chosen: Tensor,
    groups: Sequence[int],
    seed: int,
) -> tuple[str, str, Tensor]:
    """A probe of a few features as a policy could write one, read as a policy reads it: the largest sum."""
    screened: Sequence[Feature] = rank_features(table, chosen, positive, weights_of(groups, positive)).features[
        :_SCREENED
    ]
    if not screened:
        return "no SAE feature varies", "sparse", torch.zeros(len(cases))
    values = torch.stack([table[feature.site][chosen, feature.index] for feature in screened], dim=1)
    fit = sparse_probe(values, positive[chosen], MOST, seed, [groups[row] for row in chosen.tolist()])
    pairs = zip(fit.columns.tolist(), fit.weights.tolist(), strict=True)
    weights = {screened[column]: weight for column, weight in pairs}
    return f"a probe of {len(weights)} SAE features", "sparse", sums_at(loaded, saes, cases, table, weights, fit.bias)


def _dense(values: Tensor, positive: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """`(n,)` log-odds of a probe on all columns."""
    fitted, bias = dense_probe(values[chosen], positive[chosen], weights[chosen])
    return torch.add(values.double() @ fitted, bias).float()
