"""How many tests of a public suite a model passes, plain and under a policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from steerkit.engine import Sampling
from steerkit.lab.finding import Share
from steerkit.lab.mapping import Mapper, batches, in_this_process
from steerkit.lab.suite_cases import SuiteCase, missed
from steerkit.policy import Policy
from steerkit.runtime import Request, Runtime
from steerkit.types import Trace, Turn


@dataclass(frozen=True)
class SuiteScore:
    """One category under one arm."""

    category: str
    arm: str
    """`plain`; `policy`: the calls that the model writes under it; `released`: those of them that may be run."""
    passed: Share
    unparsed: Share
    """Replies with a malformed call, or cut off."""


def run_suite(
    runtime: Runtime,
    cases: Sequence[SuiteCase],
    policy: Policy | None = None,
    *,
    max_new_tokens: int = 256,
    batch: int = 32,
    mapper: Mapper | None = None,
    report: Callable[[int, int], None] | None = None,
) -> list[SuiteScore]:
    """Run all tests greedily and score them category by category, the plain model first.

    Args:
        runtime: the model.
        cases: the tests.
        policy: also run under it.
        max_new_tokens: length of a reply at most.
        batch: tests that are generated together.
        mapper: does the batches (default: this process).
        report: told how many turns of how many were made.

    Raises:
        SteerkitError: a test that cannot be rendered, or a policy that does not fit the model.
    """
    answered = mapper or in_this_process(lambda: runtime)
    found: dict[str, list[Turn]] = {}
    arms: list[tuple[str, tuple[Policy, ...]]] = [("plain", ()), *([("policy", (policy,))] if policy else [])]
    for number, (arm, policies) in enumerate(arms):
        turns: list[Turn] = []
        for some in answered(partial(_turns, policies, Sampling(max_new_tokens)), batches(cases, batch)):
            turns += some
            if report is not None:
                report(number * len(cases) + len(turns), len(arms) * len(cases))
        found[arm] = turns
    scores = []
    for category in dict.fromkeys(case.category for case in cases):
        rows = [row for row, case in enumerate(cases) if case.category == category]
        for arm, turns in found.items():
            written = [missed(cases[row], turns[row].calls) is None for row in rows]
            unparsed = Share(sum(_unparsed(turns[row]) for row in rows), len(rows))
            scores.append(SuiteScore(category, arm, Share(sum(written), len(rows)), unparsed))
            if arm == "policy":
                released = [missed(cases[row], turns[row].released) is None for row in rows]
                scores.append(SuiteScore(category, "released", Share(sum(released), len(rows)), unparsed))
    return scores


def _turns(policies: Sequence[Policy], sampling: Sampling, runtime: Runtime, some: Sequence[SuiteCase]) -> list[Turn]:
    """The turns of tests that are answered together, without their traces."""
    turns = runtime.run_batch([Request(case.messages, case.tools, policies, sampling) for case in some])
    return [replace(turn, trace=Trace()) for turn in turns]


def _unparsed(turn: Turn) -> bool:
    return turn.finish == "length" or any(verdict.rule == "malformed_call" for verdict in turn.verdicts)
