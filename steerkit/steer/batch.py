"""The tokens of one forward pass: a window of padded columns, or ragged sequences, as one flat batch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor

from steerkit.types import PROMPT_PLACES, Place

COLUMN_PLACES: Final = frozenset({"any", "prompt", "reply", "reply.start"})
"""Places that follow from positions alone; the others follow from the tokens."""


def needs_tokens(places: Iterable[Place]) -> bool:
    """True if some of these places follow from the tokens, not from their positions."""
    return not set(places) <= COLUMN_PLACES


PADDING: Final = -1
"""Position of padding."""


class Segments(NamedTuple):
    """Runs of tokens that belong to one sequence each: G of them, one after the other."""

    of: Tensor
    """`(N,)` segment of each token."""
    first: Tensor
    """`(N,)` index of the first token of each token's segment."""
    end: Tensor
    """`(G,)` index of each segment's last token."""
    last: Tensor
    """`(G,)` index of its last token that is no padding; below its first where all are padding."""

    @classmethod
    def equal(cls, sequences: int, width: int, device: torch.device, valid: Tensor | None = None) -> Segments:
        """Sequences of one width; `valid` `(sequences, width)` is False at padding."""
        number = torch.arange(sequences, device=device)
        of = number.repeat_interleave(width)
        end = last = number * width + width - 1
        if valid is not None:
            offsets = torch.arange(width, device=device)
            last = number * width + torch.where(valid, offsets, -1).amax(dim=-1)
        return cls(of, of * width, end, last)

    @classmethod
    def ragged(cls, lengths: Sequence[int], device: torch.device, padding: Sequence[int] = ()) -> Segments:
        """Sequences of these lengths, all at least 1, with so much padding after each (default: none)."""
        length = last = torch.tensor(lengths, device=device)
        if any(padding):
            length = length + torch.tensor(padding, device=device)
        end = length.cumsum(0)
        of = torch.arange(len(lengths), device=device).repeat_interleave(length)
        return cls(of, (end - length)[of], end - 1, end - length + last - 1)

    def to(self, device: torch.device) -> Segments:
        """These on another device."""
        return Segments(*(part.to(device) for part in self))


class Batch(NamedTuple):
    """The N tokens of one forward pass, of G sequences."""

    row: Tensor
    """`(N,)` table row of each token's policies, or `(1,)` where all share one."""
    position: Tensor
    """`(N,)` place of the token in its sequence: its number, or its column in a padded batch; `PADDING` at padding."""
    number: Tensor
    """`(N,)` tokens of its sequence before it, padding not counted; differs from the position in padded batches."""
    reply_start: Tensor | int
    """`(N,)`, or one for all: position of the prompt's last token: the step there produces the reply's first token."""
    segments: Segments | None
    """Tokens of one sequence; None where each token is the only one of its sequence here."""
    slot: Tensor | None = None
    """`(G,)` slot of each segment's gate memory; None where these are the slots themselves, in order."""

    def at(self, place: Place) -> Tensor:
        """`(N,)` tokens at one of the `COLUMN_PLACES`; padding is at none."""
        real = self.position > PADDING
        if place == "any":
            return real
        if place == "prompt":
            return real & (self.position <= self.reply_start)
        return real & (
            self.position == self.reply_start if place == "reply.start" else self.position >= self.reply_start
        )

    def to(self, device: torch.device) -> Batch:
        """Number, segments and slots, which gates need, on another device."""
        if self.number.device == device:
            return self
        segments, slot = self.segments, self.slot
        return self._replace(
            number=self.number.to(device),
            segments=None if segments is None else segments.to(device),
            slot=None if slot is None else slot.to(device),
        )


class TokenPlaces:
    """The places of the tokens of one pass, sequence by sequence."""

    def __init__(self, places: Sequence[Sequence[Collection[Place]]], device: torch.device) -> None:
        self._places, self._device = places, device

    @property
    def key(self) -> tuple[tuple[Collection[Place], ...], ...]:
        """Equal where all tokens are at the same places."""
        return tuple(map(tuple, self._places))

    def after(self, first: int) -> TokenPlaces:
        """The tokens from offset `first` of each sequence on."""
        return TokenPlaces([row[first:] for row in self._places], self._device) if first else self

    def at(self, place: Place) -> Tensor:
        """`(N,)` tokens at a place."""
        return torch.tensor([place in here for row in self._places for here in row], device=self._device)


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
