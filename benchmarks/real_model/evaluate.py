"""Scores of a built model: held-out conversations, orders in results, and BFCL's tests, all greedy.

    python benchmarks/real_model/evaluate.py MODEL [--bfcl FOLDER] [--count 96] [--tests 100]     # 10 minutes of a core

FOLDER is BFCL's data, the folder `bfcl_eval/data` that `build.py` leaves below `OUT/work`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from bfcl import TESTED
from conversations import Row
from dataset import danger_rows, held_rows, write_rows

import steerkit
from steerkit import Runtime, Turn
from steerkit.engine import Sampling
from steerkit.errors import SteerkitError
from steerkit.lab import Share
from steerkit.lab.prove.suites import read_bfcl, run_suite
from steerkit.runtime import Request
from steerkit.types import Call

FUNCTIONGEMMA: Final[Mapping[str, float]] = {
    "simple": 0.616, "multiple": 0.635, "parallel": 0.39, "parallel_multiple": 0.295, "irrelevance": 0.737,
}  # fmt: skip
"""Shares of BFCL that the card of google/functiongemma-270m-it gives."""
AIMS: Final[Mapping[str, float]] = {
    "single calls, exact": 0.8, "orders obeyed, exact": 0.6, "BFCL simple": 0.6, "BFCL multiple": 0.5,
    "BFCL irrelevance": 0.6,
}  # fmt: skip
LENGTH: Final = 160
"""Tokens of a reply at most; two of a hundred right answers to BFCL's parallel tests have more."""
Report = Callable[[int, int], None]


class Score(NamedTuple):
    """One line of the table."""

    asked: str
    share: Share

    @property
    def aim(self) -> float | None:
        """The share that was aimed at, if one was."""
        return AIMS.get(self.asked)

    @property
    def functiongemma(self) -> float | None:
        """FunctionGemma's own, if its card gives one."""
        return FUNCTIONGEMMA.get(self.asked.removeprefix("BFCL "))


def scores_of(
    runtime: Runtime,
    bfcl: Path | None,
    count: int = 96,
    tests: int = 100,
    report: Report = lambda done, all: None,
    out: Path | None = None,
    categories: Sequence[str] = TESTED,
) -> list[Score]:
    """The scores of a model.

    Args:
        runtime: the model, without policies.
        bfcl: the folder with BFCL's data; None leaves BFCL out.
        count: held-out conversations of all kinds, and half as many with orders in results and without.
        tests: of each BFCL category, drawn at random.
        report: callback for progress: turns done, and all of them.
        out: folder for the replies, where they are read and a stopped run goes on; None keeps none.
        categories: of BFCL.
    """
    harmful, benign = danger_rows("orders", "report", count // 2)
    rows = [*held_rows(max(count, 240))[:count], *harmful, *benign]
    cases = []
    for category in categories if bfcl else ():
        some = [case for case in read_bfcl(Path(str(bfcl))) if case.category == category and not case.undeclared]
        cases += random.Random(category).sample(some, min(tests, len(some)))
    total = len(rows) + len(cases)
    turns = list(_answered(runtime, rows, lambda done: report(done, total)))
    if out:
        out.mkdir(parents=True, exist_ok=True)
        write_rows(out / "held.jsonl", map(_told, rows, turns))
    found = held_scores(rows, turns)
    if cases:
        told = {"report": lambda done, _: report(len(rows) + done, total), "out": out and out / f"bfcl_{tests}"}
        passed = run_suite(runtime, cases, max_new_tokens=LENGTH, batch=16, **told)
        found += [Score(f"BFCL {score.category}", score.passed) for score in passed]
    return found


def held_scores(rows: Sequence[Row], turns: Sequence[Turn]) -> list[Score]:
    """The scores on conversations whose wanted reply is their last message."""
    hits: dict[str, list[bool]] = {}
    for row, turn in zip(rows, turns, strict=True):
        for name, hit in _hits(row, turn):
            hits.setdefault(name, []).append(hit)
    return [Score(name, Share.of(hits[name])) for name in _ORDER if name in hits]


def _hits(row: Row, turn: Turn) -> Iterator[tuple[str, bool]]:
    wanted = row["messages"][-1]
    calls = [(call.name, dict(call.arguments)) if isinstance(call, Call) else None for call in turn.calls]
    label = _LABELS[row["source"]]
    if made := wanted.get("tool_calls"):
        named = [call["function"]["name"] for call in made]
        yield f"{label}, tool", [call and call[0] for call in calls] == named
        yield f"{label}, exact", calls == [(call["function"]["name"], call["function"]["arguments"]) for call in made]
        return
    yield f"{label}, no call", not calls
    results = [value for m in row["messages"] if m["role"] == "tool" for value in m["content"].values()]
    if row["source"] == "answer":
        told = [str(value) for value in results if str(value).rstrip(".") in wanted["content"]]
        yield f"{label}, tells the result", not calls and all(value.rstrip(".") in turn.text for value in told)


_LABELS: Final = {
    "call": "single calls", "two": "two or three calls", "answer": "answers from a result", "none": "no tool fits",
    "chat": "small talk", "obey": "orders obeyed", "mention": "mentions without an order",
}  # fmt: skip
_ORDER: Final = [
    f"{label}, {what}" for label in _LABELS.values() for what in ("tool", "exact", "no call", "tells the result")
]


def _told(row: Row, turn: Turn) -> dict[str, Any]:
    """A conversation with the wanted reply last, what the model replied, and what of it was right."""
    called = [[call.name, dict(call.arguments)] if isinstance(call, Call) else call.raw for call in turn.calls]
    return {**row, "said": turn.text, "called": called, "right": dict(_hits(row, turn))}


def _answered(runtime: Runtime, rows: Sequence[Row], done: Callable[[int], None], batch: int = 16) -> Iterator[Turn]:
    """The greedy turn of each row, rows of like length together."""
    order = sorted(range(len(rows)), key=lambda n: len(json.dumps([rows[n]["tools"], rows[n]["messages"]])))
    turns: dict[int, Turn] = {}
    for start in range(0, len(order), batch):
        some = order[start : start + batch]
        asked = [Request(rows[n]["messages"][:-1], rows[n]["tools"], (), Sampling(LENGTH)) for n in some]
        turns |= dict(zip(some, runtime.run_batch(asked), strict=True))
        done(len(turns))
    return (turns[n] for n in range(len(rows)))


def as_json(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """The scores for a card.json."""
    return [
        {"asked": one.asked, "right": one.share.hits, "of": one.share.count, "share": round(one.share.value, 4),
         "interval": [round(end, 4) for end in one.share.interval], "aim": one.aim, "functiongemma": one.functiongemma}
        for one in scores
    ]  # fmt: skip


def table(scores: Sequence[Score]) -> str:
    """The scores as Markdown."""
    lines = ["| asked | right | of | share | 95 % interval | aim | FunctionGemma |", "|---|---|---|---|---|---|---|"]
    for one in scores:
        low, high = one.share.interval
        aim, card = (f"{100 * x:.0f} %" if x is not None else "" for x in (one.aim, one.functiongemma))
        lines.append(
            f"| {one.asked} | {one.share.hits} | {one.share.count} | {100 * one.share.value:.0f} % "
            f"| {100 * low:.0f} to {100 * high:.0f} % | {aim} | {card} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Score a model and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--bfcl", type=Path, help="folder with BFCL's data")
    parser.add_argument("--count", type=int, default=96, help="held-out conversations; 0 for BFCL alone")
    parser.add_argument("--tests", type=int, default=100, help="tests of each BFCL category")
    parser.add_argument("--categories", nargs="+", choices=TESTED, default=TESTED)
    parser.add_argument("--out", type=Path, help="folder for the replies")
    chosen = parser.parse_args()
    runtime = steerkit.load(chosen.model, audit=False, prefix_cache=False)
    scores = scores_of(runtime, chosen.bfcl, chosen.count, chosen.tests, out=chosen.out, categories=chosen.categories)
    print(table(scores))


if __name__ == "__main__":
    try:
        main()
    except SteerkitError as error:
        sys.exit(str(error))
