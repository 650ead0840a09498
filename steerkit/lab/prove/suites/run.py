"""Scores of a model on a public suite of single turns, under each arm."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

from steerkit import __version__
from steerkit.agent import Runtime
from steerkit.engine import Sampling
from steerkit.errors import MissingExtraError, PolicyError, SaeError, SteerkitError
from steerkit.lab.measured import Share
from steerkit.lab.prove.resume import VariantFiles
from steerkit.lab.prove.suites.arms import PLAIN, arms_of, identity_of, run_arms
from steerkit.lab.prove.suites.cases import SuiteCase, asked, missed
from steerkit.lab.prove.suites.results import write_results
from steerkit.lab.workers.local import Mapper, batches, in_this_process
from steerkit.policy import Policy
from steerkit.runtime import Request
from steerkit.types import Turn

MAX_NEW_TOKENS: Final = 768
"""Length of a reply at most: of BFCL v4's right answers the longest has 720 tokens in the small vocabulary of the model
in the box (1,220 characters), and fewer in a larger one."""


class Tested(NamedTuple):
    """Outcome of a test, as it is kept."""

    id: str
    refused: str = ""
    """Why it was not run; the rest is empty then."""
    passed: bool = False
    """The calls that the model wrote are the wanted ones."""
    released: bool = False
    """Those of them that may be run are."""
    unparsed: bool = False
    reply: Sequence[int] = ()
    """Its tokens."""


class Refused(NamedTuple):
    """A test that was not run."""

    id: str
    reason: str
    """Its tools cannot be declared to the model, or its prompt cannot be made or is too long."""


@dataclass(frozen=True)
class SuiteScore:
    """One category under one variant."""

    category: str
    variant: str
    """An arm: the calls that the model writes under it. `released`, or `ARM, released`: those of them that may be run,
    where a guard acts."""
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
    arms: Sequence[str] | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch: int = 32,
    mapper: Mapper | None = None,
    out: Path | None = None,
    results: Path | None = None,
    report: Callable[[int, int], None] | None = None,
) -> list[SuiteScore]:
    """Run all tests greedily under every arm and score them category by category, the plain model first.

    Args:
        runtime: the model.
        cases: the tests.
        policy: what the arms are made of.
        arms: names from `ARMS` (default: the plain model, and the policy).
        max_new_tokens: length of a reply at most.
        batch: tests that are generated together.
        mapper: does the batches (default: this process).
        out: folder that keeps finished batches; what stands there is not run again.
        results: folder for the replies, see `write_results`; under a policy, for each arm in it.
        report: callback for progress: turns that are done, and how many there are.

    Raises:
        SteerkitError: no test can be run, a policy does not fit the model, results cannot be written, or `out` holds
            those of something else.
    """
    under = arms_of(policy, arms or ([PLAIN, "policy"] if policy else [PLAIN]))
    order = _order(cases)
    runnable = [cases[row] for row in order]
    files = VariantFiles(out, {} if out is None else _identity(runtime, runnable, policy, max_new_tokens, batch))

    def work_of(policies: Sequence[Policy]) -> Any:
        return partial(_tested, runtime.policies_of(policies), Sampling(max_new_tokens))

    here = mapper or in_this_process(lambda: runtime)
    kept = run_arms(under, work_of, batches(runnable, batch), files, here, report)
    found = {arm: _all(cases, dict(zip(order, some, strict=True))) for arm, some in kept.items()}
    for arm, tested in found.items():
        _write(results and (results / arm if policy else results), cases, tested, runtime)
    return [
        score
        for category, rows in _by_category(cases).items()
        for arm, tested in found.items()
        for score in _scores(category, arm, under[arm], [tested[row] for row in rows])
    ]


def _order(cases: Sequence[SuiteCase]) -> list[int]:
    """Numbers of the tests that are run: those of like length and with the same tools side by side, as what is
    generated together waits for the longest, and reads a beginning that it shares once."""
    tools = {row: repr(case.tools) for row, case in enumerate(cases) if not case.undeclared}
    return sorted(tools, key=lambda row: (len(tools[row]), tools[row], row))


def _by_category(cases: Sequence[SuiteCase]) -> dict[str, list[int]]:
    """Numbers of the tests of each category."""
    found: dict[str, list[int]] = {}
    for row, case in enumerate(cases):
        found.setdefault(case.category, []).append(row)
    return found


def _write(folder: Path | None, cases: Sequence[SuiteCase], tested: Sequence[Tested], runtime: Runtime) -> None:
    """Write the replies of an arm down for BFCL's scorer, where a folder is given."""
    if folder is not None:
        written = {row: one.reply for row, one in enumerate(tested) if not one.refused}
        write_results(folder, cases, written, runtime.engine.tokenizer)


def _all(cases: Sequence[SuiteCase], kept: Mapping[int, Mapping[str, Any]]) -> list[Tested]:
    """Outcomes of all tests, those among them whose tools cannot be declared. Raises SaeError where none was run."""
    found = [Tested(**kept.get(row) or {"id": case.id, "refused": case.undeclared}) for row, case in enumerate(cases)]
    if found and all(one.refused for one in found):
        raise SaeError(f"none of {len(found)} tests can be run; the first, {found[0].id}: {found[0].refused}")
    return found


def _scores(category: str, arm: str, policies: Sequence[Policy], tested: Sequence[Tested]) -> list[SuiteScore]:
    """Scores of an arm in one category; where a guard acts also of the calls that may be run."""
    ran = [one for one in tested if not one.refused]
    refused = tuple(Refused(one.id, one.refused) for one in tested if one.refused)
    unparsed = Share.of([one.unparsed for one in ran])
    passed = {arm: [one.passed for one in ran]}
    if any(one.guard is not None and one.mode == "enforce" for one in policies):
        passed["released" if arm == "policy" else f"{arm}, released"] = [one.released for one in ran]
    return [SuiteScore(category, name, Share.of(hits), unparsed, refused) for name, hits in passed.items()]


def _tested(
    policies: Sequence[Policy], sampling: Sampling, runtime: Runtime, some: Sequence[SuiteCase]
) -> list[dict[str, Any]]:
    """Outcomes of tests that are answered together; one that cannot be asked is told apart from the others."""
    requests = [Request(asked(case), case.tools, policies, sampling) for case in some]
    turns = runtime.run_batch(requests, batch_size=len(requests), continuous=True, errors="return")
    return [_outcome(case, turn)._asdict() for case, turn in zip(some, turns, strict=True)]


def _outcome(case: SuiteCase, turn: Turn | SteerkitError) -> Tested:
    if isinstance(turn, (PolicyError, MissingExtraError)):  # none of a test's
        raise turn
    if isinstance(turn, SteerkitError):
        return Tested(case.id, re.sub(r"^requests\[\d+\]: ", "", str(turn)))
    passed, released = missed(case, turn.calls) is None, missed(case, turn.released) is None
    return Tested(case.id, "", passed, released, _unparsed(turn), turn.reply_ids)


def _unparsed(turn: Turn) -> bool:
    return turn.finish == "length" or any(verdict.rule == "malformed_call" for verdict in turn.verdicts)


def _identity(
    runtime: Runtime, cases: Sequence[SuiteCase], policy: Policy | None, max_new_tokens: int, batch: int
) -> dict[str, Any]:
    """All that the outcomes depend on."""
    return {
        "steerkit": __version__,
        "policy": identity_of(policy),
        "model": runtime.engine.provenance.model.fingerprint,
        "saes": None if runtime.saes is None else runtime.saes.fingerprint,
        "tests": sha256(repr(cases).encode()).hexdigest(),
        "max_new_tokens": max_new_tokens,
        "batch": batch,
    }
