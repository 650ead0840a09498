"""The conversation's grammar by sequence, advanced token by token, and masks of the tokens at its places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from steerkit.chat import GrammarState, PlaceMachine
from steerkit.errors import SteeringError
from steerkit.steer.batch import TokenPlaces
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


def advance(
    machine: PlaceMachine,
    state: GrammarState,
    tokens: Sequence[int],
    reply_start: int = -1,
    valid: Sequence[bool] | None = None,
) -> tuple[list[GrammarState], list[frozenset[Place]]]:
    """The states after each of a sequence's next tokens, and the places of these tokens.

    Args:
        machine: the tokenizer's.
        state: before them.
        tokens: T of them.
        reply_start: offset of the prompt's last token; any other number where it is not among them.
        valid: False at padding, which is at no place and leaves the state as it is.
    """
    states, places = [], []
    for offset, token in enumerate(tokens):
        here: frozenset[Place] = frozenset()
        if valid is None or valid[offset]:
            state, here = machine.step(state, token, starts_reply=offset == reply_start)
        states.append(state)
        places.append(here)
    return states, places


class GrammarStates:
    """The grammar's state for each sequence of a batch; ids come to the host once per pass, before the first layer."""

    def __init__(self, machine: PlaceMachine) -> None:
        self._machine = machine
        self._now: list[GrammarState] = []
        self._passed: list[list[GrammarState]] = []
        """By sequence, its states before the last pass and after each of its tokens."""

    def read(self, ids: Tensor, window: _Span) -> TokenPlaces:
        """Advance over the tokens `(B, T)` of a pass.

        Raises:
            SteeringError: the pass brings embeddings instead of tokens.
        """
        if ids.ndim != 2 or ids.is_floating_point():
            raise SteeringError("a policy's place is read from tokens, but the model was given embeddings; give ids")
        if window.start == 0:
            self._now = [GrammarState()] * len(ids)
        self._passed = [[state] for state in self._now]
        valid = None if window.valid is None else window.valid.tolist()
        starts = window.reply_start
        ends = starts.tolist() if isinstance(starts, Tensor) else [starts] * len(ids)
        found = []
        for row, tokens in enumerate(ids.tolist()):
            reply_start = ends[row] - window.start
            states, places = advance(
                self._machine, self._now[row], tokens, reply_start, None if valid is None else valid[row]
            )
            self._passed[row] += states
            found.append(places)
        self._now = [passed[-1] for passed in self._passed]
        return TokenPlaces(found, ids.device)

    def resume(self, tokens: Sequence[int]) -> list[frozenset[Place]]:
        """Advance over one more token of each sequence, all in their replies; the places of these tokens."""
        walked = [advance(self._machine, state, [token]) for state, token in zip(self._now, tokens, strict=True)]
        self._now = [states[-1] for states, _ in walked]
        return [places[-1] for _, places in walked]

    def roll_back(self, kept: int) -> None:
        """Return to the states after the first tokens of the last pass."""
        self._now = [passed[kept] for passed in self._passed]

    def snapshot(self) -> tuple[GrammarState, ...]:
        """The states now."""
        return tuple(self._now)

    def restore(self, snapshot: Sequence[GrammarState]) -> None:
        """Continue from a snapshot."""
        self._now = list(snapshot)
