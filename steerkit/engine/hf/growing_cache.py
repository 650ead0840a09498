"""Keys and values of a generation in buffers with room to grow: a step of one token copies nothing that was there.

A prompt is read into transformers' own cache, which concatenates at every pass. From there on each token is written
into its place, and attention is given a view of what is filled. The masks are made once and seen one column further at
each token, where transformers would work them out anew. Given a mask, it also takes the heads that share keys as
queries of one head, which in bfloat16 on a CPU is more than ten times as fast as what it does without one.

A sliding layer is a ring of its window's width. What it holds is in no order, which attention does not mind: positions
are in the keys.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations import sdpa_attention

from steerkit.engine.hf.prefix_cache import can_be_cut
from steerkit.engine.hf.static_cache import filled_by

_ROOM: Final = 256
"""Tokens for which there is room at first."""
_SHARES_HEADS: Final = hasattr(sdpa_attention, "pack_gqa")
"""Whether transformers takes heads that share keys as said above; before 5.24 it copies the keys for each of them."""


class DecodeLayer(DynamicLayer):
    """One layer's keys and values `(B, heads, room, head_dim)`; a token stands at its column, in a ring modulo W."""

    def __init__(self, filled: DynamicLayer) -> None:
        """With what a layer holds after a prompt, which loses it."""
        super().__init__()  # type: ignore[no-untyped-call]
        keys, values, self.window = filled_by(filled)
        self._seen = int(filled.get_seq_length())
        self.keys, self.values = self._kept(keys), self._kept(values)
        self.dtype, self.device, self.is_initialized = self.keys.dtype, self.keys.device, True
        filled.keys = filled.values = None

    def _kept(self, given: Tensor) -> Tensor:
        room = min(self._seen + _ROOM, self.window or self._seen + _ROOM)
        places = torch.arange(self._seen - given.shape[2], self._seen, device=given.device) % room
        return given.new_zeros(*given.shape[:2], room, given.shape[3]).index_copy_(2, places, given)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Take one more token `(B, heads, 1, head_dim)`; all that its attention sees."""
        assert self.keys is not None
        assert self.values is not None
        slot = self._seen if self.window is None else self._seen % self.window
        if slot == self.keys.shape[2]:
            self.keys, self.values = (_with_more_room(part, 2, self.window) for part in (self.keys, self.values))
        self._seen += 1
        self.keys[:, :, slot : slot + 1] = key_states
        self.values[:, :, slot : slot + 1] = value_states
        seen = self._seen if self.window is None else min(self._seen, self.window)
        return self.keys[:, :, :seen], self.values[:, :, :seen]

    def get_seq_length(self) -> int:
        """Tokens read so far."""
        return self._seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys of the next pass and the column of the first, for a mask that transformers makes: it hides none."""
        after = self._seen + query_length
        seen = after if self.window is None else min(after, self.window)
        return seen, after - seen


class _Mask:
    """What layers of one window add to the scores of a token: nothing, or at padding as much as hides it."""

    def __init__(self, mask: Tensor, window: int | None, dtype: torch.dtype) -> None:
        self._window, self._seen = window, mask.shape[1]
        last = min(self._seen, window or self._seen)
        room = min(self._seen + _ROOM, window or self._seen + _ROOM)
        places = torch.arange(self._seen - last, self._seen, device=mask.device) % room
        hidden = torch.where(mask[:, -last:].bool(), 0.0, torch.finfo(dtype).min).to(dtype)
        self._padded = bool(hidden.any())
        self._buffer = hidden.new_zeros(len(mask), 1, 1, room).index_copy_(3, places, hidden[:, None, None])

    def next(self) -> Tensor | None:
        """`(B, 1, 1, T)` for one more token; None where nothing is hidden and a mask gains nothing."""
        slot = self._seen if self._window is None else self._seen % self._window
        if slot == self._buffer.shape[3]:
            self._buffer = _with_more_room(self._buffer, 3, self._window)
        self._seen += 1
        if not self._padded:
            if not _SHARES_HEADS:
                return None
        elif self._window is not None and self._seen > self._window:
            self._buffer[..., slot] = 0.0
        return self._buffer[..., : min(self._seen, self._window or self._seen)]


class DecodeCache(Cache):
    """What a model has read, for steps of one token of each of B sequences."""

    only_tokens = True
    """No step reads padding, whatever its mask's form."""

    def __init__(self, model: PreTrainedModel, filled: DynamicCache, mask: Tensor, positions: Tensor) -> None:
        """Go on after a prompt: a cache of P columns, its mask `(B, P)` and the last positions `(B, 1)`.

        The cache loses what it holds.
        """
        layers = [DecodeLayer(layer) for layer in filled.layers if isinstance(layer, DynamicLayer)]
        super().__init__(layers=list(layers))
        self._positions = positions
        self._masks = {window: _Mask(mask, window, model.dtype) for window in {layer.window for layer in layers}}
        types = getattr(model.config.get_text_config(), "layer_types", None) or []
        self._types = {kind: layer.window for kind, layer in zip(types, layers, strict=False)}

    def step(self, tokens: Tensor) -> dict[str, Any]:
        """What the model is given, besides this cache, to read one more token of each sequence: tokens `(B, 1)`."""
        self._positions = self._positions + 1
        masks = {window: mask.next() for window, mask in self._masks.items()}
        by_type = {kind: masks[window] for kind, window in self._types.items()}
        mask: Any = by_type if len(by_type) > 1 else next(iter(masks.values()))
        return {"input_ids": tokens, "attention_mask": mask, "position_ids": self._positions}


def why_not(model: PreTrainedModel) -> str | None:
    """Why a model cannot decode with prepared masks over such buffers; None where it can."""
    if not can_be_cut(model):
        return "the model's cache is not one of keys and values that look back only"
    attention = str(model.config._attn_implementation)
    return None if attention in ("sdpa", "eager") else f"attention is {attention}; expected sdpa or eager"


def _with_more_room(buffer: Tensor, dim: int, most: int | None) -> Tensor:
    """Twice as large along one dimension, but at most so large."""
    room = buffer.shape[dim]
    more = list(buffer.shape)
    more[dim] = min(2 * room, most or 2 * room) - room
    return torch.cat([buffer, buffer.new_zeros(more)], dim=dim)
