"""Continuous batching: steerkit's own rows beside transformers', steered and not, on the same requests.

    python benchmarks/continuous.py
    python benchmarks/continuous.py --model MODEL --policy none --requests 16
    python benchmarks/continuous.py --model MODEL --policy none --bfcl FOLDER --requests 64 --rows 32 --tokens 192 \
        --arms "batches,steerkit's rows,whole prompts"

Requests that come all at once, at most so many rows together, greedy; every arm writes the same tokens in float32,
which is checked. With --bfcl they are BFCL's first live tests of one choice among several functions, in the file's
order. `generate_batch` is transformers' continuous batching, under `steer.attach_ragged` where a policy steers; it
neither judges nor records, and neither do steerkit's arms here. On the box it takes about a minute.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from math import inf
from pathlib import Path

from transformers import ContinuousBatchingConfig, GenerationConfig

import steerkit
from steerkit.agent import Runtime
from steerkit.chat import place_machine
from steerkit.lab.prove.suites.cases import asked, read_bfcl
from steerkit.runtime import Prepared, Request
from steerkit.steer import attach_ragged, compile_plan, traced_sites
from steerkit.tiny import TOOLS
from steerkit.types import Turn

SAID = (
    "tell me how much money travel 38 has",
    "please open the south cellar door",
    "I owe Lumes a payment of 740 dollars",
    "translate the word rikuta into Danish",
)
Replies = list[tuple[int, ...]]


def one_by_one(runtime: Runtime, prepared: Sequence[Prepared], rows: int) -> Replies:
    """Each alone."""
    return [runtime.take([one])[0].reply_ids for one in prepared]


def in_batches(runtime: Runtime, prepared: Sequence[Prepared], rows: int) -> Replies:
    """Batches that end with their longest row."""
    batches = [prepared[start : start + rows] for start in range(0, len(prepared), rows)]
    return [turn.reply_ids for batch in batches for turn in runtime.take(batch)]


def joined(runtime: Runtime, prepared: Sequence[Prepared], rows: int, whole: bool = False) -> Replies:
    """Rows that join between two steps; with `whole` as `run_batch(continuous=True)` has them."""
    left, found = deque(prepared), dict[int, tuple[int, ...]]()
    for news in runtime.continuous(lambda: left.popleft() if left else None, rows, whole_prompts=whole):
        for number, events in news.items():
            found.update((number, event.reply_ids) for event in events if isinstance(event, Turn))
    return [found[number] for number in range(len(prepared))]


def transformers_own(runtime: Runtime, prepared: Sequence[Prepared], rows: int) -> Replies:
    """Transformers' continuous batching, with as much memory as so many rows take."""
    model, stops = runtime.loaded.model, runtime.dialect.stops
    most = prepared[0].request.sampling.max_new_tokens
    longest = max(len(one.prompt.ids) for one in prepared) + most
    batching = ContinuousBatchingConfig(
        allow_block_sharing=False, page_size=32, num_blocks=rows * (longest // 32 + 2), max_batch_tokens=1024
    )
    config = GenerationConfig(do_sample=False, max_new_tokens=most, eos_token_id=list(stops))
    plan = compile_plan([one.policies for one in prepared], runtime.saes, runtime.loaded.site_devices)
    named = {f"req_{number}": plan.row(one.policies) for number, one in enumerate(prepared)}
    traced = traced_sites([one.wanted for one in prepared], runtime.saes)
    places = place_machine(runtime.engine.tokenizer)
    steered = attach_ragged(model, plan, named, trace=traced, places=places) if plan.rules or traced else nullcontext()
    with steered:
        found = model.generate_batch([list(one.prompt.ids) for one in prepared], config, batching)  # type: ignore[operator]  # of transformers
    return [tuple(found[name].generated_tokens) for name in named]


ARMS: dict[str, Callable[[Runtime, Sequence[Prepared], int], Replies]] = {
    "one by one": one_by_one,
    "batches": in_batches,
    "steerkit's rows": joined,
    "whole prompts": partial(joined, whole=True),
    "transformers' generate_batch": transformers_own,
}


def requests(given: argparse.Namespace) -> list[Request]:
    """What is asked for."""
    sampling = steerkit.engine.Sampling(max_new_tokens=given.tokens)
    if given.bfcl is None:
        said = [SAID[number % len(SAID)] for number in range(given.requests)]
        return [Request([{"role": "user", "content": one}], TOOLS, sampling=sampling) for one in said]
    tests = [one for one in read_bfcl(given.bfcl / "bfcl_eval" / "data") if one.category == "live_multiple"]
    some = [one for one in tests if not one.undeclared][: given.requests]
    return [Request(asked(one), one.tools, sampling=sampling) for one in some]


def main() -> None:
    """Run the arms in turn, and print their requests per second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--saes")
    parser.add_argument("--policy", default="payments")
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32, help="longest reply")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--bfcl", type=Path, help="folder with the package bfcl_eval")
    given = parser.parse_args()
    names = given.arms.split(",")
    policy = None if given.policy == "none" else given.policy
    runtime = steerkit.load(given.model, given.saes, policy, audit=False)
    prepared = [runtime.prepare(one) for one in requests(given)]
    best: dict[str, tuple[float, float]] = {}
    said: dict[str, Replies] = {}
    for _ in range(given.rounds):
        for name in names:
            if runtime.prefix_cache is not None:
                runtime.prefix_cache.clear()
            began, used = time.perf_counter(), time.process_time()
            said[name] = ARMS[name](runtime, prepared, given.rows)
            best[name] = min(best.get(name, (inf, inf)), (time.perf_counter() - began, time.process_time() - used))
    first = names[0]
    print(f"| arm | requests/s | CPU s a request | times {first} | replies as there |\n|---|---|---|---|---|")
    for name, (seconds, cpu) in best.items():
        same = sum(one == other for one, other in zip(said[name], said[first], strict=True))
        count = len(prepared)
        rates = f"{count / seconds:.1f} | {cpu / count:.3f} | {best[first][0] / seconds:.2f}"
        print(f"| {name} | {rates} | {same} of {count} |")
    runtime.close()
    if runtime.loaded.model.dtype.itemsize == 4 and any(one != said[first] for one in said.values()):
        sys.exit("arms differ in float32")


if __name__ == "__main__":
    main()
