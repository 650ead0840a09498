"""The tokens of one forward pass, flat: whose they are, where they stand, and which belong together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from steerkit.types import Place

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
    def ragged(cls, lengths: Sequence[int], device: torch.device) -> Segments:
        """Sequences of these lengths, all at least 1, without padding."""
        length = torch.tensor(lengths, device=device)
        end = length.cumsum(0)
        of = torch.arange(len(lengths), device=device).repeat_interleave(length)
        return cls(of, (end - length)[of], end - 1, end - 1)

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
