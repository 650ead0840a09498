"""A sample of BFCL, or all of it, by steerkit's score and by BFCL's own parser and checker, under each arm.

    pip install --no-deps --target DIR bfcl-eval==2026.3.23
    python benchmarks/bfcl.py DIR OUT --model MODEL --saes SAES --count 40 --policy FILE --arms plain,shadow,policy

The tests of a category are taken evenly from all of it. A killed run goes on from OUT, whose `raw` folder has the
replies for `bfcl evaluate --model google/functiongemma-270m-it-FC --result-dir OUT/raw/ARM --partial-eval`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from bfcl_agreement import own_checker, tests

import steerkit
from steerkit import policy
from steerkit.lab import Share
from steerkit.lab.prove.suites import run_suite
from steerkit.lab.prove.suites.cases import SuiteCase, read_bfcl
from steerkit.report import cell


def main(options: argparse.Namespace) -> None:
    """Run, and print a table."""
    data = Path(options.folder, "bfcl_eval", "data")
    everything = read_bfcl(data)
    cases = [case for case in sample(everything, options.count) if not case.undeclared]
    runtime = steerkit.load(options.model, options.saes, audit=False)
    out, started = Path(options.out), time.perf_counter()
    judging = policy.load(options.policy) if options.policy else None
    settings: dict[str, Any] = {"arms": options.arms.split(","), "batch": options.batch, "out": out / "run"}
    settings["max_new_tokens"] = options.max_new_tokens
    run_suite(runtime, cases, judging, **settings, results=out / "raw", report=progress)
    seconds = time.perf_counter() - started
    for arm in options.arms.split(","):
        raw = out / "raw" / arm if options.policy else out / "raw"
        show(arm, cases, out, official(options.folder, data, cases, rows(raw, "*_result.json")))
    made = sum(len(row["reply"]) for path in (out / "run").glob("*.jsonl") for row in map(json.loads, path.open()))
    print(
        f"{len(cases)} tests an arm of {len(everything)}, {made:,} tokens of replies, {seconds:.0f} s for what was run"
    )


def sample(cases: Sequence[SuiteCase], count: int) -> Iterator[SuiteCase]:
    """At most so many tests of each category, evenly from its beginning to its end."""
    by_category: dict[str, list[SuiteCase]] = defaultdict(list)
    for case in cases:
        by_category[case.category].append(case)
    for some in by_category.values():
        most = min(count, len(some)) if count else len(some)
        yield from (some[number * len(some) // most] for number in range(most))


def rows(folder: Path, pattern: str) -> dict[str, Any]:
    """JSON lines by their test."""
    return {row["id"]: row for path in folder.rglob(pattern) for row in map(json.loads, path.open("r"))}


class Official(NamedTuple):
    """What BFCL says of a reply."""

    read: bool
    """Its parser finds calls."""
    passed: bool


def official(folder: str, data: Path, cases: Sequence[SuiteCase], replies: Mapping[str, Any]) -> dict[str, Official]:
    """By test, what BFCL's own parser and checker say."""
    checker, parse = own_checker(folder), own_parser()
    wanted = {case.id: (functions, truth) for case, functions, truth in tests(data)}
    found = {}
    for case in (case for case in cases if case.id in replies):
        calls = parse(replies[case.id]["result"])
        passed = bool(calls) is (case.wants == "some")
        if case.wants == "calls":
            functions, truth = wanted[case.id]
            passed = bool(calls) and checker(functions, calls, truth, case.category)
        found[case.id] = Official(bool(calls), passed)
    return found


def own_parser() -> Callable[[str], list[tuple[str, Any]]]:
    """The parser of BFCL's handler of FunctionGemma; what it cannot read is no call, as in its evaluation."""
    base, mark = (ModuleType(f"bfcl_eval.model_handler.local_inference.{n}") for n in ("base_oss_handler", "overrides"))
    base.OSSHandler, mark.override = object, lambda function: function  # type: ignore[attr-defined]
    sys.modules |= {base.__name__: base, "overrides": mark}
    from bfcl_eval.model_handler.local_inference.functiongemma import FunctionGemmaHandler

    handler = FunctionGemmaHandler.__new__(FunctionGemmaHandler)

    def parsed(reply: str) -> list[tuple[str, Any]]:
        try:
            return [pair for call in handler.decode_ast(reply, None, False) for pair in call.items()]
        except Exception:  # as BFCL's evaluation takes it
            return []

    return parsed


def show(arm: str, cases: Sequence[SuiteCase], out: Path, theirs: Mapping[str, Official]) -> None:
    """A row for each category, and for all: both shares, replies as in the plain arm to the token, tests on which the
    shares differ, and replies that only BFCL's parser reads."""
    ours, plain = (rows(out / "run", f"{name}.jsonl") for name in (arm, "plain"))
    titles = ("steerkit", "by BFCL itself", "as plain", "differing", "not parsed, read there")
    print(f"{arm:<22} {'tests':>5} " + " ".join(f"{title:>22}" for title in titles))
    categories = dict.fromkeys(case.category for case in cases)
    for category in (*categories, "all"):
        ids = [case.id for case in cases if category in (case.category, "all") and case.id in theirs]
        here = Share.of([bool(ours[id]["passed"]) for id in ids])
        there = Share.of([theirs[id].passed for id in ids])
        same = Share.of([ours[id]["reply"] == plain[id]["reply"] for id in ids if id in plain])
        differing = [id for id in ids if ours[id]["passed"] != theirs[id].passed]
        unparsed = [id for id in ids if ours[id]["unparsed"]]
        lenient = sum(theirs[id].read for id in unparsed)
        cells = (cell(here), cell(there), cell(same), f"{len(differing)}", f"{len(unparsed)}, {lenient}")
        print(f"{category:<22} {len(ids):>5} " + " ".join(f"{one:>22}" for one in cells), *differing[:3])


def progress(done: int, total: int) -> None:
    """The count, on a terminal."""
    if sys.stderr.isatty():
        print(f"\r{done} of {total}", end="" if done < total else "\n", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("out")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--saes")
    parser.add_argument("--policy")
    parser.add_argument("--arms", default="plain")
    parser.add_argument("--count", type=int, default=40, help="Tests of a category at most; 0 for all.")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=768, help="A reply that is cut off is wrong.")
    main(parser.parse_args())
