"""Joining measured: the gap in a running reply while a long prompt is read, and where the time of short requests goes.

python -m benchmarks.joining gap --model MODEL --policy none   # blocks of 256 tokens beside prompts that are read whole
python -m benchmarks.joining parts                             # CPU time of a request by part, one row and eight

Both run `runtime.continuous` in this process; `parts` with judging and a store, as the server does.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import steerkit
from benchmarks.serve_load import messages
from steerkit.agent import Runtime
from steerkit.engine import Sampling
from steerkit.engine.hf import continuous as joining
from steerkit.engine.hf import prefix_cache
from steerkit.runtime import Prepared, Request
from steerkit.runtime import continuous as flowing
from steerkit.tiny import TOOLS
from steerkit.types import Turn

WHOLE = 1 << 30
PARTS: tuple[tuple[Any, str, str], ...] = (
    (joining.HfContinuous, "_read_prompts", "prefill"),
    (joining.HfContinuous, "_read", "decode passes"),
    (flowing, "judge", "judging"),
    (flowing, "record", "recording"),
)
"""Owner, name and label of what is timed."""


def long_prompt(runtime: Runtime, tokens: int) -> Prepared:
    """A request with a prompt of about so many tokens, most of them in one turn."""
    said = "tell me how much money travel 38 has, "
    one = len(runtime.engine.tokenizer.encode(said))
    content = said * (tokens // one)
    return runtime.prepare(Request([{"role": "user", "content": content}], sampling=Sampling(max_new_tokens=2)))


def gaps(runtime: Runtime, tokens: int) -> tuple[list[float], float]:
    """Seconds between the tokens of a reply that runs, and of the long prompt until its first."""
    hot = Sampling(max_new_tokens=120, temperature=50.0, seed=1)
    running = runtime.prepare(Request(messages(0), sampling=hot))
    left, times, joined, first = [long_prompt(runtime, tokens), running], list[float](), 0.0, 0.0

    def arriving() -> Prepared | None:
        nonlocal joined
        if len(left) == 2 or (left and len(times) == 8):
            joined = time.perf_counter()
            return left.pop()
        return None

    for news in runtime.continuous(arriving, 8):
        if 0 in news and first == 0.0:
            times.append(time.perf_counter())
        if 1 in news:
            first = first or time.perf_counter() - joined
    return [after - before for before, after in pairwise(times[7:])], first


def gap(runtime: Runtime, tokens: int, rounds: int) -> None:
    """Print the gaps with blocks and without, in turn."""
    print(
        f"| {len(long_prompt(runtime, tokens).prompt.ids)} tokens join | longest gap, ms | their own first token, ms |"
    )
    print("|---|---|---|")
    found: dict[str, list[tuple[float, float]]] = {"whole": [], "in blocks": []}
    for number in range(rounds + 1):
        for name, most in (("whole", WHOLE), ("in blocks", 256)):
            joining._MOST = prefix_cache._MOST = most  # type: ignore[misc]  # the arms
            if runtime.prefix_cache is not None:
                runtime.prefix_cache.clear()
            some, first = gaps(runtime, tokens)
            if number:  # the first round warms up
                found[name].append((max(some), first))
    for name, times in found.items():
        print(
            f"| {name} | {1e3 * median(most for most, _ in times):.0f} | {1e3 * median(one for _, one in times):.0f} |"
        )


@contextmanager
def timed(spent: Counter[str]) -> Iterator[None]:
    """Note the CPU seconds of each part."""

    def timing(inner: Callable[..., Any], label: str) -> Callable[..., Any]:
        def run(*args: Any, **given: Any) -> Any:
            began = time.thread_time()
            try:
                return inner(*args, **given)
            finally:
                spent[label] += time.thread_time() - began  # type: ignore[assignment]  # seconds

        return run

    own = [getattr(owner, name) for owner, name, _ in PARTS]
    for inner, (owner, name, label) in zip(own, PARTS, strict=True):
        setattr(owner, name, timing(inner, label))
    try:
        yield
    finally:
        for inner, (owner, name, _) in zip(own, PARTS, strict=True):
            setattr(owner, name, inner)


def parts(runtime: Runtime, requests: int) -> None:
    """Print the CPU time of a request by part, for one row at a time and for eight."""
    print(f"| CPU ms a request | all | {' | '.join(label for *_, label in PARTS)} |\n|---|---|{'---|' * len(PARTS)}")
    for rows in (1, 8, 1, 8):
        asked = [Request(messages(number), TOOLS, sampling=Sampling(max_new_tokens=32)) for number in range(requests)]
        left, spent = [runtime.prepare(one) for one in asked], Counter[str]()
        began, turns = time.thread_time(), 0
        with timed(spent):
            for news in runtime.continuous(lambda left=left: left.pop() if left else None, rows):  # type: ignore[misc]
                turns += sum(isinstance(event, Turn) for said in news.values() for event in said)
        assert turns == requests
        each = [time.thread_time() - began, *(spent[label] for *_, label in PARTS)]
        print(
            f"| {rows} row{'s' * (rows > 1)} | {' | '.join(f'{1e3 * one / requests:.1f}' for one in each)} |",
            flush=True,
        )


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["gap", "parts"])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--saes")
    parser.add_argument("--policy", default="payments")
    parser.add_argument("--tokens", type=int, default=1500, help="of the long prompt")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    policy = None if given.policy == "none" else given.policy
    with tempfile.TemporaryDirectory() as folder:
        store: Any = Path(folder) / "audit.db" if given.what == "parts" else False
        runtime = steerkit.load(given.model, given.saes, policy, audit=store)
        if given.what == "gap":
            gap(runtime, given.tokens, given.rounds)
        else:
            parts(runtime, given.requests)
        runtime.close()


if __name__ == "__main__":
    main()
