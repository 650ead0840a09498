"""Latency of a policy: the same conversations with and without it, batch after batch in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

from steerkit.agent import Runtime
from steerkit.engine import Sampling
from steerkit.lab.prove.dataset import Labelled
from steerkit.policy import Policy
from steerkit.runtime import Request


class Pair(NamedTuple):
    """One batch without and with the policy."""

    plain_seconds: float
    plain_tokens: int
    seconds: float
    tokens: int

    @property
    def ratio(self) -> float:
        """Seconds per generated token with the policy, over those without."""
        return (self.seconds / self.tokens) / (self.plain_seconds / self.plain_tokens)


class Latency(NamedTuple):
    """Ratios of seconds per generated token, one for each pair."""

    ratios: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median of all pairs."""
        return statistics.median(self.ratios)

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest."""
        return min(self.ratios), max(self.ratios)


def measure_pairs(
    runtime: Runtime, policy: Policy, dataset: Sequence[Labelled], sampling: Sampling, pairs: int
) -> list[Pair]:
    """Run one batch of conversations without and with the policy in turns, after a pair that does not count.

    Which goes first changes from pair to pair. The time is that of a full turn: rendering, generating, reading the
    traces, judging.
    """

    def timed(policies: Policy | tuple[Policy, ...]) -> tuple[float, int]:
        requests = [Request(one.messages, one.tools, policies, sampling) for one in dataset]
        start = time.perf_counter()
        turns = runtime.run_batch(requests)
        return time.perf_counter() - start, sum(len(turn.reply_ids) for turn in turns)

    found = []
    for number in range(pairs + 1):
        if number % 2:
            steered, plain = timed(policy), timed(())
        else:
            plain, steered = timed(()), timed(policy)
        found.append(Pair(*plain, *steered))
    return found[1:]
