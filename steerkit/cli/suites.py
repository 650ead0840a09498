"""Public suites in `steerkit eval --suite`: what is asked for, how it runs, and how its scores are shown."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from steerkit.cli.loading import check_writable, progress, stoppable, this_command
from steerkit.cli.workers import Where, mapper_of
from steerkit.errors import SaeError
from steerkit.files import write_text_atomic
from steerkit.report import console, print_json, say_line

if TYPE_CHECKING:
    from steerkit.agent import Runtime
    from steerkit.lab.prove.suites import Agent
    from steerkit.lab.workers import Mapper
    from steerkit.policy import Policy

Suite: TypeAlias = Literal["bfcl", "mobile-actions", "agentdojo"]


class Asked(NamedTuple):
    """Options of a suite."""

    suite: Suite | None
    policy: Path | None
    arms: str | None
    data: Path | None
    attack: str | None
    agent: Agent | None
    suites: str | None
    max_turns: int | None
    limit: int | None
    batch: int
    max_new_tokens: int | None
    out: Path | None
    raw_results: Path | None
    json: Path | None

    def check(self, proving: Mapping[str, Path | None], html: Path | None, beside: Sequence[Path] = ()) -> None:
        """Refuse what is missing, what the other way of evaluating would take, and what cannot be written.

        Raises:
            SaeError: says which.
        """
        files = self.suite in ("bfcl", "mobile-actions")
        wanted = ({"--data": self.data} if files else {}) if self.suite else proving
        if missing := [name for name, value in wanted.items() if value is None]:
            raise SaeError(
                f"eval: got no {', '.join(missing)}; give --policy, --harmful and --benign, or --suite and --data"
            )
        if self.raw_results is not None and self.suite != "bfcl":
            raise SaeError(f"--raw-results: got {self.raw_results} without --suite bfcl, whose scorer reads them")
        if self.data is not None and not files:
            got = "without --suite" if self.suite is None else f"with --suite {self.suite}, which brings its own"
            raise SaeError(f"--data: got it {got}; expected --suite bfcl or mobile-actions, or no --data")
        if self.arms is not None and self.suite is None:
            raise SaeError("--arms: got it without --suite; the arms of a proof are all of them")
        own = {"--attack": self.attack, "--agent": self.agent, "--suites": self.suites, "--max-turns": self.max_turns}
        if self.suite != "agentdojo" and (given := [name for name, value in own.items() if value is not None]):
            raise SaeError(f"{', '.join(given)}: expected with --suite agentdojo alone")
        others = [name for name, value in {**proving, "--html": html, "--beside": beside or None}.items() if value]
        if self.suite is not None and (others := [name for name in others if name != "--policy"]):
            said = "expected without --suite, which has conversations and tables of its own"
            raise SaeError(f"{', '.join(others)}: {said}")
        check_writable(self.out, "--out", folder=True)
        for option, path in (("--json", self.json), ("--html", html)):
            check_writable(path, option)

    @property
    def length(self) -> dict[str, Any]:
        """Sizes of batches and of replies, where they are given."""
        longest = {} if self.max_new_tokens is None else {"max_new_tokens": self.max_new_tokens}
        return {"batch": self.batch, **longest}

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of either kind of suite."""
        return {"arms": self.arms.split(",") if self.arms else None, "out": self.out}

    def judging(self) -> Policy | None:
        """The policy, read."""
        from steerkit.policy import load

        return load(self.policy) if self.policy else None


def score_suite(at: Where, asked: Asked) -> None:
    """Run a suite and show its scores."""
    _attacked(at, asked) if asked.suite == "agentdojo" else _answered(at, asked)


def write_json(path: Path | None, content: Any) -> None:
    """Write JSON to a file, or to standard output for -."""
    if path is not None and str(path) == "-":
        print_json(content)
    elif path is not None:
        write_text_atomic(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n", SaeError)
        say_line(f"wrote {path}")


def _answered(at: Where, asked: Asked) -> None:
    """Suites of single turns."""
    from steerkit.lab.prove.suites import passed_over, read_bfcl, read_mobile_actions, run_suite
    from steerkit.report import show_suite, suite_json

    assert asked.data is not None  # checked
    bfcl = asked.suite == "bfcl"
    cases, over = (read_bfcl(asked.data), passed_over(asked.data)) if bfcl else (read_mobile_actions(asked.data), [])
    if over:
        say_line(f"passed over: {', '.join(over)}")
    counts: dict[str, int] = {}
    some = []
    for case in cases:
        counts[case.category] = counts.get(case.category, 0) + 1
        some += [case] if asked.limit is None or counts[case.category] <= asked.limit else []
    policy, runtime = asked.judging(), at.here()
    with _running(at, runtime, asked.out) as (mapper, report):
        settings = {**asked.settings, **asked.length, "results": asked.raw_results}
        scores = run_suite(runtime, some, policy, **settings, mapper=mapper, report=report)
    if asked.json is None or str(asked.json) != "-":
        show_suite(console(), scores)
    found = {"suite": asked.suite, "model": runtime.engine.name, "passed_over": over, "scores": suite_json(scores)}
    write_json(asked.json, found)


def _attacked(at: Where, asked: Asked) -> None:
    """AgentDojo."""
    from steerkit.lab.prove.suites import run_agentdojo, trials_of
    from steerkit.report import attack_json, show_attack

    chosen = {} if asked.suites is None else {"chosen": asked.suites.split(",")}
    trials = trials_of(**chosen, attack=asked.attack, limit=asked.limit)
    policy, runtime = asked.judging(), at.here()
    agent: Agent = asked.agent or "model"
    lengths = {"max_turns": asked.max_turns, "max_new_tokens": asked.max_new_tokens}
    settings = {**asked.settings, **{name: value for name, value in lengths.items() if value is not None}}
    with _running(at, runtime, asked.out) as (mapper, report):
        play = partial(run_agentdojo, runtime, trials, policy, attack=asked.attack, agent=agent)
        scores = play(**settings, mapper=mapper, report=report)
    if asked.json is None or str(asked.json) != "-":
        show_attack(console(), scores)
    found = {"suite": asked.suite, "model": runtime.engine.name, "agent": agent, "attack": asked.attack}
    write_json(asked.json, {**found, "scores": attack_json(scores)})


@contextmanager
def _running(at: Where, runtime: Runtime, out: Path | None) -> Iterator[tuple[Mapper, Callable[[int, int], None]]]:
    """The mapper and the progress of a run; garbled declarations are told once, at its end."""
    standing = f"finished tests stand in {out}; go on" if out else "no score stands; start again"
    with (
        stoppable(lambda: f"{standing} with {this_command()}"),
        progress(1, "tests") as report,
        mapper_of(at, runtime) as mapper,
        warnings.catch_warnings(record=True) as garbled,
    ):
        warnings.simplefilter("always", UserWarning)
        yield mapper, report
    said = _different(garbled)
    if said:
        say_line(f"warning: {len(said)} parts of declarations are garbled, such as {said[0]}")


def _different(found: Sequence[warnings.WarningMessage]) -> list[str]:
    return list(dict.fromkeys(str(one.message) for one in found))
