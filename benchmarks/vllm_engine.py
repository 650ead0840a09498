"""What steering costs inside vLLM, against vLLM itself, on FunctionGemma's architecture with random weights.

    python benchmarks/vllm_engine.py [--requests 32] [--prompt 64] [--tokens 24] [--rounds 9] [--dtype bfloat16]

Greedy, fixed lengths, eager, one process, one model: the plain arm takes the hooks off it. All prompts are read in one
pass (prefill), then every pass has one token of each request (decode). 16 features are clamped in each of 18 layers at
every token, each layer's behind a gate. Arms take turns in an order that is drawn anew each round; a ratio is the
median over rounds of the rounds' own ratios to plain, of CPU seconds, with the spread; "plain again" shows the
noise. It needs the extra `vllm`, in its own environment; a round takes about a minute on one core.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MethodType
from typing import Any, NamedTuple

import torch
from arms import policy, random_saes

from steerkit.engine import Row, Sampling, Vllm, VllmEngine, box_folder, load_model
from steerkit.sae import convert, load_set
from steerkit.steer import Wanted, find_sites
from steerkit.testing import FUNCTIONGEMMA, random_model

LAYERS, VOCABULARY = FUNCTIONGEMMA["num_hidden_layers"], FUNCTIONGEMMA["vocab_size"]
TOP_K = 32


class Seconds(NamedTuple):
    """CPU seconds of one generation."""

    prefill: float
    decode: float


def made(folder: Path, dtype: str, requests: int, prompt: int, tokens: int) -> VllmEngine:
    """The engine, on a model and SAEs that are written into a folder first."""
    box = box_folder("tiny")
    assert box is not None
    random_model(FUNCTIONGEMMA, dtype=getattr(torch, dtype)).save_pretrained(folder / "model")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / "model" / name).write_bytes((box / name).read_bytes())
    convert(random_saes(LAYERS, FUNCTIONGEMMA["hidden_size"]), folder / "saes", "functiongemma")
    settings = Vllm(
        max_num_seqs=requests,
        max_num_batched_tokens=requests * prompt,
        max_model_len=prompt + tokens,
        enable_prefix_caching=False,
    )
    return VllmEngine(load_model(folder / "model", prepack=False), load_set(folder / "saes"), settings)


def arms(requests: int) -> dict[str, list[Wanted]]:
    """What each request is under, by arm; each policy's gate opens at about half of the tokens."""

    def under(numbers: Sequence[int | None]) -> list[Wanted]:
        return [Wanted(() if n is None else (policy(LAYERS, n, gated=True),)) for n in numbers]

    every = range(requests)
    found = {
        "plain": under([None] * requests),
        "plain again": under([None] * requests),
        "idle": under([None] * requests),
        "one policy": under([0] * requests),
        "16 policies": under([n % 16 for n in every]),
        "a policy each": under(list(every)),
        "every other request, 16 policies": under([n // 2 % 16 if n % 2 else None for n in every]),
    }
    return {**found, "16 policies, top-32 trace": [one._replace(top_k=TOP_K) for one in found["16 policies"]]}


@contextmanager
def without_hooks(worker: Any) -> Iterator[None]:
    """vLLM as it is: no hook on the model, no word to steering, no token chosen."""
    runner, model, kept = worker.model_runner, worker.model_runner.get_model(), {}
    sites = find_sites(model)
    for site in worker.steering.sites:
        kept[site] = dict(sites.at(site)._forward_hooks)
        sites.at(site)._forward_hooks.clear()
    followed, chosen = runner.__dict__.pop("_model_forward"), model.__dict__.pop("compute_logits")
    worker.execute_model = MethodType(type(worker).__mro__[1].execute_model, worker)
    try:
        yield
    finally:
        del worker.execute_model
        runner._model_forward, model.compute_logits = followed, chosen
        for site, hooks in kept.items():
            sites.at(site)._forward_hooks.update(hooks)


def generated(engine: VllmEngine, rows: Sequence[Row]) -> Seconds:
    """The times of one generation, traces included."""
    llm = engine._llm
    engine.reserve([row.wanted for row in rows])
    asked = engine._requests.add(rows)
    start = time.process_time()
    llm.step()
    assert all(one.tokens for one in asked), "not all prompts came in one pass"
    prefill = time.process_time() - start
    while not all(one.over for one in asked):
        llm.step()
    if any(row.wanted.top_k for row in rows):
        ends = [len(row.ids) + row.sampling.max_new_tokens - 1 for row in rows]
        llm.call(
            "steerkit_traces",
            [(one.id, end, len(row.ids) - 1, end) for one, row, end in zip(asked, rows, ends, strict=True)],
        )
    decode = time.process_time() - start - prefill
    llm.call("steerkit_forget", [one.id for one in asked])
    return Seconds(prefill, decode)


def measured(engine: VllmEngine, given: argparse.Namespace) -> dict[str, list[Seconds]]:
    """The times of every arm, round after round, after one that is thrown away."""
    draw, order = torch.Generator().manual_seed(0), random.Random(0)
    worker = engine._llm._engine.model_executor.driver_worker.worker
    found: dict[str, list[Seconds]] = {name: [] for name in arms(given.requests)}
    for number in range(given.rounds + 1):
        ids = torch.randint(1, VOCABULARY, (given.requests, given.prompt), generator=draw).tolist()
        for name, wanted in order.sample(list(arms(given.requests).items()), k=len(found)):
            rows = [Row(one, under, Sampling(given.tokens)) for one, under in zip(ids, wanted, strict=True)]
            if name.startswith("plain"):
                with without_hooks(worker):
                    seconds = generated(engine, rows)
            else:
                seconds = generated(engine, rows)
            if number:
                found[name].append(seconds)
    return found


def ratio(part: Sequence[float], whole: Sequence[float]) -> str:
    """Median and spread of the ratios of rounds."""
    found = sorted(one / other for one, other in zip(part, whole, strict=True))
    return f"{statistics.median(found):.3f} ({found[0]:.3f} to {found[-1]:.3f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # so that the process' own time is all of it
    with tempfile.TemporaryDirectory() as folder:
        engine = made(Path(folder), given.dtype, given.requests, given.prompt, given.tokens)
        found = measured(engine, given)
    plain = found["plain"]
    print(
        f"{given.dtype}, {given.requests} requests, prompts of {given.prompt}, {given.tokens} tokens, "
        f"{given.rounds} rounds"
    )
    print("| arm | prefill | decode | tokens per CPU second |\n|---|---|---|---|")
    for name, times in found.items():
        decode = statistics.median(one.decode for one in times)
        rate = given.requests * (given.tokens - 1) / decode
        parts = [ratio([one[n] for one in times], [one[n] for one in plain]) for n in (0, 1)]
        print(f"| {name} | {parts[0]} | {parts[1]} | {rate:.0f} |", flush=True)


if __name__ == "__main__":
    main()
