"""Training figures of a set's own checkpoints: the table of the published card, with the density beside it."""

from __future__ import annotations

from typing import NamedTuple

from steerkit.sae.sae_set import SaeSet
from steerkit.sites import Site

DENSE = 0.25
"""Above this share of active features a dictionary is too dense to read single features from."""


class LayerSummary(NamedTuple):
    """One row of the table; numbers are the last entries of the checkpoint's history, None where it has none."""

    site: Site
    loss: float | None
    mse: float | None
    l0: float | None
    """Mean number of active features per token."""
    density: float | None
    """L0 as a share of the dictionary."""
    d_sae: int

    @property
    def layer(self) -> int:
        """Index of the decoder layer, from 0."""
        return self.site.layer

    @property
    def dense(self) -> bool:
        """True if it is too dense to trust single features."""
        return self.density is not None and self.density > DENSE


def summarize(saes: SaeSet) -> tuple[LayerSummary, ...]:
    """Final loss, MSE, L0 and density of every site."""
    rows = []
    for site, checkpoint in saes.checkpoints.items():
        history, d_sae = checkpoint.history, checkpoint.sae.d_sae
        l0 = _last(history.l0)
        density = None if l0 is None else l0 / d_sae
        rows.append(LayerSummary(site, _last(history.loss), _last(history.mse), l0, density, d_sae))
    return tuple(rows)


def _last(curve: tuple[float, ...]) -> float | None:
    return curve[-1] if curve else None
