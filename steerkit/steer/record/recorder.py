"""Keeps what the hooks saw: raw activations and which rules were open. Features come later."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from steerkit.errors import SteeringError
from steerkit.sites import Site
from steerkit.steer.batch import Window

_FIRST_CAPACITY: Final = 256
_MOST_WAITING: Final = 64
"""Columns that wait at most."""


class Recorder:
    """The last generation under one `attach`, by site: B sequences, C columns (padding included).

    Columns that were in its cache before are zeros, and no rule is open there.
    Only copies happen while the model runs; nothing is encoded and nothing moves to the host.
    """

    def __init__(
        self,
        kept: Iterable[Site],
        hooked: Iterable[Site],
        editors: Mapping[Site, Tensor],
        capacity: int | None = None,
    ) -> None:
        self.kept = frozenset(kept)
        """Sites whose raw activations are kept."""
        self._editors = dict(editors)
        """By site, which rules `(R,)` edit there."""
        self.fired: dict[Site, int] = dict.fromkeys(hooked, 0)
        """Passes in which each hook ran."""
        self.forwards = 0
        """Forward passes of the model."""
        self._capacity = capacity or _FIRST_CAPACITY
        self._raw: dict[Site, ColumnBuffer] = {}
        self._open: ColumnBuffer | None = None
        self._valid: Tensor | None = None
        self.rows: Tensor | None = None
        self.length = 0
        """Columns so far, padding included."""
        self.reply_start: Tensor | int = 0

    @classmethod
    def joined(cls, parts: Sequence[Recorder]) -> Recorder:
        """A recording of sequences of which each was recorded by itself, at the same sites and under one plan."""
        if len(parts) == 1:
            return parts[0]
        first, lengths = parts[0], [part.length for part in parts]
        found = cls(first.kept, (), first._editors, max(lengths))
        rows = [part.rows for part in parts if part.rows is not None]
        assert len(rows) == len(parts)  # each has seen a pass
        found.length, found.rows = max(lengths), torch.cat(rows)
        found._valid = torch.arange(found.length) < torch.tensor(lengths).unsqueeze(1)
        for site in first._raw:
            raw = pad_sequence([part.raw(site)[0] for part in parts], batch_first=True)
            found._raw[site] = ColumnBuffer(found.length, raw)
        opened = [None if part._open is None else part._open.read(part.length)[0] for part in parts]
        if (some := next((one for one in opened if one is not None), None)) is not None:
            every = [
                some.new_zeros(length, some.shape[1]) if one is None else one
                for one, length in zip(opened, lengths, strict=True)
            ]
            found._open = ColumnBuffer(found.length, pad_sequence(every, batch_first=True))
        return found

    def begin_pass(self, window: Window) -> None:
        """A forward pass is about to run."""
        self.forwards += 1
        if window.fresh:
            self._raw, self._open, self._valid = {}, None, None
        elif window.start < self.length:
            self.cut(window.start)
        end = window.start + window.width
        self.length, self.rows, self.reply_start = end, window.rows, window.reply_start
        if window.valid is not None or self._valid is not None:
            self._note_padding(window)

    def skip(self, valid: Tensor) -> None:
        """Continue after columns `(B, T)`, True where they are no padding, of which nothing is recorded."""
        self.length, self._valid = valid.shape[1], None if bool(valid.all()) else valid

    def resume_pass(self, tokens: int) -> int:
        """A pass over more tokens of a sequence without padding, after all that were read; the first one's column."""
        self.forwards += 1
        start, self.length = self.length, self.length + tokens
        return start

    def keep_raw(self, site: Site, y: Tensor, column: int, *, ours: bool = False) -> None:
        """Keep the activations `(B, T, d_in)` of a site from `column` on, as they were before any edit.

        They are copied, those of a token later if they are `ours`: nobody else has them, so that nobody changes them.
        """
        column_buffer = self._raw.get(site)
        if column_buffer is None:
            column_buffer = self._raw[site] = ColumnBuffer(self._capacity)
        if ours and y.shape[1] == 1:
            column_buffer.take(y.detach(), column)
        else:
            column_buffer.write(y.detach(), column)

    def keep_open(self, opened: Tensor, column: int) -> None:
        """Keep which rules `(B, T, R)` are open from `column` on; they are read when the pass is over."""
        if self._open is None:
            self._open = ColumnBuffer(self._capacity)
        self._open.take(opened, column)

    def record_into(self, buffers: Mapping[Site, Tensor], columns: int) -> None:
        """Continue in buffers `(B, columns, d_in)`, by site, that others write; what was recorded is copied there."""
        for site, buffer in buffers.items():
            buffer[:, : self.length] = self.raw(site)
        self._raw = {site: ColumnBuffer(self._capacity, buffer) for site, buffer in buffers.items()}
        if self._valid is not None:
            more = self._valid.new_ones(len(self._valid), columns - self._valid.shape[1])
            self._valid = torch.cat([self._valid, more], dim=1)

    def cut(self, length: int) -> None:
        """Forget the columns from one on, as their drafts were rejected."""
        self.length = min(self.length, length)
        if self._open is not None:
            self._open.cut(length)
        if self._valid is not None:
            self._valid = self._valid[:, :length]

    def leave(self) -> None:
        """Copy the recording out of the buffers of others."""
        self._raw = {site: ColumnBuffer(self._capacity, self.raw(site).clone()) for site in self._raw}

    def part(self, start: int, end: int) -> tuple[dict[Site, Tensor], Tensor | None]:
        """Copies of the activations by site, and of the rules that were open, from column `start` to `end`."""
        raw = {site: column_buffer.read(end)[:, start:].clone() for site, column_buffer in self._raw.items()}
        return raw, None if self._open is None else self._open.read(end)[:, start:].clone()

    def raw(self, site: Site | int) -> Tensor:
        """`(B, length, d_in)` activations of a site before any edit, in the model's dtype."""
        return self._raw[Site.of(site)].read(self.length)

    def opened(self) -> Mapping[Site, Tensor]:
        """By edited site, `(B, length, R)` which rules acted; none where no rule could."""
        if self._open is None:
            return {}
        opened = self._open.read(self.length)
        return {site: opened.to(editors.device) & editors for site, editors in self._editors.items()}

    def columns(self, sequence: int) -> Tensor:
        """Columns of a sequence that are no padding, in order: the k-th belongs to position k."""
        if self._valid is None:
            return torch.arange(self.length)
        return self._valid[sequence, : self.length].nonzero().squeeze(-1).cpu()

    def check(self) -> None:
        """Raise SteeringError unless every hook ran once in every forward pass, and there was at least one."""
        if self.forwards == 0:
            raise SteeringError(
                "no forward pass of the model ran while steering was attached; is it another model, or one that was "
                "compiled before?"
            )
        silent = [site for site, count in self.fired.items() if count != self.forwards]
        if silent:
            names = ", ".join(site.name for site in silent)
            raise SteeringError(
                f"{names}: the hook ran {self.fired[silent[0]]} times in {self.forwards} forward passes, so its policy "
                f"was not applied; the model does not run what is hooked as a module, or runs code that was compiled "
                f"before"
            )

    def _note_padding(self, window: Window) -> None:
        batch = len(window.rows)
        if self._valid is None:
            self._valid = torch.ones(batch, 0, dtype=torch.bool, device=window.rows.device)
        missing = window.start + window.width - self._valid.shape[1]
        if missing > 0:
            grown = torch.ones(batch, missing, dtype=torch.bool, device=self._valid.device)
            self._valid = torch.cat([self._valid, grown], dim=1)
        if window.valid is not None:
            self._valid[:, window.start : window.start + window.width] = window.valid


class ColumnBuffer:
    """Values `(B, C, …)` of B sequences; columns that nobody wrote are zeros."""

    def __init__(self, capacity: int, buffer: Tensor | None = None) -> None:
        """Start with so many columns, in a new buffer or in one that is given."""
        self._capacity, self._buffer = capacity, buffer
        self._written = 0 if buffer is None else buffer.shape[1]
        """Columns that are as they should be; those after them are not zeros yet."""
        self._ours = buffer is None
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
        with torch.inference_mode(self._buffer.is_inference()):
            self._clear(length)
        return self._buffer[:, :length]

    def cut(self, length: int) -> None:
        """Clear the columns from one on."""
        self._flush()
        if self._ours:
            self._written = min(self._written, length)
        elif self._buffer is not None and self._buffer.shape[1] > length:
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
        self._clear(column)
        self._buffer[:, column:end] = values
        self._written = max(self._written, end)

    def _clear(self, length: int) -> None:
        """Make zeros of the columns before one that nobody wrote."""
        if self._buffer is not None and self._written < length:
            self._buffer[:, self._written : length] = 0
            self._written = length

    def _grow(self, old: Tensor, end: int) -> None:
        self._capacity = max(self._capacity, end, 2 * old.shape[1])
        grown = old.new_empty(old.shape[0], self._capacity, *old.shape[2:])
        grown[:, : self._written] = old[:, : self._written]
        self._buffer, self._ours = grown, True
