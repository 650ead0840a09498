"""Continuous batching: steerkit's own rows beside transformers', steered and not, on the same requests.

    python benchmarks/continuous.py
    python benchmarks/continuous.py --model MODEL --policy none --requests 16

Requests that come all at once, at most eight rows together, greedy; every arm writes the same tokens in float32, which
is checked. `generate_batch` is transformers' continuous batching, under `steer.attach_ragged` where a policy steers; it
neither judges nor records, and neither do steerkit's arms here. On the box it takes about a minute.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext

from transformers import ContinuousBatchingConfig, GenerationConfig

import steerkit
from steerkit.agent import Runtime
from steerkit.chat import place_machine
from steerkit.runtime import Prepared, Request
from steerkit.steer import attach_ragged, compile_plan, traced_sites
from steerkit.tiny import TOOLS
from steerkit.types import Turn

ROWS = 8
SAID = (
    "tell me how much money travel 38 has",
    "please open the south cellar door",
    "I owe Lumes a payment of 740 dollars",
    "translate the word rikuta into Danish",
)
Replies = list[tuple[int, ...]]


def one_by_one(runtime: Runtime, prepared: Sequence[Prepared]) -> Replies:
    """Each alone."""
    return [runtime.take([one])[0].reply_ids for one in prepared]


def in_batches(runtime: Runtime, prepared: Sequence[Prepared]) -> Replies:
    """Batches that end with their longest row."""
    batches = [prepared[start : start + ROWS] for start in range(0, len(prepared), ROWS)]
    return [turn.reply_ids for batch in batches for turn in runtime.take(batch)]


def joined(runtime: Runtime, prepared: Sequence[Prepared]) -> Replies:
    """Rows that join between two steps."""
    left, found = deque(prepared), dict[int, tuple[int, ...]]()
    for news in runtime.continuous(lambda: left.popleft() if left else None, ROWS):
        for number, events in news.items():
            found.update((number, event.reply_ids) for event in events if isinstance(event, Turn))
    return [found[number] for number in range(len(prepared))]


def transformers_own(runtime: Runtime, prepared: Sequence[Prepared]) -> Replies:
    """Transformers' continuous batching, with as much memory as eight rows take."""
    model, stops = runtime.loaded.model, runtime.dialect.stops
    most = prepared[0].request.sampling.max_new_tokens
    longest = max(len(one.prompt.ids) for one in prepared) + most
    batching = ContinuousBatchingConfig(
        allow_block_sharing=False, page_size=32, num_blocks=ROWS * (longest // 32 + 2), max_batch_tokens=1024
    )
    config = GenerationConfig(do_sample=False, max_new_tokens=most, eos_token_id=list(stops))
    plan = compile_plan([one.policies for one in prepared], runtime.saes, runtime.loaded.site_devices)
    rows = {f"req_{number}": plan.row(one.policies) for number, one in enumerate(prepared)}
    traced = traced_sites([one.wanted for one in prepared], runtime.saes)
    places = place_machine(runtime.engine.tokenizer)
    steered = attach_ragged(model, plan, rows, trace=traced, places=places) if plan.rules or traced else nullcontext()
    with steered:
        found = model.generate_batch([list(one.prompt.ids) for one in prepared], config, batching)  # type: ignore[operator]  # of transformers
    return [tuple(found[name].generated_tokens) for name in rows]


ARMS: dict[str, Callable[[Runtime, Sequence[Prepared]], Replies]] = {
    "one by one": one_by_one,
    "batches of 8": in_batches,
    "steerkit's rows": joined,
    "transformers' generate_batch": transformers_own,
}


def main() -> None:
    """Run the arms in turn, and print their requests per second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--saes")
    parser.add_argument("--policy", default="payments")
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32, help="longest reply")
    given = parser.parse_args()
    policy = None if given.policy == "none" else given.policy
    runtime = steerkit.load(given.model, given.saes, policy, audit=False)
    sampling = steerkit.engine.Sampling(max_new_tokens=given.tokens)
    asked = [[{"role": "user", "content": SAID[number % len(SAID)]}] for number in range(given.requests)]
    prepared = [runtime.prepare(Request(messages, TOOLS, sampling=sampling)) for messages in asked]
    best: dict[str, float] = {}
    said: dict[str, Replies] = {}
    for _ in range(given.rounds):
        for name, arm in ARMS.items():
            began = time.perf_counter()
            said[name] = arm(runtime, prepared)
            best[name] = min(best.get(name, float("inf")), time.perf_counter() - began)
    print("| arm | requests/s | times one by one | replies as alone |\n|---|---|---|---|")
    for name, seconds in best.items():
        same = sum(one == other for one, other in zip(said[name], said["one by one"], strict=True))
        rate = given.requests / seconds
        print(f"| {name} | {rate:.1f} | {best['one by one'] / seconds:.2f} | {same} of {given.requests} |")
    runtime.close()
    if runtime.loaded.model.dtype.itemsize == 4 and any(one != said["one by one"] for one in said.values()):
        sys.exit("arms differ in float32")


if __name__ == "__main__":
    main()
