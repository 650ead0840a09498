"""Tokens that a grammar refuses are drawn again: the distribution is that of masked sampling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from steerkit.engine import Row, Sampling
from steerkit.engine.hf.constraints import Constraints
from steerkit.engine.hf.sampler import Sampler
from steerkit.errors import ModelError
from steerkit.steer import Wanted

LOGITS = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.0, -1.0, 1.5, 0.2])
MASK = bytes((0, 1, 0, 1, 1, 0, 0, 1))
ALLOWED = [1, 3, 4, 7]


class Set:
    """Lets some tokens through, at any place."""

    must_call = False

    def __init__(self, mask: bytes = MASK) -> None:
        self._mask = mask

    def take(self, token: int) -> bool:
        """True for one of them."""
        return bool(self._mask[token])

    def allowed(self) -> bytes:
        """The mask."""
        return self._mask

    def forced(self) -> Sequence[int]:
        """None."""
        return ()


def drawn(settings: Sampling, times: int, mask: bytes = MASK) -> tuple[list[int], int]:
    """Tokens drawn one after the other, and how often a mask decided."""
    sampler = Sampler([settings], torch.device("cpu"))
    constraints = Constraints([Row((), Wanted(), settings, Set(mask))], ())
    chosen = [constraints.choose(sampler, LOGITS[None], [1]) for _ in range(times)]
    return [one.tokens[0] for one in chosen], sum(one.decided == ["mask"] for one in chosen)


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        (Sampling(temperature=1.0), {token: math.exp(LOGITS[token]) for token in ALLOWED}),
        (Sampling(temperature=0.7), {token: math.exp(LOGITS[token] / 0.7) for token in ALLOWED}),
        (Sampling(temperature=1.0, top_k=4), {1: 1.0}),  # of the four likeliest it alone is allowed
        (Sampling(temperature=1.0, top_k=1), {1: 1.0}),  # none is: it is the likeliest of those that are
        (Sampling(), {1: 1.0}),
    ],
    ids=str,
)
def test_what_is_drawn_again_is_drawn_as_by_a_mask(settings: Sampling, weights: dict[int, float]) -> None:
    """Each allowed token comes with p / A, after top-k, within four standard deviations; greedy takes the likeliest."""
    times = 4000 if len(weights) > 1 else 50
    tokens, masked = drawn(settings, times)
    assert masked > 0
    total = sum(weights.values())
    for token in range(len(MASK)):
        share = weights.get(token, 0.0) / total
        spread = math.sqrt(share * (1 - share) / times)
        assert abs(tokens.count(token) / times - share) <= 4 * spread + 1e-9, token


def test_nothing_left_is_an_error() -> None:
    """A grammar without a way on is said, and no token made up."""
    with pytest.raises(ModelError, match="lets none through"):
        drawn(Sampling(), 1, bytes(8))
