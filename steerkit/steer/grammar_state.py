"""The conversation's grammar by sequence, advanced token by token, and masks of the tokens at its places."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import torch
from torch import Tensor

from steerkit.chat import PlaceMachine, Standing, places_of
from steerkit.errors import SteeringError
from steerkit.types import Place


class _Span(Protocol):
    """The part of a pass that is needed here."""

    @property
    def start(self) -> int:
        """First column."""

    @property
    def valid(self) -> Tensor | None:
        """False at padding."""

    @property
    def reply_start(self) -> Tensor | int:
        """Column of the prompt's last token."""


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


class GrammarStates:
    """The grammar's state for each sequence of a batch; ids come to the host once per pass, before the first layer."""

    def __init__(self, machine: PlaceMachine) -> None:
        self._machine = machine
        self._now: list[Standing] = []
        self._passed: list[list[Standing]] = []
        """By sequence, its states before the last pass and after each of its tokens."""

    def read(self, ids: Tensor, window: _Span) -> TokenPlaces:
        """Advance over the tokens `(B, T)` of a pass.

        Raises:
            SteeringError: the pass brings embeddings instead of tokens.
        """
        if ids.ndim != 2 or ids.is_floating_point():
            raise SteeringError("a policy's place is read from tokens, but the model was given embeddings; give ids")
        if window.start == 0:
            self._now = [Standing()] * len(ids)
        self._passed = [[standing] for standing in self._now]
        valid = None if window.valid is None else window.valid.tolist()
        starts = window.reply_start
        ends = starts.tolist() if isinstance(starts, Tensor) else [starts] * len(ids)
        found = [
            self._row(number, tokens, ends[number] - window.start, None if valid is None else valid[number])
            for number, tokens in enumerate(ids.tolist())
        ]
        return TokenPlaces(found, ids.device)

    def resume(self, tokens: Sequence[int]) -> list[Standing]:
        """Advance over one more token of each sequence, all in their replies; their states after it."""
        read = self._machine.read
        self._now = [read(standing, token) for standing, token in zip(self._now, tokens, strict=True)]
        return self._now

    def roll_back(self, kept: int) -> None:
        """Return to the states after the first tokens of the last pass."""
        self._now = [passed[kept] for passed in self._passed]

    def snapshot(self) -> tuple[Standing, ...]:
        """The states now."""
        return tuple(self._now)

    def restore(self, snapshot: Sequence[Standing]) -> None:
        """Continue from a snapshot."""
        self._now = list(snapshot)

    def _row(self, row: int, tokens: list[int], reply_start: int, valid: list[bool] | None) -> list[frozenset[Place]]:
        standing = self._now[row]
        found = []
        for offset, token in enumerate(tokens):
            if valid is None or valid[offset]:
                standing = self._machine.read(standing, token, starts_reply=offset == reply_start)
            self._passed[row].append(standing)
            found.append(places_of(standing))
        self._now[row] = standing
        return found
