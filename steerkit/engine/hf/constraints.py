"""Grammars over the rows of a batch: the tokens that they refuse are drawn again, those without a choice are given."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from steerkit.engine.api import Constraint, Decided, Row
from steerkit.engine.hf.sampler import Sampler
from steerkit.errors import ModelError

Unsteered: TypeAlias = Callable[[Sequence[int]], Tensor]
"""Logits `(vocabulary)` after some tokens, without steering."""


class Chosen(NamedTuple):
    """The next token of every row."""

    tokens: list[int]
    decided: list[Decided]
    """Empty where no row has a grammar."""


class Constraints:
    """The grammars of a batch's rows, each advanced by its row's tokens.

    A token is drawn as ever and only checked; where its grammar refuses it, it is drawn once more from what is allowed.
    That is the distribution of masked sampling: a token of probability p is taken with p + (1 - A) p / A = p / A, where
    A is the probability of all that is allowed.
    """

    def __init__(self, rows: Sequence[Row], stops: Collection[int], unsteered: Unsteered | None = None) -> None:
        self._rows, self._stops, self._unsteered = rows, stops, unsteered
        self._now: list[Constraint | None] = [row.constraint for row in rows]
        self._replies: list[list[int]] = [[] for _ in rows]
        self._any = any(one is not None for one in self._now)

    def choose(self, sampler: Sampler, logits: Tensor, left: Sequence[int]) -> Chosen:
        """The next tokens, from logits `(B, vocabulary)`; rows with nothing left may get any.

        Raises:
            ModelError: a grammar lets no token through.
        """
        tokens = sampler(logits).tolist()
        if not self._any:
            return Chosen(tokens, [])
        decided: list[Decided] = ["model"] * len(tokens)
        for number, constraint in enumerate(self._now):
            if constraint is None or not left[number]:
                continue
            if not constraint.take(tokens[number]):
                decided[number] = self._refused(number, constraint, tokens[number])
                if decided[number] == "mask":
                    tokens[number] = self._drawn(number, constraint, sampler, logits[number])
            self._replies[number].append(tokens[number])
        return Chosen(tokens, decided)

    def forced(self, left: Sequence[int]) -> list[list[int]]:
        """The tokens that come next without a choice, `T` lists of one for each row: as many as all rows have whose
        replies go on. Stop tokens are not among them."""
        rows = [number for number, rest in enumerate(left) if rest]
        if not self._any or not all(self._now[number] is not None for number in rows):
            return []
        runs = {number: self._run(number, left[number]) for number in rows}
        count = min(map(len, runs.values()))
        for number, run in runs.items():
            constraint = self._now[number]
            assert constraint is not None  # all were looked at
            for token in run[:count]:
                constraint.take(token)
            self._replies[number] += run[:count]
        return [[runs[number][at] if number in runs else -1 for number in range(len(left))] for at in range(count)]

    def _run(self, number: int, most: int) -> list[int]:
        constraint = self._now[number]
        run = [] if constraint is None else list(constraint.forced())[:most]
        end = next((at for at, token in enumerate(run) if token in self._stops), len(run))
        return run[:end]

    def _refused(self, number: int, constraint: Constraint, token: int) -> Decided:
        """The way on where a grammar refuses a row's token: a mask, or where steering is the reason, what it wants."""
        row, reply = self._rows[number], self._replies[number]
        instead = row.turned_away
        if instead is None or not constraint.must_call or constraint is instead:
            return "mask"
        assert self._unsteered is not None  # the engine gives it where rows may be turned away
        best = int(self._unsteered([*row.ids, *reply]).argmax())
        if not constraint.allowed()[best]:
            return "mask"  # it would not have called without steering either
        for past in (*reply, token):
            if not instead.take(past):
                return "mask"
        self._now[number] = instead
        return "turned away"

    def _drawn(self, number: int, constraint: Constraint, sampler: Sampler, logits: Tensor) -> int:
        """A token of those that a grammar allows, which has taken it then."""
        mask = torch.frombuffer(bytearray(constraint.allowed()), dtype=torch.uint8)[: len(logits)]
        ids = mask.nonzero().squeeze(-1)
        token = sampler.among(number, logits, ids.to(logits.device)) if len(ids) else -1
        if token < 0 or not constraint.take(token):
            after = len(self._replies[number])
            raise ModelError(f"after {after} tokens of the reply its grammar lets none through; use simpler tools")
        return token
