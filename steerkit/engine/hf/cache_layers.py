"""Layers of transformers' KV caches: what they hold, and how an empty one is filled."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


def can_be_cut(model: PreTrainedModel) -> bool:
    """True if a prompt may be prefilled in blocks that are kept: all layers are causal and have keys and values."""
    config = model.config.get_text_config()
    kinds = {type(layer) for layer in DynamicCache(config=config).layers}
    both_ways = getattr(config, "use_bidirectional_attention", None)
    return bool(kinds) and kinds <= {DynamicLayer, DynamicSlidingWindowLayer} and not both_ways


def layers_of(cache: DynamicCache) -> list[DynamicLayer]:
    """The layers of a model that `can_be_cut`."""
    return [layer for layer in cache.layers if isinstance(layer, DynamicLayer)]


def filled_by(layer: object) -> tuple[Tensor, Tensor, int | None]:
    """Keys, values and, where it slides, the window of a layer of a cache that a model has filled."""
    assert isinstance(layer, DynamicLayer)  # of a model that `can_be_cut`
    assert layer.keys is not None
    assert layer.values is not None
    window: int | None = getattr(layer, "sliding_window", None)
    return layer.keys, layer.values, window


def last_columns(layer: DynamicLayer, length: int) -> tuple[Tensor, Tensor]:
    """Copies of the keys and values of the last tokens, as far as the layer has them."""
    assert layer.keys is not None  # the model has just computed them
    assert layer.values is not None
    return layer.keys[:, :, -length:].clone(), layer.values[:, :, -length:].clone()


def fill(layer: DynamicLayer, states: Sequence[tuple[Tensor, Tensor]], length: int) -> None:
    """Bring an empty layer to where it stood after so many tokens."""
    if isinstance(layer, DynamicSlidingWindowLayer):
        reach, needed = 0, len(states)
        while reach < layer.sliding_window - 1 and needed > 0:
            needed -= 1
            reach += states[needed][0].shape[2]
        states = states[needed:]
    keys, values = zip(*states, strict=True)
    layer.update(torch.cat(keys, dim=2), torch.cat(values, dim=2))
    if isinstance(layer, DynamicSlidingWindowLayer):
        layer.cumulative_length = length
