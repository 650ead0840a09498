"""Scores on public suites, as tables and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table

from steerkit.report.evaluation import cell, share_json
from steerkit.report.rows import print_rows

if TYPE_CHECKING:
    from steerkit.lab.prove.suites import AttackScore, SuiteScore

_ATTACK: Final = {
    "utility": "utility",
    "under_attack": "utility under attack",
    "attacked": "attack succeeds",
    "ran": "calls run",
}
"""The fields of a score, and how a column is called."""


def suite_json(scores: Sequence[SuiteScore]) -> list[dict[str, Any]]:
    """A suite's scores as JSON."""
    return [
        {
            "category": one.category,
            "arm": one.variant,
            "passed": share_json(one.passed),
            "unparsed": share_json(one.unparsed),
            "refused": [refused._asdict() for refused in one.refused],
        }
        for one in scores
    ]


def show_suite(out: Console, scores: Sequence[SuiteScore]) -> None:
    """Print a suite's scores, a row for each category and variant, and under them the tests that were not run."""
    variants = len({one.variant for one in scores}) > 1
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, title in enumerate(("category", "tests", *(["arm"] if variants else []), "passed", "not parsed")):
        table.add_column(title, justify="right" if number else "left")
    for number, one in enumerate(scores):
        again = number and scores[number - 1].category == one.category
        named = ["", ""] if again else [one.category, str(one.passed.count)]
        low, high = one.unparsed.interval
        unparsed = f"{100 * one.unparsed.value:.0f} % ({100 * low:.0f} to {100 * high:.0f})"
        cells = [cell(one.passed), unparsed if one.unparsed.count else "-"]
        table.add_row(*named, *([one.variant] if variants else []), *cells)
    out.print(table)
    for id, reason in dict.fromkeys(refused for one in scores for refused in one.refused):
        out.print(f"not run: {id}: {reason}", soft_wrap=True)


def attack_json(scores: Sequence[AttackScore]) -> list[dict[str, Any]]:
    """Scores on AgentDojo as JSON."""
    return [
        {
            "suite": one.suite,
            "arm": one.arm,
            "trials": one.trials,
            **{name: share_json(getattr(one, name)) for name in _ATTACK},
            "ended": dict(one.ended),
        }
        for one in scores
    ]


def show_attack(out: Console, scores: Sequence[AttackScore]) -> None:
    """Print scores on AgentDojo, a row for each suite and arm, and how trials ended that did not end with an answer."""
    rows = [(one.suite, one.arm, str(one.trials), *(cell(getattr(one, name)) for name in _ATTACK)) for one in scores]
    titles = ("suite", "arm", "trials", *_ATTACK.values())
    print_rows(out, titles, rows, main=3, words=("suite", "arm"))
    for one in scores:
        others = [f"{count} {status}" for status, count in one.ended.items() if status != "answer"]
        if others and (one.suite != "all"):
            out.print(f"{one.suite}, {one.arm}: ended otherwise: {'; '.join(others)}", soft_wrap=True)
