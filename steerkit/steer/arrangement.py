"""Order in which the tokens of a ragged pass are steered: those under one table row together, in groups of one size.

So each token is multiplied by the features of its own policies, which are loaded once for many tokens. Requests that no
rule governs are left out.

Shapes: N tokens of the pass, K of them steered, in Q groups of M, padding included.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from steerkit.steer.batch import Segments
from steerkit.steer.gather import READ


@dataclass(frozen=True, slots=True)
class Arrangement:
    """The tokens of one pass in the order in which they are steered."""

    rows: list[int]
    """Table row of each group."""
    pieces: list[int]
    """Numbers of the steered pieces of the pass, in order."""
    padding: list[int]
    """Tokens of padding after each of them."""
    first: dict[int, int]
    """Place of the first token of each, by its number."""
    tokens: Tensor | None = None
    """`(Q * M,)` which token of the pass is at each place, any at padding; None where there is no other order."""
    back: Tensor | None = None
    """`(K,)` places of the steered tokens, in the order of the pass."""
    steered: Tensor | None = None
    """`(K,)` which tokens of the pass these are; None for all."""

    def taken(self, y: Tensor) -> Tensor:
        """Activations `(Q * M, d)` in this order, of those of the pass `(N, d)`."""
        return y if self.tokens is None else y[self.tokens.to(y.device)]

    def put_back(self, y: Tensor, written: Tensor) -> Tensor:
        """Activations of the pass `(N, d)`, with those of the steered tokens as they were written in this order."""
        if self.back is None:
            return written
        own = written[self.back.to(y.device)]
        return own if self.steered is None else y.index_copy(0, self.steered.to(y.device), own)


def arranged(rows: Sequence[int], lengths: Sequence[int], ruled: Collection[int], device: torch.device) -> Arrangement:
    """The order of a pass.

    Args:
        rows: table row of each piece.
        lengths: its tokens.
        ruled: rows that have rules; at least one piece is in one.
        device: of the tokens.
    """
    pieces = [number for number, row in enumerate(rows) if row in ruled]
    own, size = list(pieces), _size(rows, lengths, pieces)
    if size > 1:
        pieces.sort(key=lambda number: rows[number])
    groups, padding, first, end = list[int](), [0] * len(pieces), dict[int, int](), 0
    for place, number in enumerate(pieces):
        first[number], end = end, end + lengths[number]
        if place + 1 == len(pieces) or rows[pieces[place + 1]] != rows[number]:
            groups += [rows[number]] * (-(-end // size) - len(groups))
            padding[place] = len(groups) * size - end
            end += padding[place]
    if pieces == list(range(len(rows))) and not any(padding):
        return Arrangement(groups, pieces, padding, first)
    segments = Segments.ragged([lengths[number] for number in own], device)
    offset = torch.arange(len(segments.of), device=device) - segments.first
    before = [0, *accumulate(lengths)]
    starts = torch.tensor([(first[number], before[number]) for number in own], device=device)[segments.of]
    back, steered = (starts + offset.unsqueeze(-1)).unbind(-1)
    tokens = back.new_zeros(end).index_copy(0, back, steered)
    return Arrangement(groups, pieces, padding, first, tokens, back, None if len(own) == len(rows) else steered)


def _size(rows: Sequence[int], lengths: Sequence[int], pieces: Sequence[int]) -> int:
    """Tokens of a group: all under one row, else the power of two at which loading features and multiplying them, with
    padding, costs least."""
    tokens = Counter[int]()
    for number in pieces:
        tokens[rows[number]] += lengths[number]
    if len(tokens) == 1:
        return tokens.total()
    sizes = [1 << power for power in range(max(tokens.values()).bit_length())]
    return min(sizes, key=lambda size: (READ + size) * sum(-(-count // size) for count in tokens.values()))
