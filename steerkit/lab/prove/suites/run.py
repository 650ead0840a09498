"""How many tests of a public suite a model passes, plain and under a policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from steerkit.agent import Runtime
from steerkit.engine import Sampling
from steerkit.errors import MissingExtraError, PolicyError, SaeError, SteerkitError
from steerkit.lab.measured import Share
from steerkit.lab.prove.suites.cases import SuiteCase, asked, missed
from steerkit.lab.prove.suites.results import write_results
from steerkit.lab.workers.local import Mapper, batches, in_this_process
from steerkit.policy import Policy
from steerkit.runtime import Request
from steerkit.types import Trace, Turn

MAX_NEW_TOKENS: Final = 768
"""Length of a reply at most: of BFCL v4's right answers the longest has 720 tokens in the small vocabulary of the model
in the box (1,220 characters), and fewer in a larger one."""


class Refused(NamedTuple):
    """A test that was not run."""

    id: str
    reason: str
    """Its tools cannot be declared to the model, or its prompt cannot be made or is too long."""


@dataclass(frozen=True)
class SuiteScore:
    """One category under one arm."""

    category: str
    arm: str
    """`plain`; `policy`: the calls that the model writes under it; `released`: those of them that may be run."""
    passed: Share
    unparsed: Share
    """Replies with a malformed call, or cut off."""
    refused: tuple[Refused, ...] = ()
    """Tests that were not run; the shares are of the others."""


def run_suite(
    runtime: Runtime,
    cases: Sequence[SuiteCase],
    policy: Policy | None = None,
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch: int = 32,
    mapper: Mapper | None = None,
    results: Path | None = None,
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
        results: folder for the replies, see `write_results`; under a policy, for `plain` and `policy` in it.
        report: told how many turns of how many were made.

    Raises:
        SteerkitError: no test can be run, a policy does not fit the model, or results cannot be written.
    """
    answered = mapper or in_this_process(lambda: runtime)
    refused = {row: Refused(case.id, case.undeclared) for row, case in enumerate(cases) if case.undeclared}
    runnable = [row for row, case in enumerate(cases) if not case.undeclared]
    found: dict[str, dict[int, Turn | Refused]] = {}
    arms: dict[str, tuple[Policy, ...]] = {"plain": (), **({"policy": (policy,)} if policy else {})}
    for number, (arm, policies) in enumerate(arms.items()):
        turns: list[Turn | Refused] = []
        work = partial(_turns, runtime.policies_of(policies), Sampling(max_new_tokens))
        for some in answered(work, batches([cases[row] for row in runnable], batch)):
            turns += some
            if report:
                report(number * len(runnable) + len(turns), len(arms) * len(runnable))
        found[arm] = {**refused, **dict(zip(runnable, turns, strict=True))}
        _check_any(found[arm])
        if results is not None:
            written = {row: turn.reply_ids for row, turn in found[arm].items() if isinstance(turn, Turn)}
            write_results(results / arm if policy else results, cases, written, runtime.loaded.tokenizer)
    return [
        score
        for category in dict.fromkeys(case.category for case in cases)
        for arm, answers in found.items()
        for score in _scores(category, arm, [(case, answers[row]) for row, case in enumerate(cases)])
    ]


def _scores(category: str, arm: str, answers: Sequence[tuple[SuiteCase, Turn | Refused]]) -> list[SuiteScore]:
    """What an arm comes to in one category; under a policy also what may be run of it."""
    turns = [(case, turn) for case, turn in answers if case.category == category and isinstance(turn, Turn)]
    refused = tuple(one for case, one in answers if case.category == category and isinstance(one, Refused))
    unparsed = Share(sum(_unparsed(turn) for _, turn in turns), len(turns))
    passed = {arm: [missed(case, turn.calls) is None for case, turn in turns]}
    if arm == "policy":
        passed["released"] = [missed(case, turn.released) is None for case, turn in turns]
    return [SuiteScore(category, name, Share(sum(hits), len(hits)), unparsed, refused) for name, hits in passed.items()]


def _check_any(answers: dict[int, Turn | Refused]) -> None:
    refused = [one for one in answers.values() if isinstance(one, Refused)]
    if answers and len(refused) == len(answers):
        raise SaeError(f"none of {len(refused)} tests can be run; the first, {refused[0].id}: {refused[0].reason}")


def _turns(
    policies: Sequence[Policy], sampling: Sampling, runtime: Runtime, some: Sequence[SuiteCase]
) -> list[Turn | Refused]:
    """The turns of tests that are answered together, without their traces; a test that cannot be asked is left out."""
    try:
        turns = runtime.run_batch([Request(asked(case), case.tools, policies, sampling) for case in some])
    except (PolicyError, MissingExtraError):  # none of a test's
        raise
    except SteerkitError as error:
        if len(some) == 1:
            return [Refused(some[0].id, str(error))]
        half = len(some) // 2
        return [turn for part in (some[:half], some[half:]) for turn in _turns(policies, sampling, runtime, part)]
    return [replace(turn, trace=Trace()) for turn in turns]


def _unparsed(turn: Turn) -> bool:
    return turn.finish == "length" or any(verdict.rule == "malformed_call" for verdict in turn.verdicts)
