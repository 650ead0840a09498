"""The order in which the tokens of a ragged pass are steered, against the pass itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerkit.steer.arrangement import arranged
from steerkit.steer.gather import READ

CPU = torch.device("cpu")
ORDERS: dict[str, tuple[list[int], list[int], list[int], list[int] | None]] = {
    # rows, lengths -> rows of the groups, tokens by place
    "one row": ([3, 3], [2, 1], [3], None),
    "one row beside an unruled one": ([0, 3, 0, 3], [2, 2, 1, 1], [3], [2, 3, 5]),
    "decodes under a policy each": ([1, 2, 3], [1, 1, 1], [1, 2, 3], None),
    "decodes of two policies": ([1, 2] * 8, [1] * 16, [1, 2], [*range(0, 16, 2), *range(1, 16, 2)]),
    "prompts of other lengths": ([2, 1], [3, 4], [1, 2], [3, 4, 5, 6, 0, 1, 2, 0]),
}


@pytest.mark.parametrize("what", ORDERS)
def test_orders(what: str) -> None:
    """Groups of one size, padded with any token; nothing of requests without a rule."""
    rows, lengths, groups, tokens = ORDERS[what]
    found = arranged(rows, lengths, {1, 2, 3}, CPU)
    assert found.rows == groups
    assert (None if found.tokens is None else found.tokens.tolist()) == tokens


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), min_size=1, max_size=12))
@settings(deadline=None, max_examples=60)
def test_each_token_stands_in_a_group_of_its_row_and_comes_back(pieces: list[tuple[int, int]]) -> None:
    """What is written there is written of it; other tokens stay, and padding goes nowhere."""
    rows, lengths = [row for row, _ in pieces], [length for _, length in pieces]
    if not any(rows):
        return
    row = torch.tensor(rows).repeat_interleave(torch.tensor(lengths))
    y = torch.stack([torch.arange(len(row)), row], dim=-1).float()
    found = arranged(rows, lengths, {1, 2, 3}, CPU)
    taken = found.taken(y)
    size = len(taken) // len(found.rows)
    place = [at for n in found.pieces for at in range(found.first[n], found.first[n] + lengths[n])]
    assert taken[place, 1].tolist() == [found.rows[at // size] for at in place]
    written = torch.full_like(taken, -1.0)
    written[place] = taken[place] + 1000
    assert torch.equal(found.put_back(y, written), torch.where((row > 0).unsqueeze(-1), y + 1000, y))
    assert len(taken) - len(place) == sum(found.padding)
    assert len(found.rows) * (READ + size) <= (READ + 1) * len(place) or len(set(found.rows)) == 1
