"""Activations of texts at the sites that SAEs stand on, read with as few padded tokens as can be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from steerkit.lab.activations import read_into
from steerkit.lab.workers.ranks import Processes
from steerkit.sites import Site
from steerkit.steer import find_sites


class ActivationReader:
    """Reads activations of one model at some sites of one width, each process its share, and gives them to all."""

    def __init__(self, model: PreTrainedModel, sites: Sequence[Site | int], group: Processes | None = None) -> None:
        self.model, self.sites, self.group = model, [Site.of(site) for site in sites], group or Processes()
        self.width = find_sites(model).width(self.sites[0]) or 0

    def __call__(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """`(sites, tokens, width)` in the model's dtype, on its device."""
        into = torch.zeros(
            len(self.sites), sum(map(len, texts)), self.width, dtype=self.model.dtype, device=self.model.device
        )
        read_into(self.model, texts, self.sites, into, (self.group.index, self.group.count))
        return self.group.join(into)

    def chunks(self, texts: Sequence[Sequence[int]], tokens: int = 8_192) -> Iterator[Tensor]:
        """The activations of all texts in their order, of at most `tokens` tokens (or one text) at a time."""
        part: list[Sequence[int]] = []
        for text in texts:
            if part and sum(map(len, part)) + len(text) > tokens:
                yield self(part)
                part = []
            part.append(text)
        if part:
            yield self(part)
