"""KV cache in buffers with spare capacity: a step of one token copies nothing that was there.

The prefill fills transformers' own cache, which concatenates at every pass. From there on each token is written into
its place, and attention gets a view of the filled part. The masks are made once and extended by a column per token,
where transformers would compute them again. Given a mask, it also takes the heads that share keys as queries of one
head, which in bfloat16 on a CPU is more than ten times as fast as without one.

A sliding layer is a ring of its window's width. Its entries are in no order, which attention does not need: positions
are in the keys.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations import sdpa_attention

from steerkit.engine.hf.cache_layers import can_be_cut, filled_by

_SPARE: Final = 256
"""Spare capacity at first, in tokens."""
_SHARES_HEADS: Final = hasattr(sdpa_attention, "pack_gqa")
"""True if transformers packs the heads that share keys as above; before 5.24 it copies the keys for each of them."""


class DecodeLayer(DynamicLayer):
    """One layer's keys and values `(B, heads, capacity, head_dim)`; in a ring of width W, column modulo W."""

    def __init__(self, filled: DynamicLayer) -> None:
        """Take over a layer's entries after a prefill; the layer is empty then."""
        super().__init__()  # type: ignore[no-untyped-call]
        keys, values, self.window = filled_by(filled)
        self._seen = int(filled.get_seq_length())
        self.keys, self.values = self._kept(keys), self._kept(values)
        self.dtype, self.device, self.is_initialized = self.keys.dtype, self.keys.device, True
        filled.keys = filled.values = None

    def _kept(self, given: Tensor) -> Tensor:
        capacity = min(self._seen + _SPARE, self.window or self._seen + _SPARE)
        places = torch.arange(self._seen - given.shape[2], self._seen, device=given.device) % capacity
        return given.new_zeros(*given.shape[:2], capacity, given.shape[3]).index_copy_(2, places, given)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Take more tokens `(B, heads, T, head_dim)`; all that their attention sees, the new ones last if several."""
        assert self.keys is not None
        assert self.values is not None
        if key_states.shape[2] > 1:
            return self._take_several(key_states, value_states)
        slot = self._seen if self.window is None else self._seen % self.window
        if slot == self.keys.shape[2]:
            self.keys, self.values = (_doubled(part, 2, self.window) for part in (self.keys, self.values))
        self._seen += 1
        self.keys[:, :, slot : slot + 1] = key_states
        self.values[:, :, slot : slot + 1] = value_states
        seen = self._seen if self.window is None else min(self._seen, self.window)
        return self.keys[:, :, :seen], self.values[:, :, :seen]

    def _take_several(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Take several tokens: what the first of them sees may be what the last ones overwrite in a ring."""
        before, both = self._seen, ((self.keys, keys), (self.values, values))
        self._seen += keys.shape[2]
        seen, kept = [], []
        for own, new in both:
            assert own is not None  # it took over a filled layer
            seen.append(torch.cat([own[:, :, : min(before, self.window or before)], new], dim=2))
            kept.append(_written(own, 2, new, self._seen, self.window))
        self.keys, self.values = kept
        return seen[0], seen[1]

    def get_seq_length(self) -> int:
        """Tokens so far."""
        return self._seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys of the next pass and the column of the first, for a mask that transformers makes: it hides none."""
        after = self._seen + query_length
        seen = after if self.window is None else min(after, self.window)
        return seen, after - seen


class _Mask:
    """Additive attention mask of one token, shared by the layers of one window: it hides padding."""

    def __init__(self, mask: Tensor, window: int | None, dtype: torch.dtype) -> None:
        self._window, self._seen = window, mask.shape[1]
        last = min(self._seen, window or self._seen)
        capacity = min(self._seen + _SPARE, window or self._seen + _SPARE)
        places = torch.arange(self._seen - last, self._seen, device=mask.device) % capacity
        hidden = torch.where(mask[:, -last:].bool(), 0.0, torch.finfo(dtype).min).to(dtype)
        self._padded = bool(hidden.any())
        self._buffer = hidden.new_zeros(len(mask), 1, 1, capacity).index_copy_(3, places, hidden[:, None, None])

    def next(self) -> Tensor | None:
        """`(B, 1, 1, T)` for one more token; None where nothing is hidden and a mask gains nothing."""
        slot = self._seen if self._window is None else self._seen % self._window
        if slot == self._buffer.shape[3]:
            self._buffer = _doubled(self._buffer, 3, self._window)
        self._seen += 1
        if not self._padded:
            if not _SHARES_HEADS:
                return None
        elif self._window is not None and self._seen > self._window:
            self._buffer[..., slot] = 0.0
        return self._buffer[..., : min(self._seen, self._window or self._seen)]

    def several(self, count: int) -> Tensor:
        """`(B, 1, count, T)` for more tokens at once, the new ones last: each sees those before it in its window."""
        held = min(self._seen, self._window or self._seen)
        device, capacity = self._buffer.device, self._buffer.shape[3]
        slots = torch.arange(held, device=device)
        columns = slots if self._seen <= capacity else self._seen - 1 - (self._seen - 1 - slots) % capacity
        new = torch.arange(self._seen, self._seen + count, device=device)
        back = new.unsqueeze(-1) - torch.cat([columns, new])
        seen = (back >= 0) & (back < (self._window or self._seen + count))
        before = self._buffer[..., :held].expand(-1, 1, count, held)
        mask = torch.cat([before, before.new_zeros(len(before), 1, count, count)], dim=-1)
        self._seen += count
        self._buffer = _written(self._buffer, 3, mask.new_zeros(len(mask), 1, 1, count), self._seen, self._window)
        return mask.masked_fill(~seen, torch.finfo(mask.dtype).min)


class DecodeCache(Cache):
    """KV cache for steps of one token, or of a few known ones, of each of B sequences."""

    only_tokens = True
    """No step has padding, whatever its mask's form."""

    def __init__(self, model: PreTrainedModel, filled: DynamicCache, mask: Tensor, positions: Tensor) -> None:
        """Resume after a prefill: a cache of P columns, its mask `(B, P)` and the last positions `(B, 1)`.

        The cache loses what it holds.
        """
        layers = [DecodeLayer(layer) for layer in filled.layers if isinstance(layer, DynamicLayer)]
        super().__init__(layers=list(layers))
        self._positions = positions
        self._masks = {window: _Mask(mask, window, model.dtype) for window in {layer.window for layer in layers}}
        types = getattr(model.config.get_text_config(), "layer_types", None) or []
        self._types = {kind: layer.window for kind, layer in zip(types, layers, strict=False)}

    def step(self, tokens: Tensor) -> dict[str, Any]:
        """Inputs of a step besides this cache: T more tokens of each sequence, `(B, T)`."""
        count = tokens.shape[1]
        positions = self._positions + torch.arange(1, count + 1, device=tokens.device)
        self._positions = positions[:, -1:]
        masks = {window: mask.next() if count == 1 else mask.several(count) for window, mask in self._masks.items()}
        by_type = {kind: masks[window] for kind, window in self._types.items()}
        mask: Any = by_type if len(by_type) > 1 else next(iter(masks.values()))
        return {"input_ids": tokens, "attention_mask": mask, "position_ids": positions}


def why_not(model: PreTrainedModel) -> str | None:
    """Why a model cannot decode with prepared masks over such buffers; None where it can."""
    if not can_be_cut(model):
        return "the model's cache is not one of keys and values that look back only"
    attention = str(model.config._attn_implementation)
    return None if attention in ("sdpa", "eager") else f"attention is {attention}; expected sdpa or eager"


def _written(buffer: Tensor, dim: int, new: Tensor, seen: int, window: int | None) -> Tensor:
    """A buffer with the last of `seen` columns written, each into its place; a larger one where they do not fit."""
    while buffer.shape[dim] < min(seen, window or seen):
        buffer = _doubled(buffer, dim, window)
    last = min(new.shape[dim], buffer.shape[dim])
    places = torch.arange(seen - last, seen, device=buffer.device) % buffer.shape[dim]
    return buffer.index_copy_(dim, places, new.narrow(dim, new.shape[dim] - last, last))


def _doubled(buffer: Tensor, dim: int, most: int | None) -> Tensor:
    """A buffer twice as large along one dimension, within a limit."""
    capacity = buffer.shape[dim]
    more = list(buffer.shape)
    more[dim] = min(2 * capacity, most or 2 * capacity) - capacity
    return torch.cat([buffer, buffer.new_zeros(more)], dim=dim)
