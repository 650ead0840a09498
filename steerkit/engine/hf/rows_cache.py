"""KV cache of rows of any lengths: one joins by a copy of what its prefill made, and leaves by a copy of the last row.

Each row begins at column 0 and has its next token behind its own last one, so that none moves when another comes or
goes; a mask hides what is beyond. A sliding layer is a ring of its window's width for each row. Buffers grow by
doubling, in rows and in columns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from steerkit.engine.hf.cache_layers import filled_by

_COLUMNS = 256
"""Capacity at first, in tokens."""


class _Columns:
    """The columns of all layers of one window: where the next tokens of B rows go, and the mask of what they see."""

    def __init__(self, window: int | None, dtype: torch.dtype, device: torch.device) -> None:
        self.window, self._device = window, device
        self._hidden = torch.finfo(dtype).min
        self._mask = torch.full((1, 1, 1, min(_COLUMNS, window or _COLUMNS)), self._hidden, dtype=dtype, device=device)
        self._rows = self.places = torch.empty(0)
        """`(B, 1)` numbers of the rows, and `(B, T)` columns of their next tokens, of the last that a ring holds."""
        self.held = 0
        """Columns before them that any row has filled."""
        self.end = 0
        """Columns that any row has filled with them."""

    @property
    def capacity(self) -> int:
        """Columns that there is room for."""
        return self._mask.shape[3]

    def put(self, row: int, length: int, held: int) -> Tensor:
        """Let a row begin with the last tokens of so many; their columns."""
        self._fit(row + 1, length)
        places = _ring(torch.arange(length - held, length, device=self._device), self.window)
        self._mask[row] = self._hidden
        self._mask[row, 0, 0, places] = 0.0
        return places

    def move(self, source: int, target: int) -> None:
        """Put one row in another's place."""
        self._mask[target] = self._mask[source]

    def next(self, new: Tensor, longest: int) -> Tensor:
        """Mask `(B, 1, T, columns)` of the next tokens, at positions `new` `(B, T)`, the longest row having so many
        before; of several, those stand behind the columns."""
        rows, count = new.shape
        self._fit(rows, longest + count)
        places = _ring(new, self.window)
        self.places = places[:, -self.capacity :]
        if len(self._rows) != rows:
            self._rows = torch.arange(rows, device=self._device).unsqueeze(-1)
        self.held = min(longest, self.window or longest)
        self.end = min(longest + count, self.window or longest + count)
        several = self._several(new) if count > 1 else None
        self._mask.scatter_(3, places.view(rows, 1, 1, count), 0.0)
        if several is not None:
            return several
        return self._mask[:rows, :, :, : self.end]

    def _several(self, new: Tensor) -> Tensor:
        """`(B, 1, T, held + T)`: each token sees those before it in its window."""
        slots = torch.arange(self.held, device=self._device)
        last = new[:, :1] - 1
        before = slots.expand(len(new), -1) if self.window is None else last - (last - slots) % self.window
        columns = torch.cat([torch.where(before > last, -1, before), new], dim=1).unsqueeze(1)
        back = new.unsqueeze(-1) - columns
        seen = (columns >= 0) & (back >= 0)
        if self.window is not None:
            seen &= back < self.window
        mask = torch.full(seen.shape, self._hidden, dtype=self._mask.dtype, device=self._device)
        return mask.masked_fill_(seen, 0.0).unsqueeze(1)

    def _fit(self, rows: int, columns: int) -> None:
        self._mask = fitting(self._mask, rows, 3, min(columns, self.window or columns), self.window, self._hidden)

    def rows_of(self, buffer: Tensor, new: Tensor) -> Tensor:
        """A buffer `(rows, heads, columns, d)` with the last of the new tokens `(B, heads, T, d)` in their places."""
        buffer = fitting(buffer, len(new), 2, self.capacity, self.window)
        # By two indices side by side: `scatter_` takes 40 times as long for bfloat16 on a CPU.
        buffer.transpose(1, 2)[self._rows, self.places] = new[:, :, -self.capacity :].transpose(1, 2)
        return buffer


class RowsLayer(DynamicLayer):
    """One layer's keys and values `(rows, heads, columns, head_dim)`, those of the rows that are free of no use."""

    def __init__(self, columns: _Columns) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._columns = columns

    def put(self, row: int, filled: DynamicLayer, places: Tensor) -> None:
        """Copy a row from a layer after its prefill."""
        keys, values, _ = filled_by(filled)
        if self.keys is None or self.values is None:
            self.keys, self.values = (part.new_zeros(1, *part.shape[1:2], 0, part.shape[3]) for part in (keys, values))
            self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        capacity, window = self._columns.capacity, self._columns.window
        self.keys, self.values = (fitting(part, row + 1, 2, capacity, window) for part in (self.keys, self.values))
        for own, given in ((self.keys, keys), (self.values, values)):
            own[row].index_copy_(1, places, given[0])

    def move(self, source: int, target: int) -> None:
        """Put one row in another's place."""
        assert self.keys is not None
        assert self.values is not None
        for own in (self.keys, self.values):
            own[target] = own[source]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Take more tokens `(B, heads, T, head_dim)`; all that their attention sees, the new ones last if several."""
        assert self.keys is not None
        assert self.values is not None
        rows, count, columns = len(key_states), key_states.shape[2], self._columns
        seen = []
        for own, new in ((self.keys, key_states), (self.values, value_states)) if count > 1 else ():
            seen.append(torch.cat([own[:rows, :, : columns.held], new], dim=2))
        self.keys = columns.rows_of(self.keys, key_states)
        self.values = columns.rows_of(self.values, value_states)
        if count > 1:
            return seen[0], seen[1]
        return self.keys[:rows, :, : columns.end], self.values[:rows, :, : columns.end]


class RowsCache(Cache):
    """KV cache of rows that come and go, for passes over the next tokens of all of them."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Empty, for a model whose cache is one of keys and values that look back only."""
        config, device = model.config, model.device
        windows = [getattr(layer, "sliding_window", None) for layer in DynamicCache(config=config).layers]
        self._columns = {window: _Columns(window, model.dtype, device) for window in windows}
        self._own = [RowsLayer(self._columns[window]) for window in windows]
        super().__init__(layers=list(self._own))
        types = getattr(config.get_text_config(), "layer_types", None) or []
        self._types = dict(zip(types, windows, strict=False))
        self._lengths: list[int] = []

    def join(self, filled: DynamicCache) -> None:
        """Take in the row of a cache after its prefill, as the last one."""
        row, length, places = len(self._lengths), int(filled.get_seq_length()), dict[int | None, Tensor]()
        for own, layer in zip(self._own, filled.layers, strict=True):
            assert isinstance(layer, DynamicLayer)  # of a model whose cache can be cut
            keys, _, window = filled_by(layer)
            if window not in places:
                places[window] = self._columns[window].put(row, length, keys.shape[2])
            own.put(row, layer, places[window])
        self._lengths.append(length)

    def leave(self, index: int) -> None:
        """Let a row go; the last one takes its place."""
        last = len(self._lengths) - 1
        if index != last:
            for columns in self._columns.values():
                columns.move(last, index)
            for layer in self._own:
                layer.move(last, index)
            self._lengths[index] = self._lengths[last]
        self._lengths.pop()

    def step(self, tokens: Tensor) -> dict[str, Any]:
        """Inputs of a pass besides this cache: T more tokens of each row, `(B, T)`."""
        count = tokens.shape[1]
        longest, positions = max(self._lengths), torch.tensor(self._lengths, device=tokens.device).unsqueeze(-1)
        if count > 1:
            positions = positions + torch.arange(count, device=tokens.device)
        masks = {window: columns.next(positions, longest) for window, columns in self._columns.items()}
        self._lengths = [length + count for length in self._lengths]
        by_type = {kind: masks[window] for kind, window in self._types.items()}
        mask: Any = by_type if len(by_type) > 1 else next(iter(masks.values()))
        return {"input_ids": tokens, "attention_mask": mask, "position_ids": positions}


def _ring(columns: Tensor, window: int | None) -> Tensor:
    return columns if window is None else columns % window


def fitting(buffer: Tensor, rows: int, dim: int, columns: int, most: int | None, fill: float = 0.0) -> Tensor:
    """The buffer, or one with what it holds and at least so many rows and columns, each doubled where too few."""
    have = buffer.shape[0], buffer.shape[dim]
    if rows <= have[0] and columns <= have[1]:
        return buffer
    shape = list(buffer.shape)
    shape[0] = have[0] if rows <= have[0] else max(rows, 2 * have[0])
    shape[dim] = have[1] if columns <= have[1] else min(max(columns, 2 * have[1]), most or max(columns, 2 * have[1]))
    made = buffer.new_full(shape, fill)
    made[: have[0]].narrow(dim, 0, have[1]).copy_(buffer)
    return made
