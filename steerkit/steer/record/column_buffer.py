"""Values by column, in a buffer that grows by doubling; those of single tokens wait, and are copied together."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

_MOST_WAITING: Final = 64
"""Columns that wait at most."""


class ColumnBuffer:
    """`(B, C, …)` values of B sequences; columns that nobody wrote are zeros."""

    def __init__(self, capacity: int, buffer: Tensor | None = None) -> None:
        """Room for so many columns at first, in a buffer of one's own or in one that is given."""
        self._capacity, self._buffer = capacity, buffer
        self._waiting: list[Tensor] = []
        self._start = self._end = 0
        """Columns of what waits."""

    def write(self, values: Tensor, column: int) -> None:
        """Copy values `(B, T, …)` to the columns from one on."""
        self._flush()
        self._copy(values, column)

    def take(self, values: Tensor, column: int) -> None:
        """The same for values that are final when they are next read or when more columns come: they may wait."""
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
        """Forget the columns from one on: they are as if nobody had written them."""
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
