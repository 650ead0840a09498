"""The tokens of one padded forward pass: their columns, padding and places, and the flat batch they make."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from steerkit.steer.batch import PADDING, Batch, Segments
from steerkit.steer.grammar_state import TokenPlaces
from steerkit.types import PROMPT_PLACES, Place


@dataclass(frozen=True, slots=True)
class Window:
    """The tokens of one forward pass: B sequences, columns `start` to `start + width` of each."""

    start: int
    width: int
    rows: Tensor
    """`(B,)` table row of each sequence."""
    valid: Tensor | None
    """`(B, width)` False at padding; None where nothing is padded."""
    before: Tensor | int
    """Tokens before this pass, padding not counted; `(B,)` where it differs by sequence."""
    reply_start: Tensor | int
    """Column of the step that produces the reply's first token; `(B,)` where it differs by sequence."""
    fresh: bool
    """True if this pass starts new sequences, or the next turn of those in the cache."""
    kept: int | None = None
    """Tokens of the pass before that stay; the others were taken back. None where all stay."""
    grammar: TokenPlaces | None = None
    """Places of the tokens in the conversation; None where no rule asks."""

    @property
    def steady(self) -> object:
        """The key of a reply token's places: while it stays the same, so do they; None for other passes.

        None also with padding, and where prompts end in different columns.
        """
        if self.width != 1 or self.valid is not None or isinstance(self.reply_start, Tensor):
            return None
        if self.start <= self.reply_start:
            return None
        return len(self.rows), None if self.grammar is None else self.grammar.key

    def batch(self, first: int, *, uniform: bool, remembers: bool) -> Batch:
        """The tokens from offset `first` on, flat, sequence after sequence.

        Args:
            first: offset of the first token that a rule may read or edit.
            uniform: True if all sequences share a table row.
            remembers: True if a rule needs to know of earlier tokens: then tokens are numbered, and segmented.
        """
        sequences, width, device = len(self.rows), self.width - first, self.rows.device
        valid = None if self.valid is None else self.valid[:, first:]
        position = torch.arange(self.start + first, self.start + self.width, device=device).expand(sequences, -1)
        if valid is not None:
            position = torch.where(valid, position, PADDING)
        position, start = position.flatten(), self.reply_start
        return Batch(
            self.rows[:1] if uniform else self.rows.repeat_interleave(width),
            position,
            self.numbers(first) if remembers else position,
            start.repeat_interleave(width) if isinstance(start, Tensor) else start,
            Segments.equal(sequences, width, device, valid) if remembers and width > 1 else None,
        )

    def numbers(self, first: int) -> Tensor:
        """`(N,)` numbers of the tokens from offset `first` on in their sequences, padding not counted."""
        if self.valid is None:
            counted = torch.arange(first, self.width, device=self.rows.device).expand(len(self.rows), -1)
        else:
            counted = (self.valid.cumsum(dim=-1) - 1)[:, first:]
        return (counted + (self.before.unsqueeze(-1) if isinstance(self.before, Tensor) else self.before)).flatten()

    def reaches(self, place: Place) -> bool:
        """True if a token of this pass can be at `place`; possibly too often, never too seldom."""
        last = self.start + self.width - 1
        if isinstance(self.reply_start, Tensor):
            return place not in PROMPT_PLACES or self.fresh
        if place in PROMPT_PLACES:
            return self.start <= self.reply_start
        if place == "reply.start":
            return self.start <= self.reply_start <= last
        if place.startswith("call"):
            return last > self.reply_start
        return place == "any" or last >= self.reply_start

    def first(self, places: Iterable[Place]) -> int:
        """Offset of the first token of this pass that can be at one of `places`."""
        if isinstance(self.reply_start, Tensor) or not PROMPT_PLACES.isdisjoint(places) or "any" in places:
            return 0
        return max(0, self.reply_start - self.start)
