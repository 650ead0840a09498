"""A buffer of values by column that grows by doubling; values of single tokens are collected and copied together."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

_MOST_WAITING: Final = 64
"""Columns that wait at most."""


class ColumnBuffer:
    """Values `(B, C, …)` of B sequences; columns that nobody wrote are zeros."""

    def __init__(self, capacity: int, buffer: Tensor | None = None) -> None:
        """Start with so many columns, in a new buffer or in one that is given."""
        self._capacity, self._buffer = capacity, buffer
        self._waiting: list[Tensor] = []
        self._start = self._end = 0
        """Columns of the values that wait."""

    def write(self, values: Tensor, column: int) -> None:
        """Copy values `(B, T, …)` to the columns from one on."""
        self._flush()
        self._copy(values, column)

    def take(self, values: Tensor, column: int) -> None:
        """Take values whose copy may wait: they are final when the buffer is next read or more columns come."""
        if column != self._end or self._end - self._start >= _MOST_WAITING:
            self._flush()
        if not self._waiting:
            self._start = column
        self._waiting.append(values)
        self._end = column + values.shape[1]

    def read(self, length: int) -> Tensor:
        """The first columns `(B, length, …)`."""
        self._flush()
        assert self._buffer is not None  # only what was written is read
        if self._buffer.shape[1] < length:
            self._grow(self._buffer, length)
        return self._buffer[:, :length]

    def cut(self, length: int) -> None:
        """Clear the columns from one on."""
        self._flush()
        if self._buffer is not None and self._buffer.shape[1] > length:
            with torch.inference_mode(self._buffer.is_inference()):
                self._buffer[:, length:] = 0

    def _flush(self) -> None:
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        made = waiting[0] if self._buffer is None else self._buffer
        with torch.inference_mode(made.is_inference()):  # whoever reads it need not be in the mode that it was made in
            self._copy(waiting[0] if len(waiting) == 1 else torch.cat(waiting, dim=1), self._start)

    def _copy(self, values: Tensor, column: int) -> None:
        end = column + values.shape[1]
        if self._buffer is None or self._buffer.shape[1] < end:
            self._grow(values[:, :0] if self._buffer is None else self._buffer, end)
        assert self._buffer is not None
        self._buffer[:, column:end] = values

    def _grow(self, old: Tensor, end: int) -> None:
        self._capacity = max(self._capacity, end, 2 * old.shape[1])
        grown = old.new_zeros(old.shape[0], self._capacity, *old.shape[2:])
        grown[:, : old.shape[1]] = old
        self._buffer = grown
