"""Steering and recording by steerkit, by hand-written hooks and by other tools: the same work, side by side in one run.

    pip install -e '.[peers]'
    python benchmarks/peers.py [--dtype float32] [--sizes 32x1,32x8] [--work 1,4,18,record] [--tokens 16] [--rounds 5]
                               [--clock wall]

Architecture-exact FunctionGemma with random weights, greedy, fixed lengths. Work 1, 4 and 18: clamp four features at
every token in so many layers. Work `record`: the 32 strongest features, with their values, of every new token in all
18 layers. All arms read the same prompts through the same weights and write the same number of tokens; they take turns,
and a ratio is the median over rounds of the rounds' own ratios to plain `generate`, with the spread; "plain again"
shows the noise. Prefill is one new token, decode is the rest. One work of batch 1 takes about ten minutes of one core,
all of it about an hour and a half. `--clock cpu` counts the process' own time, for a machine in use.

Before anything is timed, the last column is measured: how far what an arm gives to its unembedding is, at every step,
from what steerkit's arm of the same write gives (largest difference over root mean square), and of records how many of
the indices are the same. Exit status 1 where arms that claim the same work disagree in float32, or where an edit
changes nothing. A tool that is not installed, or fails, is left out with a line that says so. At the end the tables
are printed once more, an arm a row.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from arms import CLOCKS, TOP_K, Timing, measure, random_saes
from peer_arms import Peers
from peer_work import Arm, Records, Work
from torch import Tensor

from steerkit.testing import FUNCTIONGEMMA, random_model
from steerkit.types import Trace

LAYERS = int(FUNCTIONGEMMA["num_hidden_layers"])
PLACES = {"1": (9,), "4": (5, 9, 12, 15), "18": tuple(range(LAYERS)), "record": tuple(range(LAYERS))}
FEATURES, VALUE = (17, 1042, 2311, 4000), 0.5
TOLERANCE = 1e-3
"""Float32, added up in another order, through 18 layers."""


OURS = ("plain", "steerkit", "hooks")

Table = dict[str, dict[str, tuple[Timing, Timing]]]
"""By arm and work, prefill and decode."""


@contextmanager
def unembedded(arm: Arm) -> Iterator[list[Tensor]]:
    """What the unembedding is given at the last token of each pass; a hook would be taken off by pyvene."""
    seen: list[Tensor] = []
    before = arm.head.forward

    def forward(hidden: Tensor) -> Any:
        seen.append(hidden[:, -1].float().clone())
        return before(hidden)

    arm.head.forward = forward
    try:
        yield seen
    finally:
        arm.head.forward = before


def observed(arm: Arm, tokens: int) -> tuple[Tensor, Any]:
    """`(tokens, B, d)` before the unembedding, and what the arm gives back."""
    with unembedded(arm) as seen:
        result = arm.run(tokens)
    return torch.stack(seen), result


def distance(found: Tensor, wanted: Tensor) -> float:
    """Largest difference over the root mean square of what is wanted; infinite where the number of passes differs."""
    if found.shape != wanted.shape:
        return float("inf")
    return float((found - wanted).abs().max() / wanted.square().mean().sqrt())


def recorded(result: Any) -> tuple[np.ndarray, np.ndarray]:
    """Values and indices `(layers, B, tokens, k)`, of steerkit's traces or of what was recorded in line."""
    if isinstance(result, Records):
        layers = [kept for _, kept in sorted(result.items())]
        return tuple(
            np.stack([torch.cat([one[part] for one in kept], dim=1).numpy() for kept in layers]) for part in (0, 1)
        )
    traces: list[Trace] = result
    tops = [sorted(trace.top, key=lambda top: top.layer) for trace in traces]
    layers = range(len(tops[0]))
    shape = (len(layers), len(traces), -1, TOP_K)
    values, indices = (
        np.stack([[np.frombuffer(getattr(row[n], part), kind) for row in tops] for n in layers]).reshape(shape)
        for part, kind in (("value", "<f2"), ("index", "<u2"))
    )
    return values.astype(np.float32), indices.astype(np.int64)


class Agreement:
    """Whether arms that claim the same work did the same."""

    def __init__(self, arms: dict[str, Arm], tokens: int, strict: bool) -> None:
        self.wrong, self.words, self.failed = 0, dict[str, str](), dict[str, str]()
        tokens = min(tokens, 6)
        plain, _ = observed(arms["plain"], tokens)
        first: dict[str, tuple[str, Tensor, Any]] = {"nothing": ("plain", plain, None)}
        for name, arm in list(arms.items()):
            try:
                hidden, result = observed(arm, tokens)
            except Exception as failure:  # a tool's own, of any kind; the others are still measured
                if name.startswith(OURS):
                    raise
                self.failed[name] = f"{type(failure).__name__}: {failure}".splitlines()[0]
                continue
            kind = "nothing" if arm.write == "record" else arm.write
            like, wanted, _ = first.setdefault(kind, (name, hidden, result))
            off = distance(hidden, wanted)
            self.words[name] = f"{off:.0e} from {like}" if like != name else f"{distance(hidden, plain):.2f} from plain"
            moved = kind == "nothing" or distance(hidden, plain) > 10 * TOLERANCE
            same = off < TOLERANCE
            if arm.write == "record":
                _, values, indices = first.setdefault("record", (name, *map(torch.from_numpy, recorded(result))))
                same &= self._same_record(name, recorded(result), values, indices)
            if strict and not (same and moved):
                self.wrong += 1
                self.words[name] += " WRONG"

    def _same_record(self, name: str, found: tuple[np.ndarray, np.ndarray], values: Tensor, indices: Tensor) -> bool:
        """Values to half precision, indices but for ties."""
        if found[0].shape != tuple(values.shape):
            self.words[name] += f"; {found[0].shape} recorded, not {tuple(values.shape)}"
            return False
        alike = float((found[1] == indices.numpy()).mean())
        off = float(np.abs(found[0] - values.numpy()).max() / values.abs().max())
        self.words[name] += f"; {alike:.1%} of the indices"
        return alike > 0.99 and off < TOLERANCE


def below(timings: dict[str, tuple[Timing, Timing]], arms: dict[str, Arm]) -> str:
    """Which other arms that did some of the work were faster than steerkit's first, by median."""
    ours = next(name for name in arms if name.startswith("steerkit"))
    others = [
        name for name, arm in arms.items() if not name.startswith(("steerkit", "plain")) and arm.write != "nothing"
    ]
    phases = []
    for phase, what in enumerate(("prefill", "decode")):
        faster = [name for name in others if timings[name][phase].ratio < timings[ours][phase].ratio]
        phases.append(f"{what}: {' + '.join(faster) or 'none'}")
    return "; ".join(phases)


def compact(table: Table, works: list[str]) -> Iterator[str]:
    """Lines of two tables, prefill and decode, an arm a row and a work a column."""
    for phase, what in enumerate(("prefill", "decode")):
        yield f"\n| {what} | {' | '.join(works)} |"
        yield "|---" * (len(works) + 1) + "|"
        for arm, found in table.items():
            yield f"| {arm} | {' | '.join(str(found[work][phase]) if work in found else '' for work in works)} |"


def compare(
    peers: Peers, work: Work, given: argparse.Namespace, say: Callable[[str], None]
) -> tuple[dict[str, Any], Agreement]:
    """Check and time the arms of one work; `say` is told of what is left out and what was faster."""
    arms = peers.arms(work, say)
    agreement = Agreement(arms, given.tokens, strict=given.dtype == "float32")
    for name, reason in agreement.failed.items():
        say(f"{name} fails here: {reason}")
        del arms[name]
    timings = measure({name: arm.run for name, arm in arms.items()}, given.tokens, given.rounds, CLOCKS[given.clock])
    what = f"clamps in {len(work.layers)} layers" if work.features else "record"
    say(f"{what} of {tuple(peers.inputs['input_ids'].shape)}: faster than steerkit in {below(timings, arms)}")
    return timings, agreement


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--sizes", default="32x1,32x8", help="prompt tokens x batch")
    parser.add_argument("--work", default="1,4,18,record")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: where others use the machine too")
    given = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    model = random_model(FUNCTIONGEMMA, dtype=getattr(torch, given.dtype))
    saes = random_saes(LAYERS, FUNCTIONGEMMA["hidden_size"])
    setting = f"{given.dtype}, {torch.get_num_threads()} threads, {given.clock} time"
    print(f"{setting}, {given.tokens} tokens, {given.rounds} rounds")
    print("| prompt x batch | work | arm | prefill | decode | agreement |\n|---|---|---|---|---|---|")
    draw, wrong = torch.Generator().manual_seed(0), 0
    notes: dict[str, None] = {}
    tables: list[str] = []
    for size in given.sizes.split(","):
        length, rows = map(int, size.split("x"))
        peers = Peers(model, saes, torch.randint(1, FUNCTIONGEMMA["vocab_size"], (rows, length), generator=draw))
        table: Table = {}
        for name in given.work.split(","):
            work = Work(PLACES[name], () if name == "record" else FEATURES, VALUE)
            timings, agreement = compare(peers, work, given, notes.setdefault)
            for arm, found in timings.items():
                table.setdefault(arm, {})[name] = found
                cells = " | ".join(map(str, found))
                print(f"| {length} x {rows} | {name} | {arm} | {cells} | {agreement.words[arm]} |", flush=True)
            wrong += agreement.wrong
        tables += [f"\n{length} x {rows}", *compact(table, given.work.split(","))]
    print("\n".join(["", *notes, *tables]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
