"""Prompts that are read once for many generations, none of which does anything to them before their last tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers import DynamicCache

from steerkit.engine.hf.batch import Batch
from steerkit.engine.hf.cache_layers import fill, filled_by, layers_of
from steerkit.steer import Snapshots


@dataclass(frozen=True, slots=True)
class SharedPrompts:
    """Keys and values of B prompts, padded on the left to W tokens, without the last token of each.

    They come from one pass over all of them, so that a generation of some does not depend on which.
    """

    numbers: Mapping[tuple[int, ...], int]
    """By its tokens, the row of a prompt."""
    states: tuple[tuple[Tensor, Tensor], ...]
    """By layer, keys and values `(B, heads, W - 1, head_dim)`; of a sliding layer at most its last window - 1."""

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], cache: DynamicCache) -> SharedPrompts:
        """Prompts, in the order of the rows of a cache that holds them but for the last column."""
        numbers = {tuple(ids): row for row, ids in enumerate(prompts)}
        return cls(numbers, tuple(filled_by(layer)[:2] for layer in layers_of(cache)))

    @property
    def bytes(self) -> int:
        """Size of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for pair in self.states for tensor in pair)

    def __contains__(self, ids: Sequence[int]) -> bool:
        return tuple(ids) in self.numbers


class SharedBatch:
    """A batch of some of the prompts, on their way into the cache that a model fills."""

    def __init__(
        self,
        shared: SharedPrompts,
        prompts: Sequence[Sequence[int]],
        snapshots: Snapshots,
        cache: DynamicCache,
        batch: Batch,
        ends: Sequence[int],
    ) -> None:
        self._shared, self._snapshots, self._cache, self._batch = shared, snapshots, cache, batch
        self._rows = [shared.numbers[tuple(ids)] for ids in prompts]

    def resume(self) -> int:
        """Stand before the last column."""
        end = self._batch.ids.shape[1] - 1
        for layer, states in zip(layers_of(self._cache), self._shared.states, strict=True):
            keys, values = (part[self._rows, :, -end:] for part in states)
            fill(layer, [(keys, values)], end)
        self._snapshots.skip(self._batch.ids[:, :end], self._batch.mask[:, :end].bool())
        return end

    def keep(self, start: int, end: int) -> None:
        """Nothing: all of them are known."""
