"""Keys and values in buffers of fixed size, for steps of one token: no shape and no number in Python changes.

A sliding layer is a ring of its window's width. What it holds is in no order, which attention does not mind: the mask
says what may be seen, and positions are in the keys.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, StaticLayer

from steerkit.engine.hf.cache_layers import filled_by


class StepLayer(StaticLayer):
    """One layer's keys and values `(B, heads, W, head_dim)`; a token is written at its column modulo W."""

    def __init__(self, keys: Tensor, values: Tensor, slot: Tensor) -> None:
        super().__init__(max_cache_len=keys.shape[2])
        self.keys: Tensor = keys
        self.values: Tensor = values
        self.slot = slot
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Take one more token `(B, heads, 1, head_dim)`."""
        self.keys.index_copy_(2, self.slot, key_states)
        self.values.index_copy_(2, self.slot, value_states)
        return self.keys, self.values


class StepCache:
    """A cache of B sequences of at most C columns, its masks, and where the next token stands."""

    def __init__(self, model: PreTrainedModel, like: DynamicCache, rows: int, columns: int) -> None:
        """Empty, for a model; `like` is one that it has filled, of any length."""
        device = model.device
        self._ids = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self._position = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self._column = torch.zeros(1, dtype=torch.long, device=device)
        self.rows, self.columns = rows, columns
        self._slots: dict[int, Tensor] = {}
        """By width, where the next token goes."""
        self._masks: dict[int, Tensor] = {}
        """By width, `(B, 1, 1, W)` what is added to the attention's scores."""
        layers, widths = [], []
        for keys, values, window in map(filled_by, like.layers):
            width = min(window or columns, columns)
            if width not in self._slots:
                self._slots[width] = torch.zeros(1, dtype=torch.long, device=device)
                self._masks[width] = torch.zeros(rows, 1, 1, width, dtype=model.dtype, device=device)
            own = [part.new_zeros(rows, part.shape[1], width, part.shape[3]) for part in (keys, values)]
            layers.append(StepLayer(own[0], own[1], self._slots[width]))
            widths.append(width)
        self._layers, self._widths = layers, widths
        self.cache = Cache(layers=list(layers))
        types = getattr(model.config.get_text_config(), "layer_types", None) or []
        by_type = {kind: self._masks[width] for kind, width in zip(types, widths, strict=False)}
        self.mask: Any = by_type if len(by_type) > 1 else self._masks[widths[0]]
        """Mask in the form that the model takes."""

    @property
    def inputs(self) -> dict[str, Any]:
        """Inputs of a step's forward pass besides the cache."""
        return {"input_ids": self._ids, "attention_mask": self.mask, "position_ids": self._position, "use_cache": True}

    def begin(self) -> None:
        """Advance to the next token: find its slots and unmask it."""
        self._column.add_(1)
        self._position.add_(1)
        for width, slot in self._slots.items():
            slot.copy_(self._column % width)
            self._masks[width].index_fill_(-1, slot, 0.0)

    def feed(self, tokens: Tensor) -> None:
        """The tokens `(B, 1)` that the next step reads."""
        self._ids.copy_(tokens, non_blocking=True)

    def fill(self, filled: DynamicCache, mask: Tensor, positions: Tensor) -> None:
        """Resume after a prefill: a cache of P columns, its mask `(B, P)` and the last positions `(B, 1)`."""
        length = mask.shape[1]
        self._column.fill_(length - 1)
        self._position.copy_(positions)
        for width, own in self._masks.items():
            last = min(width, length)
            places = torch.arange(length - last, length, device=mask.device) % width
            hidden = torch.finfo(own.dtype).min
            own.fill_(hidden)
            seen = torch.where(mask[:, length - last :].bool(), 0.0, hidden).to(own.dtype)
            own.index_copy_(-1, places, seen[:, None, None])
        for layer, (keys, values, _), width in zip(
            self._layers, map(filled_by, filled.layers), self._widths, strict=True
        ):
            last = min(width, keys.shape[2])
            places = torch.arange(length - last, length, device=mask.device) % width
            for own, given in ((layer.keys, keys), (layer.values, values)):
                own.zero_()
                own.index_copy_(2, places, given[:, :, -last:])
