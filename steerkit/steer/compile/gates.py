"""Compiles the conditions of gates: into readings, into any-of-all-of terms over them, and into tables per site."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

import torch
from torch import Tensor

from steerkit.errors import PolicyError
from steerkit.policy import Condition, Gate, Policy, alternatives
from steerkit.sites import POINTS, Site
from steerkit.steer.compile.latents import Latent, in_order, weighted_sum
from steerkit.steer.gates import FOREVER, Gates, Windows
from steerkit.types import Place

MAX_TERMS = 64
"""Alternatives of one gate, once `any` and `not` are multiplied out."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One reading: a weighted sum of features and directions, over a window or not, and its bounds."""

    weights: tuple[tuple[Latent, float], ...]
    bias: float
    low: float
    high: float
    """It holds where `low < sum < high`."""
    off: float | None
    """With hysteresis: once above `low` it holds until the sum is below this."""
    window: int
    """Tokens it is read over; 1 for the token alone."""
    mean: bool
    """True if the window's mean is read instead of its largest value."""
    at: Place | None
    """Tokens that count for the window and the hysteresis; None where there is neither."""

    @property
    def site(self) -> Site:
        """The site at which the sum is complete."""
        return max((feature.site for feature, _ in self.weights), default=Site(0, POINTS[0]))


Terms: TypeAlias = tuple[tuple[tuple[Leaf, bool], ...], ...]
"""Any of these, each all of its readings, each as wanted: true or false."""


@dataclass(frozen=True, slots=True)
class GateSpec:
    """A gate as the kernel sees it."""

    terms: Terms
    at: Place
    hold: float
    """Tokens that it stays open, the one that opened it included."""

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """Its readings, each once."""
        return tuple(dict.fromkeys(leaf for term in self.terms for leaf, _ in term))

    @property
    def site(self) -> Site:
        """The site at which the gate is complete."""
        return max(leaf.site for leaf in self.leaves)

    @property
    def remembers(self) -> bool:
        """True if earlier tokens count."""
        return self.hold != 1 or any(leaf.off is not None or leaf.window > 1 for leaf in self.leaves)


@dataclass(frozen=True, slots=True)
class GateTable:
    """The gates that are complete at one site: l readings, r rules. Tensors live on the site's device."""

    leaves: slice
    """Their readings among all of the plan."""
    rules: slice
    """Their rules among all of the plan."""
    counts_at: tuple[Place | None, ...]
    """By reading, the place whose tokens count for its window and its hysteresis."""
    gates: Gates

    @property
    def counts(self) -> bool:
        """True if any reading has a window or hysteresis."""
        return self.gates.windows is not None or self.gates.off is not None


def gate_spec(policy: Policy, gate: Gate, hold: float) -> GateSpec:
    """A gate of a policy with raw quantities.

    Raises:
        PolicyError: it has too many alternatives, or none: it wants a reading to hold and not to.
    """
    every = [
        tuple(dict.fromkeys((_leaf(policy, leaf, gate.at), wanted) for leaf, _, wanted in literals))
        for literals in islice(alternatives(gate, gate.at, MAX_TERMS), MAX_TERMS + 1)
    ]
    if len(every) > MAX_TERMS:
        raise PolicyError(
            [f"policy '{policy.name}': got a gate with more than {MAX_TERMS} alternatives, expected a simpler one"]
        )
    terms = tuple(dict.fromkeys(term for term in every if len(dict(term)) == len(term)))
    if not terms:
        raise PolicyError([f"policy '{policy.name}': got a gate that can never open; it contradicts itself"])
    return GateSpec(terms, gate.at, hold)


def gate_table(
    specs: Sequence[GateSpec], leaves: slice, rules: slice, *, late: bool, device: torch.device
) -> GateTable:
    """The table of the gates that are complete at one site; `late` if one of them acts from the next token on."""
    own = own_leaves(specs)
    place = {leaf: number for number, leaf in enumerate(own)}
    every = [(number, term) for number, spec in enumerate(specs) for term in spec.terms]
    wanted, opens = torch.zeros(len(own), len(every)), torch.zeros(len(every), len(specs))
    for column, (rule, term) in enumerate(every):
        opens[column, rule] = 1
        for leaf, holds in term:
            wanted[place[leaf], column] = 1 if holds else -1
    off = torch.tensor([math.nan if leaf.off is None else leaf.off for leaf in own])
    plain = (
        wanted.shape[0] == wanted.shape[1] and bool((wanted == torch.eye(len(own))).all()) and len(specs) == len(own)
    )
    hold = torch.tensor([int(min(spec.hold, FOREVER)) for spec in specs])
    gates = Gates(
        torch.tensor([leaf.low for leaf in own], device=device),
        torch.tensor([leaf.high for leaf in own], device=device),
        any(leaf.high < math.inf for leaf in own),
        None if bool(off.isnan().all()) else off.to(device),
        _windows(own, device),
        None if plain else wanted.to(device),
        (wanted > 0).sum(dim=0).float().to(device),
        opens.to(device),
        None if bool((hold == 1).all()) else hold.to(device),
        late or bool((hold != 1).any()),
    )
    return GateTable(leaves, rules, tuple(leaf.at for leaf in own), gates)


def _windows(leaves: Sequence[Leaf], device: torch.device) -> Windows | None:
    over = {number: leaf for number, leaf in enumerate(leaves) if leaf.window > 1}
    if not over:
        return None
    sizes = torch.tensor([leaf.window for leaf in over.values()], device=device)
    ages = torch.arange(int(sizes.max()) - 1, -1, -1, device=device)
    means = {leaf.mean for leaf in over.values()}
    return Windows(
        torch.tensor(list(over), device=device),
        ages < sizes.unsqueeze(-1),
        means.pop() if len(means) == 1 else torch.tensor([leaf.mean for leaf in over.values()], device=device),
    )


def own_leaves(specs: Sequence[GateSpec]) -> tuple[Leaf, ...]:
    """The readings of some gates, each once, in order."""
    return tuple(dict.fromkeys(leaf for spec in specs for leaf in spec.leaves))


def _leaf(policy: Policy, reading: Condition, at: Place) -> Leaf:
    weights, bias = weighted_sum(policy, reading.reads)
    window = reading.max_over or reading.mean_over or 1
    off = None if reading.off_below is None else float(reading.off_below)
    return Leaf(
        tuple((latent, weights[latent]) for latent in in_order(set(weights))),
        bias,
        -math.inf if reading.above is None else float(reading.above),
        math.inf if reading.below is None else float(reading.below),
        off,
        window,
        reading.mean_over is not None,
        at if window > 1 or off is not None else None,
    )


def leaf_weights(leaves: Sequence[Leaf], site: Site, place: Mapping[Latent, int]) -> Tensor | None:
    """`(S, L)` weights of a site's latents in each reading's sum; None where no reading takes any."""
    weights = torch.zeros(len(place), len(leaves))
    for column, leaf in enumerate(leaves):
        for latent, weight in leaf.weights:
            if latent.site == site:
                weights[place[latent], column] = weight
    return weights if bool((weights != 0).any()) else None
