"""Replays recorded turns in other batch compositions, and measures what recording costs.

    python benchmarks/audit_replay.py [--turns 500] [--dtype float32]       # the model in the box
    python benchmarks/audit_replay.py --model MODEL --saes SAES --policy FILE --data FILE.jsonl … [--turns 200]

Turns (of the box on the `report` split, dangerous and benign, under its shipped policies) are recorded in batches of
50, and each is made again alone from its record: equal are prompt, tokens, calls, verdicts and edits; values of
features may differ by rounding. The control replays some with one token of the record changed. Then the same requests
run one at a time with and without a store, in turns: the ratio is what recording costs of a turn, with a top-16 trace
of the calls; bytes are those of the store's files.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from box import Asked, asked, cell, turns

import steerkit
from steerkit.agent import Runtime
from steerkit.audit import RecordedTurn, Store, compare, read_turn, verify
from steerkit.runtime import Request
from steerkit.runtime.replay import replay
from steerkit.tiny.demo_requests import policy_files
from steerkit.tiny.world.conversations import Example, sample

KINDS = ("dangerous", "benign", "parallel", "no_tool_fits", "after_result")


def requests(count: int) -> list[Example]:
    """The box's, as many of each kind."""
    found: list[Example] = []
    for kind in KINDS:
        found += sample(kind, "report", count // len(KINDS), 11)
    return found


def recorded(path: Path) -> list[RecordedTurn]:
    """The turns of a store."""
    store = Store(path)
    return [read_turn(store, record) for record in store.records() if record.content["kind"] == "turn"]


def again(runtime: Runtime, turn: RecordedTurn) -> str:
    """`equal`, or what differs first."""
    made = replay(runtime, turn)
    found = compare(turn, made.record, made.turn.trace)
    return "equal" if found.difference is None else found.difference.path


def with_other_token(turn: RecordedTurn) -> RecordedTurn:
    """The record, saying another first token of the reply."""
    first, *rest = turn.record.reply_ids
    return replace(turn, record=replace(turn.record, reply_ids=(first + 1, *rest)))


def cost(
    runtime: Runtime, unrecorded: Runtime, some: Sequence[Example | Asked]
) -> tuple[list[tuple[float, float]], int]:
    """Seconds of each turn with a store and without, and the tokens made."""
    times, tokens = [], 0
    for number, example in enumerate(some):
        request, seconds = Request(example.messages, example.tools), {}
        for name, one in (("with", runtime), ("without", unrecorded))[:: 1 if number % 2 else -1]:
            start = time.perf_counter()
            turn = one.run_batch([request])[0]
            seconds[name] = time.perf_counter() - start
        times.append((seconds["with"], seconds["without"]))
        tokens += len(turn.reply_ids)
    return times, tokens


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=500)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--saes")
    parser.add_argument("--policy", nargs="+", type=Path, help="(default: the box's)")
    parser.add_argument("--data", nargs="+", type=Path, help="conversations as JSONL, as many of each file")
    parser.add_argument("--timed", type=int, default=100, help="turns of which the cost is measured")
    given = parser.parse_args()
    files = [asked(path) for path in given.data or ()]
    most = given.turns // max(1, len(files))
    some: Sequence[Example | Asked] = [one for rows in files for one in rows[:most]] or requests(given.turns)
    with tempfile.TemporaryDirectory() as folder:
        store, other = Path(folder) / "audit.db", Path(folder) / "cost.db"
        load = partial(steerkit.load, given.model, given.saes, given.policy or policy_files(), dtype=given.dtype)
        with load(audit=store) as runtime:
            made = turns(runtime, some)
        with load(audit=False) as runtime:
            found = recorded(store)
            print(f"{verify(Store(store)).records} records verify")
            results = Counter(again(runtime, turn) for turn in found)
            print(f"{given.dtype}: {len(found)} turns replayed alone, equal: {cell(results['equal'], len(found))}")
            print(f"  first differences: {dict(results - Counter(equal=results['equal'])) or 'none'}")
            control = Counter(again(runtime, with_other_token(turn)) for turn in found[:20])
            print(f"  control, one token of the record changed: {dict(control)}")
            calls = sum(len(turn.calls) for turn in made)
            log = Store(other)
            with load(audit=log) as recording:
                times, tokens = cost(recording, runtime, some[:: max(1, len(some) // given.timed)])
        log.close()
        size = sum(file.stat().st_size for file in other.parent.glob(f"{other.name}*"))
        ratio = statistics.median(a / b for a, b in times)
        more = 1000 * statistics.median(a - b for a, b in times)
        print(f"  recording: {ratio:.3f} of the turn's time without, {more:.1f} ms a turn ({len(times)} turns)")
        print(f"  {size / tokens:.0f} bytes per generated token, {size / len(times):.0f} a turn; {calls} calls in all")


if __name__ == "__main__":
    main()
