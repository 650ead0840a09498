"""Estimated effects of single features on a choice: how much, at which tokens, and what of the prompt they read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor

from steerkit.lab.attribution import effects_at
from steerkit.lab.explain.replayed_turn import Gradients
from steerkit.sae import Sae, SaeSet
from steerkit.sites import Feature, Site

_TOKENS_AT_ONCE: Final = 512
_LISTED: Final = 3
"""Tokens, and sources, that are named for a feature."""


SIZES: Final = (1, 2, 3, 5, 8, 13, 21, 34, 55)
"""Counts of the first features to take away together, until the call is another."""


class Extent(NamedTuple):
    """Extent of an explanation."""

    top: int = 5
    """Features to list for the choice, and as many against it."""
    draws: int = 3
    """Sets of random features to compare the listed ones with."""
    sizes: Sequence[int] = SIZES
    """Counts of the first features to take away together, rising."""
    seed: int = 0
    """Seed of the random features."""

    @property
    def most(self) -> int:
        """Number of features to rank."""
        return max(self.top, *self.sizes, 1)


USUAL: Final = Extent()


class Act(NamedTuple):
    """One token at which a feature acts."""

    position: int
    source: str
    """The part of the conversation that the token belongs to."""
    value: float
    """The feature's raw activation."""
    effect: float
    """In log-odds, by estimate."""


class Reads(NamedTuple):
    """One part of the conversation that a feature reads."""

    source: str
    share: float
    """Share of all that attention carried to it and that raises it, 0 to 1."""
    position: int
    """The token there that most came from."""


@dataclass(frozen=True)
class Role:
    """One feature's part in a choice."""

    feature: Feature
    effect: float
    """Loss of the score without it, in log-odds: the estimate, summed over all tokens."""
    acts: tuple[Act, ...]
    """Tokens at which its effect is largest by size, the largest first."""
    reads: tuple[Reads, ...]
    """Parts that attention carried to it, at the first of these tokens, in its own layer; empty if not known."""
    values: tuple[float, ...]
    """Raw activation at each token up to the choice."""
    effects: tuple[float, ...]
    """The estimate at each of these tokens."""


class Roles(NamedTuple):
    """Roles of the features that matter most."""

    score: float
    layers: dict[Site, float]
    """The effects of all features of a layer together."""
    supporting: tuple[Role, ...]
    """Effects above 0, the largest first."""
    opposing: tuple[Role, ...]
    """Below 0, the lowest first."""
    ranked: tuple[Feature, ...]
    """Features with an effect above 0, further down than they are described."""
    controls: Mapping[Feature, Sequence[Feature]]
    """For each of all these, the other features of its layer that are active where it acts most, in random order."""
    random_sets: tuple[tuple[Feature, ...], ...]
    """Per draw, one for each of the ranked, in their order."""


def roles_of(saes: SaeSet, read: Gradients, sources: Sequence[str], extent: Extent) -> Roles:
    """The features with the largest effects on either side.

    Args:
        saes: the dictionaries.
        read: what they read, and the score's gradient there.
        sources: what each token belongs to.
        extent: how many to rank and to describe, and how many random ones to draw.
    """
    generator, top = torch.Generator().manual_seed(extent.seed), extent.top
    sums = {site: _sums(saes, read, site) for site in saes}
    ranked, opposing = _largest(sums, 1, extent.most), _largest(sums, -1, top)
    described = [*ranked[:top], *opposing]
    columns = {site: _columns(saes, read, site, [*ranked, *opposing]) for site in saes}
    curves = {feature: curve for of_layer in columns.values() for feature, curve in of_layer.items()}
    roles = {feature: _role(read, sources, feature, *curves[feature]) for feature in described}
    strongest = {feature: int(effects.abs().argmax()) for feature, (_, effects) in curves.items()}
    alike = {feature: one for site in saes for feature, one in _active_at(saes, read, site, strongest).items()}
    controls = {feature: _shuffled(alike[feature], generator) for feature in [*ranked, *opposing]}
    free = {feature: [one for one in others if one not in curves] for feature, others in controls.items()}
    return Roles(
        read.score,
        {site: float(total.sum()) for site, total in sums.items()},
        tuple(roles[feature] for feature in ranked[:top]),
        tuple(roles[feature] for feature in opposing),
        tuple(ranked),
        free,
        tuple(_drawn([free[feature] for feature in ranked], draw) for draw in range(extent.draws)),
    )


def _drawn(others: Sequence[Sequence[Feature]], draw: int) -> tuple[Feature, ...]:
    """One of each, none twice; each draw starts at another place."""
    chosen: dict[Feature, None] = {}
    for one in others:
        turned = [*one[draw % max(1, len(one)) :], *one[: draw % max(1, len(one))]]
        chosen |= dict.fromkeys([feature for feature in turned if feature not in chosen][:1])
    return tuple(chosen)


def _parts(saes: SaeSet, read: Gradients, site: Site) -> Iterator[tuple[Tensor, Tensor]]:
    """Features and effects of a layer, `(tokens, d_sae)`, some tokens at a time."""
    y, gradient = read.activations[site], read.gradients[site]
    sae: Sae = saes[site].to(y.device)
    for some, slopes in zip(y.split(_TOKENS_AT_ONCE), gradient.split(_TOKENS_AT_ONCE), strict=True):
        yield effects_at(sae, some, slopes)


def _sums(saes: SaeSet, read: Gradients, site: Site) -> Tensor:
    """`(d_sae,)` effects over all tokens."""
    total: Tensor = torch.stack([effects.sum(dim=0) for _, effects in _parts(saes, read, site)]).sum(dim=0).cpu()
    return total


def _largest(sums: Mapping[Site, Tensor], sign: int, top: int) -> list[Feature]:
    """The features whose effects are largest on one side of 0."""
    found = []
    for site, total in sums.items():
        best = (sign * total).topk(min(top, len(total)))
        pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        found += [(value, Feature(site, index)) for value, index in pairs if value > 0]
    return [feature for _, feature in sorted(found, key=lambda one: (-one[0], one[1]))[:top]]


def _columns(
    saes: SaeSet, read: Gradients, site: Site, features: Sequence[Feature]
) -> dict[Feature, tuple[Tensor, Tensor]]:
    """Values `(T,)` and effects `(T,)` of each of the features that are in this layer."""
    here = [feature for feature in features if feature.site == site]
    indices = torch.tensor([feature.index for feature in here], dtype=torch.long)
    pairs = [tuple(part[:, indices.to(part.device)].cpu() for part in both) for both in _parts(saes, read, site)]
    values, effects = (torch.cat(column) for column in zip(*pairs, strict=True))
    return {feature: (values[:, number], effects[:, number]) for number, feature in enumerate(here)}


def _role(read: Gradients, sources: Sequence[str], feature: Feature, values: Tensor, effects: Tensor) -> Role:
    best = effects.abs().topk(min(_LISTED, len(effects))).indices.tolist()
    acts = tuple(Act(at, sources[at], float(values[at]), float(effects[at])) for at in best if effects[at])
    reads = _reads(read.carried(feature, acts[0].position), sources) if acts else ()
    return Role(feature, float(effects.sum()), acts, reads, tuple(values.tolist()), tuple(effects.tolist()))


def _reads(carried: Tensor | None, sources: Sequence[str]) -> tuple[Reads, ...]:
    """The parts of the conversation that raise a feature most, from what each token brought."""
    if carried is None:
        return ()
    raised = carried.clamp(min=0).tolist()
    total = sum(raised)
    if total == 0:
        return ()
    by_source: dict[str, list[int]] = {}
    for position in range(len(raised)):
        by_source.setdefault(sources[position], []).append(position)
    found = [
        Reads(source, sum(raised[one] for one in held) / total, max(held, key=raised.__getitem__))
        for source, held in by_source.items()
    ]
    return tuple(sorted(found, key=lambda one: -one.share)[:_LISTED])


def _active_at(
    saes: SaeSet, read: Gradients, site: Site, positions: Mapping[Feature, int]
) -> dict[Feature, list[Feature]]:
    """Features that are active at the token of each of the features that are in this layer."""
    here = {feature: position for feature, position in positions.items() if feature.site == site}
    y = read.activations[site][list(here.values())]
    active = saes[site].to(y.device).encode(y).cpu() > 0
    return {
        feature: [Feature(site, index) for index in row.nonzero().squeeze(-1).tolist()]
        for feature, row in zip(here, active, strict=True)
    }


def _shuffled(features: Sequence[Feature], generator: torch.Generator) -> list[Feature]:
    return [features[number] for number in torch.randperm(len(features), generator=generator).tolist()]
