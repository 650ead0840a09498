"""Activations of texts at the layers that SAEs stand on, read with as few padded tokens as can be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from steerkit.lab.activations import read_into
from steerkit.lab.workers.ranks import Processes
from steerkit.sae import Site
from steerkit.steer import find_sites, width_of


class ActivationReader:
    """Reads activations of one model at some layers, each process its share, and gives them to all."""

    def __init__(
        self, model: PreTrainedModel, layers: Sequence[int], group: Processes | None = None, site: Site = "output"
    ) -> None:
        self.model, self.layers, self.group, self.site = model, list(layers), group or Processes(), site
        self.width = width_of(find_sites(model).outputs[self.layers[0]], site) or 0

    def __call__(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """`(layers, tokens, width)` in the model's dtype, on its device."""
        into = torch.zeros(
            len(self.layers), sum(map(len, texts)), self.width, dtype=self.model.dtype, device=self.model.device
        )
        read_into(self.model, texts, self.layers, into, (self.group.index, self.group.count), self.site)
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
