"""The tokens of one forward pass: which columns they are, which are padding, and at which places they stand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from steerkit.steer.grammar_state import TokenPlaces
from steerkit.types import PROMPT_PLACES, Place

COLUMN_PLACES = frozenset({"any", "prompt", "reply", "reply.start"})
"""Places that are known from columns alone; the others are read from the tokens."""


def needs_tokens(places: Iterable[Place]) -> bool:
    """Whether the tokens must be read to know these places."""
    return not set(places) <= COLUMN_PLACES


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
    """Whether this pass starts new sequences, or the next turn of those in the cache."""
    kept: int | None = None
    """Tokens of the pass before that stay; the others were taken back. None where all do."""
    stands: TokenPlaces | None = None
    """Where the tokens stand by the conversation's grammar; None where no place asks."""

    @property
    def steady(self) -> object:
        """Of a token of the reply: what its places follow from, the same for the next as long as they are; else None.

        For padding, and where prompts end in different columns, this is not known.
        """
        if self.width != 1 or self.valid is not None or isinstance(self.reply_start, Tensor):
            return None
        if self.start <= self.reply_start:
            return None
        return len(self.rows), None if self.stands is None else self.stands.key

    @property
    def columns(self) -> Tensor:
        """`(1, width)` column numbers."""
        return torch.arange(self.start, self.start + self.width, device=self.rows.device).unsqueeze(0)

    @property
    def numbers(self) -> Tensor:
        """`(B, width)` number of each token in its sequence, padding not counted."""
        if self.valid is None:
            counted = torch.arange(self.width, device=self.rows.device).expand(len(self.rows), -1)
        else:
            counted = self.valid.cumsum(dim=-1) - 1
        return counted + (self.before.unsqueeze(-1) if isinstance(self.before, Tensor) else self.before)

    def ends(self, first: int) -> Tensor:
        """`(B,)` offset, counted from `first`, of each sequence's last token here; -1 where all are padding."""
        last = self.width - 1 - first
        if self.valid is None:
            return torch.full((len(self.rows),), last, device=self.rows.device)
        offsets = torch.arange(last + 1, device=self.rows.device)
        return torch.where(self.valid[:, first:], offsets, -1).amax(dim=-1)

    def reaches(self, place: Place) -> bool:
        """Whether a token of this pass can stand at `place`; may say yes too often, never no too often."""
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
        """Offset of the first token of this pass that can stand at one of `places`."""
        if isinstance(self.reply_start, Tensor) or not PROMPT_PLACES.isdisjoint(places) or "any" in places:
            return 0
        return max(0, self.reply_start - self.start)

    def at(self, place: Place) -> Tensor:
        """`(B, width)` which tokens stand at `place`; padding stands nowhere."""
        start = self.reply_start.unsqueeze(-1) if isinstance(self.reply_start, Tensor) else self.reply_start
        columns = self.columns.expand(len(self.rows), -1)
        if place not in COLUMN_PLACES:
            assert self.stands is not None  # the positions was told of the places
            mask = self.stands.at(place)
        elif place == "prompt":
            mask = columns <= start
        elif place == "reply":
            mask = columns >= start
        elif place == "reply.start":
            mask = columns == start
        else:
            mask = torch.ones_like(columns, dtype=torch.bool)
        return mask if self.valid is None else mask & self.valid
