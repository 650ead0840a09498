"""Grammars inside transformers' own `generate`, as a logits processor."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from steerkit.engine.api import Constraint

Fresh = Callable[[int, Sequence[int]], Constraint | None]
"""A grammar before a reply's first token, by the sequence's number in the batch and its prompt; None for any reply."""


class GrammarLogits(LogitsProcessor):
    """Lets each sequence of a batch have only the tokens that its grammar allows. For one `generate`.

    Beams change places: a sequence whose tokens are not those it had with one more is read from its reply's beginning.
    """

    def __init__(self, fresh: Fresh) -> None:
        self._fresh = fresh
        self._prompts: list[list[int]] = []
        self._replies: list[list[int]] = []
        self._now: list[Constraint | None] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores `(B, vocabulary)` for the tokens after `(B, T)`, minus infinity where a grammar refuses them."""
        every: list[list[int]] = input_ids.tolist()
        if not self._prompts:
            self._prompts, self._replies = every, [[] for _ in every]
            self._now = [self._fresh(row, prompt) for row, prompt in enumerate(every)]
        length, found = len(self._prompts[0]), scores.clone()
        for row, tokens in enumerate(every):
            self._advance(row, tokens[length:])
            constraint = self._now[row]
            if constraint is None:
                continue
            mask = torch.frombuffer(bytearray(constraint.allowed()), dtype=torch.uint8).bool()[: scores.shape[1]]
            if bool(mask.any()):  # a reply that has ended is padded
                found[row, : len(mask)].masked_fill_(~mask.to(scores.device), -torch.inf)
                found[row, len(mask) :] = -torch.inf
        return found

    def _advance(self, row: int, reply: list[int]) -> None:
        before = self._replies[row]
        if reply[:-1] != before:
            self._now[row], before = self._fresh(row, self._prompts[row]), []
        constraint = self._now[row]
        if constraint is not None:
            for token in reply[len(before) :]:
                constraint.take(token)
        self._replies[row] = reply
