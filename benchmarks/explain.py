"""Whether the features that explain a call are those that it hangs on.

    python benchmarks/explain.py [results.json]   # the model in the box: about fifteen minutes on one core
    python benchmarks/explain.py --model MODEL --saes SAES --data FILE.jsonl [--count 50] [--draws 1] [--sizes 5]

100 calls that the plain model makes, of the box on requests of the `report` split (values and phrasings that were
neither trained on nor chosen with). Each is explained from its record, as `steerkit audit explain` does it: for the
tool that was named, against the declared tool that came closest; for calling at all; with `--targets argument` also for
the value of the call's first argument. The first five features by estimate are then set to 0 together and the reply is
written anew, greedily; the call has changed where none with just its name and arguments is in the reply. The control
sets five random features to 0 that are of the same layers and active at the same tokens, five seeded draws per call.
Below that, how many of the first features it takes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from box import BATCH, asked, cell

import steerkit
from steerkit.agent import Runtime
from steerkit.audit import RecordedTurn, read_turn
from steerkit.lab.explain.explain import explain
from steerkit.lab.explain.explanation import Explanation, Target
from steerkit.lab.explain.feature_roles import SIZES, Extent
from steerkit.lab.two_sample import spearman
from steerkit.runtime import Request
from steerkit.tiny.world.conversations import sample
from steerkit.types import Call

KINDS = {"single": 40, "dangerous": 30, "parallel": 15, "injected": 15}
"""Calls of the box, by the kind of the request."""
TARGETS = {"tool": "the tool", "call": "calling at all", "argument": "the first argument"}


def called(runtime: Runtime, requests: Sequence[Request]) -> list[str]:
    """Ids of turns with a well-formed first call, in the requests' order."""
    turns = runtime.run_batch(requests)
    return [str(turn.record_id) for turn in turns if turn.calls and isinstance(turn.calls[0], Call)]


def records(runtime: Runtime) -> list[str]:
    """Ids of the box's turns, so many of each kind."""
    found: list[str] = []
    for kind, count in KINDS.items():
        examples = sample(kind, "report", 3 * count)
        some = called(runtime, [Request(one.messages, one.tools, ()) for one in examples])
        if len(some) < count:
            raise SystemExit(f"{kind}: got {len(some)} calls, expected {count}")
        found += some[:count]
    return found


def records_of(runtime: Runtime, path: Path, count: int) -> list[str]:
    """Ids of turns on the requests of a file."""
    requests = [Request(one.messages, one.tools, ()) for one in asked(path)]
    found: list[str] = []
    for start in range(0, len(requests), BATCH):
        if len(found) < count:
            found += called(runtime, requests[start : start + BATCH])
    return found[:count]


def target(kind: str, turn: RecordedTurn) -> Target | None:
    """What of a turn is explained; None where the call has no argument."""
    if kind != "argument":
        return Target(calling=kind == "call")
    (call, *_) = turn.record.calls
    return Target(argument=next(iter(call.arguments))) if isinstance(call, Call) and call.arguments else None


def row(name: str, flags: Sequence[bool], controls: Sequence[bool]) -> dict[str, object]:
    """One line of the table."""
    share, control = sum(flags) / len(flags), sum(controls) / len(controls)
    ratio = f"{share / control:.0f}" if control else "-"
    counts = (sum(flags), len(flags)), (sum(controls), len(controls))
    print(f"| {name} | {cell(*counts[0])} | {cell(*counts[1])} | {ratio} |", flush=True)
    return {"first": counts[0], "random": counts[1]}


def report(name: str, found: Sequence[Explanation], sizes: Sequence[int]) -> dict[str, object]:
    """The tables of one target."""
    print(f"\n{name}\n\n| set to 0 | call changed | random features | ratio |\n|---|---|---|---|")
    rows = {
        "first five, at every token": row(
            "first five, at every token",
            [one.without.changes_call for one in found],
            [other.changes_call for one in found for other in one.controls],
        ),
        "first five, at the choice alone": row(
            "first five, at the choice alone",
            [one.without_at_choice.changes_call for one in found],
            [other.changes_call for one in found for other in one.controls_at_choice],
        ),
    }
    for number, size in enumerate(sizes):
        some = [one for one in found if number < len(one.growing)]
        title = f"first {size}, at every token"
        rows[title] = row(
            title,
            [one.growing[number].changes_call for one in some],
            [one.growing_controls[number].changes_call for one in some],
        )
    return {"rows": rows, **singles(found)}


def singles(found: Sequence[Explanation]) -> dict[str, object]:
    """How well the estimates of single features agree with their ablations, and what random ones do."""
    pairs = [(r.role.effect, r.ablated.lost) for one in found for r in (*one.reasons, *one.opposing)]
    same = (sum(a * b > 0 for a, b in pairs), len(pairs))
    reasons = [r for one in found for r in one.reasons]
    flips = (sum(r.ablated.flips for r in reasons), len(reasons))
    random = [abs(r.control_ablated.lost) for r in reasons if r.control_ablated is not None]
    agreement = spearman(*torch.tensor(pairs).unbind(-1))
    gone = {
        "the first five take": _mean([one.without.lost for one in found]),
        "at the choice alone": _mean([one.without_at_choice.lost for one in found]),
        "five random ones": _mean([other.lost for one in found for other in one.controls]),
    }
    told = ", ".join(f"{name} {value:.2f}" for name, value in gone.items())
    print(f"\nof the score ({_mean([one.score for one in found]):.1f} log-odds) {told}")
    print(f"single features: the estimate has the ablation's sign in {cell(*same)}, Spearman {agreement:.2f}")
    size = _mean([abs(r.ablated.lost) for r in reasons])
    print(f"   mean size {size:.2f}, random {_mean(random):.2f}; the token changes in {cell(*flips)}", flush=True)
    return {"same_sign": same, "spearman": agreement, "flips": flips, "gone": gone}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))


def main() -> None:
    """Print the tables; write the counts if a path is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", help="file for the counts as JSON")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--saes")
    parser.add_argument("--data", type=Path, help="conversations as JSONL (default: the box's)")
    parser.add_argument("--count", type=int, default=50, help="calls from --data")
    parser.add_argument("--draws", type=int, default=5, help="of random features for each call")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="of the first features, taken together")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=["tool", "call"])
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        steerkit.load(given.model, given.saes, audit=Path(folder) / "audit.db") as runtime,
    ):
        assert runtime.store is not None
        made = records_of(runtime, given.data, given.count) if given.data else records(runtime)
        turns = [read_turn(runtime.store, runtime.store.get(id)) for id in made]
        results = {}
        for kind in given.targets:
            some = [(turn, one) for turn in turns if (one := target(kind, turn)) is not None]
            found = [
                explain(runtime, turn, one, Extent(draws=given.draws, sizes=given.sizes, seed=number))
                for number, (turn, one) in enumerate(some)
            ]
            results[TARGETS[kind]] = report(f"{TARGETS[kind]} ({len(found)} calls)", found, given.sizes)
    if given.results:
        given.results.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
