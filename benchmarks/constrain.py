"""Constrained decoding measured: malformed calls over random tools, time beside free decoding, and parse failures.

python -m benchmarks.constrain same                       # the box's own conversations, free and held to a grammar
python -m benchmarks.constrain tools                      # 1,000 random tool sets on the box
python -m benchmarks.constrain tools --vocabulary FOLDER  # and on random weights over that tokenizer's vocabulary
python -m benchmarks.constrain speed                      # the box's calls, arms in turn
python -m benchmarks.constrain speed --graphs             # with prepared steps, and how long forced runs are
python -m benchmarks.constrain speed --model FOLDER       # another model's, with the share of masks
python -m benchmarks.constrain bfcl --model FOLDER --data FOLDER

Long ones may be run in parts: `--start 250 --count 250 --out FILE` adds a part to the file's and prints the sum.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import steerkit
from steerkit.agent import Runtime
from steerkit.chat import Matcher
from steerkit.engine import LoadedModel, Sampling, load_model
from steerkit.lab.prove.suites import read_bfcl
from steerkit.lab.prove.suites.cases import SuiteCase, asked
from steerkit.runtime import Request
from steerkit.testing import SMALL, random_model
from steerkit.tiny.world.conversations import sample
from steerkit.types import Call, MalformedCall, Turn

_WORDS = (
    "send_money",
    "note",
    "größe",
    "日本",
    "time.zone",
    "list-all",
    "amount",
    "to",
    "unit",
    "größer",
    "Ж",
    "naïve",
)
_NAMES = ("send", "get.all", "make_note", "find-it", "unlock", "total", "weather", "a", "b_2", "X9")
Arms = dict[str, dict[str, Any]]
"""By name, what requests ask for."""


def schema(draw: random.Random, depth: int = 0) -> dict[str, Any]:
    """A random schema of a value: scalars, enums, lists, objects, with and without null."""
    kinds = ["integer", "number", "boolean", "enum", "enum", "string"] + ["array", "object"] * (depth < 3)
    kind = draw.choice(kinds)
    if kind == "enum":
        found: dict[str, Any] = {"type": "string", "enum": draw.sample(_WORDS, draw.randint(1, 5))}
    elif kind == "array":
        found = {"type": "array", "items": schema(draw, depth + 1)}
    elif kind == "object":
        found = objects(draw, depth + 1)
    else:
        found = {"type": kind}
    return {"anyOf": [found, {"type": "null"}]} if draw.random() < 0.1 else found


def objects(draw: random.Random, depth: int) -> dict[str, Any]:
    """A random schema of an object."""
    keys = draw.sample(_NAMES, draw.randint(0 if depth == 0 else 1, 5))
    required = [key for key in keys if draw.random() < 0.5]
    return {"type": "object", "properties": {key: schema(draw, depth) for key in keys}, "required": required}


def tool_sets(count: int, seed: int) -> Iterator[list[dict[str, Any]]]:
    """Random sets of one to five tools."""
    draw = random.Random(seed)
    for _ in range(count):
        names = draw.sample(_NAMES, draw.randint(1, 5))
        yield [{"name": name, "description": f"Does {name}.", "parameters": objects(draw, 0)} for name in names]


def counts(turns: Sequence[Turn]) -> Counter[str]:
    """Replies that ended by themselves, their calls, and the malformed or wrongly shaped ones among these."""
    found: Counter[str] = Counter()
    for turn in turns:
        if turn.finish == "length":
            found["cut off"] += 1
            continue
        found["ended"] += 1
        for call, verdict in zip(turn.calls, turn.verdicts, strict=True):
            found["calls"] += 1
            found["malformed"] += isinstance(call, MalformedCall)
            found["wrong shape"] += isinstance(call, Call) and verdict.decision == "deny"
        found["tokens"] += len(turn.reply_ids)
        if turn.constrained is not None:
            found["forced"] += sum(span.end - span.start for span in turn.constrained.forced)
            found["masked"] += len(turn.constrained.masked)
    return found


Sums = dict[str, Counter[str]]
"""Counts by arm."""


def tools(runtime: Runtime, sets: Sequence[list[dict[str, Any]]], first: int, arms: Arms, batch: int) -> Sums:
    """Random tool sets under each arm: how many calls are malformed, and how many of free decoding's stay."""
    turns: dict[str, list[Turn]] = {}
    for name, form in arms.items():
        asked_for = [
            {"messages": [_please(some[0]["name"])], "tools": some, "seed": first + number, **form}
            for number, some in enumerate(sets)
        ]
        turns[name] = runtime.run_batch(asked_for, batch_size=batch)
    found = {name: counts(made) for name, made in turns.items()}
    if {"free, greedy", "auto, greedy"} <= turns.keys():
        found["free, greedy"] += stay(turns["free, greedy"], turns["auto, greedy"])
    return found


def stay(free: Sequence[Turn], held: Sequence[Turn]) -> Counter[str]:
    """Free replies whose calls are all well-formed and of their tools' schemas, and those that a grammar left so."""
    fine = [
        _said(one) == _said(other)
        for one, other in zip(free, held, strict=True)
        if one.calls and one.finish != "length" and all(verdict.decision != "deny" for verdict in one.verdicts)
    ]
    return Counter({"well-formed replies": len(fine), "the same under auto": sum(fine)})


def same(runtime: Runtime, requests: Sequence[Request], batch: int) -> Sums:
    """The calls of replies that are well-formed when they are free, beside those that a grammar holds."""
    free, held = (
        runtime.run_batch([replace(one, tool_choice=choice) for one in requests], batch_size=batch)
        for choice in (None, "auto")
    )
    return {"free": counts(free) + stay(free, held), "auto": counts(held)}


def _please(name: str) -> dict[str, str]:
    return {"role": "user", "content": f"please {name} now"}


def _said(turn: Turn) -> list[Any]:
    return [(call.name, dict(call.arguments)) for call in turn.calls if isinstance(call, Call)]


@contextmanager
def slower(one_by_one: bool, mask_all: bool) -> Iterator[None]:
    """Force no tokens in one pass, and perhaps mask at every token, as if the grammar refused each at first."""
    own = Matcher.forced, Matcher.take
    asked_before: set[int] = set()

    def take(matcher: Matcher, token: int) -> bool:
        if id(matcher) in asked_before:
            asked_before.remove(id(matcher))
            return own[1](matcher, token)
        asked_before.add(id(matcher))
        return False

    if one_by_one:
        Matcher.forced = lambda matcher: []  # type: ignore[method-assign]
    if mask_all:
        Matcher.take = take  # type: ignore[method-assign]
    try:
        yield
    finally:
        Matcher.forced, Matcher.take = own  # type: ignore[method-assign]


def speed(runtime: Runtime, asked_for: Sequence[Request], rounds: int) -> None:
    """Seconds of each request by arms that take turns."""
    arms: dict[str, tuple[str | None, bool, bool]] = {
        "free": (None, False, False),
        "auto": ("auto", False, False),
        "required": ("required", False, False),
        "auto, one by one": ("auto", True, False),
        "auto, masks at every token": ("auto", True, True),  # not `forced`, which does not ask a second time
    }
    taken: dict[str, list[float]] = {name: [] for name in arms}
    found: dict[str, list[Turn]] = {name: [] for name in arms}
    for turn in range(rounds + 1):
        for one in asked_for:
            for name, (choice, *how) in arms.items():
                with slower(*how):
                    started = time.perf_counter()
                    made = runtime.take([runtime.prepare(replace(one, tool_choice=choice))])[0]
                if turn:  # the first round warms up
                    taken[name].append(time.perf_counter() - started)
                    found[name].append(made)
    base = taken["free"]
    for name, seconds in taken.items():
        ratio = statistics.median(one / other for one, other in zip(seconds, base, strict=True))
        each = 1000 * sum(seconds) / max(1, sum(len(one.reply_ids) for one in found[name]))
        said = f"of free {sum(seconds) / sum(base):.3f} (median {ratio:.3f}), {each:.2f} ms a token"
        print(f"{name:<28} {sum(seconds) / len(seconds):.4f} s a turn, {said}; {dict(counts(found[name]))}", flush=True)
    runs = sorted(span.end - span.start for one in found["auto"] if one.constrained for span in one.constrained.forced)
    middle = f"mean {statistics.mean(runs):.1f}, median {statistics.median(runs)}"
    print(f"forced runs: {len(runs)}, {middle}, {runs[-1]} tokens at most")
    alike = sum(_said(one) == _said(other) for one, other in zip(found["free"], found["auto"], strict=True))
    print(f"the same calls free and under auto: {alike} of {len(base)}", flush=True)


def bfcl(runtime: Runtime, cases: Sequence[SuiteCase], choices: Sequence[str], batch: int, most: int) -> Sums:
    """Replies that do not parse, or whose calls have not their tool's structure: free, held, and required."""
    found: Sums = {}
    for name in choices:
        form = {"tool_choice": None if name == "free" else name, "sampling": Sampling(max_new_tokens=most)}
        requests = [Request(asked(case), case.tools, **form) for case in cases]
        made = runtime.run_batch(requests, batch_size=batch, errors="return")
        found[name] = counts([one for one in made if isinstance(one, Turn)])
        for case, one in zip(cases, made, strict=True):
            if isinstance(one, Exception):
                found[name]["refused"] += 1
                print(f"{name}: {case.id}: {one}", flush=True)
    return found


def summed(found: Sums, out: Path | None) -> Sums:
    """These counts and those of earlier parts, which the file then has together."""
    before = json.loads(out.read_text()) if out is not None and out.exists() else {}
    total = {name: Counter(before.get(name, {})) + some for name, some in found.items()}
    if out is not None:
        out.write_text(json.dumps(total))
    return total


def over_vocabulary(folder: str) -> LoadedModel:
    """A small model of random weights over the vocabulary of a tokenizer."""
    loaded = load_model(folder, dtype="float32")
    model = random_model({**SMALL, "vocab_size": int(loaded.model.config.vocab_size)})
    return LoadedModel("random", None, model, loaded.tokenizer)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["same", "tools", "speed", "bfcl"])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--vocabulary")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--choices", default="free,auto,required", help="of bfcl")
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--graphs", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # of what the published template cannot say of random schemas
    if given.what == "speed":
        cases = [*sample("benign", "report", 20), *sample("dangerous:transfer_money", "report", 20)]
        requests = [Request(one.messages, one.tools) for one in cases[: given.count]]
        speed(steerkit.load(given.model, audit=False, graphs=given.graphs or "auto"), requests, given.rounds)
        return
    started = time.perf_counter()
    for name, found in summed(measured(given), given.out).items():
        print(f"{name:<28} {dict(found)}")
    print(f"{time.perf_counter() - started:.0f} s for this part")


def measured(given: argparse.Namespace) -> Sums:
    """The counts of this part of what is asked for."""
    part = slice(given.start, given.start + given.count)
    if given.what == "bfcl":
        cases = [case for case in read_bfcl(given.data) if not case.undeclared and case.wants == "calls"]
        cases = random.Random(0).sample(cases, len(cases))[part]
        return bfcl(steerkit.load(given.model, audit=False), cases, given.choices.split(","), given.batch, given.tokens)
    if given.what == "same":
        said = [*sample("benign", "report", 500), *sample("dangerous:transfer_money", "report", 300)]
        said += sample("parallel", "report", 200)
        requests = [Request(one.messages, one.tools) for one in said[part]]
        return same(steerkit.load("tiny", audit=False), requests, given.batch)
    sets, short = list(tool_sets(part.stop, 0))[part], {"max_new_tokens": given.tokens}
    if given.vocabulary:
        hot = {"required, temperature 1": {"tool_choice": "required", "temperature": 1.0, **short}}
        return tools(Runtime(over_vocabulary(given.vocabulary)), sets, part.start, hot, given.batch)
    arms: Arms = {"auto, greedy": {"tool_choice": "auto", **short}}
    for heat in (0.0, 1.5):
        for choice in (None, "required"):
            name = f"{choice or 'free'}, {f'temperature {heat:g}' if heat else 'greedy'}"
            arms[name] = {"tool_choice": choice, "temperature": heat, **short}
    return tools(steerkit.load("tiny", audit=False), sets, part.start, arms, given.batch)


if __name__ == "__main__":
    main()
