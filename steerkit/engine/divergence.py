"""Divergence of two next-token distributions."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import torch
from torch import Tensor

_DIGITS: Final = 12
"""Below this there is only the noise of rounding."""


class Divergence(NamedTuple):
    """Divergence of two distributions, in bits."""

    kl: float
    """Kullback-Leibler divergence of the second from the first, sum p log2(p / q); 0 where they are equal."""
    js: float
    """Jensen-Shannon divergence: 0 where they are equal, 1 where they have no token in common."""


def divergence(first: Tensor, second: Tensor) -> Divergence:
    """The divergence of two softmax distributions from their logits `(vocabulary,)`, computed in float64."""
    p, q = (torch.log_softmax(one.double(), dim=-1) for one in (first, second))
    middle = torch.logaddexp(p, q) - math.log(2)
    js = (_nats(p, middle) + _nats(q, middle)) / 2
    kl = _nats(p, q)
    return Divergence(*(round(max(0.0, nats) / math.log(2), _DIGITS) for nats in (kl, js)))


def _nats(p: Tensor, q: Tensor) -> float:
    """sum p (log p - log q) from logarithms; a token of probability 0 in p adds nothing."""
    return float(torch.where(p == -torch.inf, 0.0, p.exp() * (p - q)).sum())
