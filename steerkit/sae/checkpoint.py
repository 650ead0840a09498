"""One SAE as a file or folder holds it: the weights, where they belong, and how their training went."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from steerkit.sae.sae import Sae
from steerkit.sites import Site


@dataclass(frozen=True, slots=True)
class History:
    """Training curves as the checkpoint carries them, one entry per epoch or step."""

    loss: tuple[float, ...] = ()
    mse: tuple[float, ...] = ()
    l0: tuple[float, ...] = ()
    """Mean number of active features per token."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checked SAE, where it belongs and how its training went."""

    path: Path
    """The file of its weights."""
    model_name: str
    site: Site
    sae: Sae
    history: History = field(default_factory=History)

    @property
    def layer(self) -> int:
        """Index of the decoder layer, from 0."""
        return self.site.layer
