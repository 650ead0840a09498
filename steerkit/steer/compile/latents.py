"""The columns of a site that a plan reads and writes: features of its SAE, and vectors of directions beside them.

A direction has no encoder. What is added is a feature that is never active, so that its edit `f' = f + shift` writes
`shift * vector`; what is read is two features, `relu(y @ v)` and `relu(-y @ v)`, whose difference is `y @ v`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from steerkit.errors import SteeringError
from steerkit.policy import Policy, read_direction
from steerkit.sae import Columns, SaeSet
from steerkit.sites import Feature, Site

Use: TypeAlias = Literal["added", "along", "against"]
"""Use of a vector: it is added, or read along itself, or against itself."""


@dataclass(frozen=True, slots=True)
class Vector:
    """A direction at one site, in one use."""

    site: Site
    key: str
    """Fingerprint of its file, and what else tells its values apart."""
    use: Use
    values: Tensor = field(compare=False, repr=False)
    """`(width,)` float32, on the CPU."""
    named: str = field(compare=False)
    """Policy, name and file in messages."""

    @property
    def encoder(self) -> Tensor:
        """`(width,)` column of the encoder."""
        return self.values * {"added": 0.0, "along": 1.0, "against": -1.0}[self.use]

    @property
    def decoder(self) -> Tensor:
        """`(width,)` row of the decoder."""
        return self.values if self.use == "added" else torch.zeros_like(self.values)


Latent: TypeAlias = Feature | Vector
"""One column of a site's tables."""


def in_order(latents: Sequence[Latent] | set[Latent]) -> list[Latent]:
    """Latents by site; at a site features before vectors."""
    return sorted(latents, key=_place)


def _place(latent: Latent) -> tuple[int, int, str, str]:
    if isinstance(latent, Feature):
        return latent.site.order, latent.index, "", ""
    return latent.site.order, 1 << 40, latent.key, latent.use


def edited_by(policy: Policy, name: str) -> Iterator[Latent]:
    """The latents that an edit of a name changes. Raises PolicyError: a direction's file cannot be used."""
    if name in policy.features:
        yield policy.features[name].feature
    else:
        yield from _vectors(policy, name, "added").values()


def weighted_sum(policy: Policy, name: str) -> tuple[dict[Latent, float], float]:
    """Weights and bias of a probe of the policy; a feature is the sum of itself.

    Raises:
        PolicyError: a direction's file cannot be used.
    """
    if name in policy.features:
        return {policy.features[name].feature: 1.0}, 0.0
    probe, found = policy.probes[name], dict[Latent, float]()
    for part, weight in probe.weights.items():
        if part in policy.features:
            found[policy.features[part].feature] = weight
            continue
        for use, sign in (("along", 1.0), ("against", -1.0)):
            found |= dict.fromkeys(_vectors(policy, part, use).values(), sign * weight)  # type: ignore[arg-type]
    return found, probe.bias


def _vectors(policy: Policy, name: str, use: Use) -> dict[Site, Vector]:
    direction = policy.directions[name]
    named = f"policy '{policy.name}' directions.{name}: {direction.file}"
    if not direction.is_bound:
        raise SteeringError(f"{named}: not bound to its file; load the policy from a file, or give it to policy.bind")
    content = read_direction(direction.file, direction.fingerprint).vectors
    key = f"{direction.fingerprint} {direction.random}"
    found = {}
    for site in map(Site.of, direction.sites or ()):
        if site not in content:
            has = ", ".join(map(str, content))
            raise SteeringError(f"{named}: got no vector at {site}, expected sites to be some of {has}")
        values = torch.tensor(content[site], dtype=torch.float32)
        if direction.random is not None:
            values = _random(values, direction.random, site)
        found[site] = Vector(site, key, use, values, named)
    return found


def _random(values: Tensor, seed: int, site: Site) -> Tensor:
    """A random vector as long as the values, the same for a seed and a site."""
    drawn = torch.randn(len(values), generator=torch.Generator().manual_seed((seed << 24) + site.order))
    found: Tensor = drawn / drawn.norm() * values.norm()
    return found


def columns_of(site: Site, latents: Sequence[Latent], saes: SaeSet | None, device: torch.device) -> Columns:
    """The columns of a site's latents, which are `in_order`, on a device.

    Raises:
        SteeringError: a vector has another width than the SAE or another vector.
    """
    features = [one.index for one in latents if isinstance(one, Feature)]
    vectors = [one for one in latents if isinstance(one, Vector)]
    own = saes.columns(site, features, device) if features and saes is not None else None
    if not vectors:
        assert own is not None  # there are some latents, and whoever compiled said that features need SAEs
        return own
    width = len(vectors[0].values) if own is None else own.W_dec.shape[1]
    for one in vectors:
        if len(one.values) != width:
            other = vectors[0].named if own is None else f"{site.name}'s SAE"
            raise SteeringError(
                f"{one.named}: {site}: got a vector of width {len(one.values)}, but {other} has width {width}; "
                f"expected directions of this model: `steerkit features direction` makes one"
            )
    encoder = torch.stack([one.encoder for one in vectors], dim=1).to(device)
    decoder = torch.stack([one.decoder for one in vectors]).to(device)
    if own is None:
        return Columns(encoder, torch.zeros(len(vectors), device=device), decoder)
    return own.with_plain(encoder, decoder)
