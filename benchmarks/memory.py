"""What is held in memory: by a trace, over thousands of turns, and by SAEs.

    python benchmarks/memory.py [--only trace | turns | saes] [--turns 10000]    # ten minutes on one core

- *trace*: bytes per token on the tape while the model runs, in the packed trace of the record, and in the whole store,
  for each setting of a policy's `trace`, on the model in the box in float32; beside them what the formulas of
  benchmarks/README.md give.
- *turns*: recorded turns of the box with its policies, one after the other in one process: memory that belongs to the
  process alone (`Anonymous` of /proc/self/smaps_rollup), and the slope of it once the prefix cache is full.
- *saes*: 18 SAEs of FunctionGemma's shape, written in the published format and loaded in a process of their own: the
  seconds, and memory after loading, after a plan that reads 16 features a layer, and after a full trace.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from arms import EDITED, TOP_K, policy, random_saes

import steerkit
from steerkit.audit import Store, pack
from steerkit.engine import Batch, Sampling, generate
from steerkit.engine.stand_in import FUNCTIONGEMMA
from steerkit.policy import Policy
from steerkit.runtime import Runtime
from steerkit.sae import load_set
from steerkit.sae.formats import functiongemma
from steerkit.steer import Extent, Tape, Wanted, attach, compile_plan, read_traces
from steerkit.tiny.cases import CASES, policy_files
from steerkit.types import Span

LAYERS, WIDTH = int(FUNCTIONGEMMA["num_hidden_layers"]), int(FUNCTIONGEMMA["hidden_size"])
WATCH = [{"watch": ["a", "b", "c"]}, {"top_k": 16, "at": "any"}, {"top_k": 32, "at": "any"}]
KIB, MIB = 1024, 1024**2


def own_memory() -> int:
    """Bytes that belong to this process alone; pages of mapped files are not among them."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) * KIB


def resident() -> int:
    """Bytes in memory, pages of mapped files included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4 * KIB


def tracing(settings: dict[str, Any]) -> Policy:
    """A policy that does nothing but trace."""
    features = {name: {"layer": 3, "index": index} for name, index in zip("abc", (721, 231, 103), strict=True)}
    return Policy.model_validate({"steerkit": 1, "name": "t", "features": features, "trace": settings})


def on_tape(runtime: Runtime, prompt: list[int], layers: list[int]) -> float:
    """Bytes of activations per token of a run that keeps these layers."""
    loaded = runtime.loaded
    batch = Batch.of([prompt], 0, loaded.device)
    with attach(loaded.model, compile_plan([()], runtime.saes), trace=layers) as tape:
        list(generate(loaded.model, batch, [Sampling(16)], (), 0))
    return sum(tape.raw(layer).nbytes for layer in tape.kept) / tape.length


def traces() -> None:
    """Print the table of trace settings."""
    print(
        "| trace | on the tape | by formula | in the record | uncompressed | store in all |\n|---|---|---|---|---|---|"
    )
    case = next(case for case in CASES if case.name == "plain")
    for settings in ({}, *WATCH):
        with tempfile.TemporaryDirectory() as folder:
            store = Store(Path(folder) / "audit.db")
            runtime = steerkit.load("tiny", policy=tracing(settings), audit=store)
            turns = [runtime.run(case.messages, case.tools) for _ in range(50)]
            tokens = len(turns[0].prompt_ids) + len(turns[0].reply_ids)
            store.close()
            disk = sum(path.stat().st_size for path in Path(folder).iterdir()) / len(turns) / tokens
            layers = [] if not settings else ([3] if "watch" in settings else [0, 1, 2, 3])
            taped = on_tape(runtime, list(turns[0].prompt_ids), layers) if layers else 0.0
            packed = len(pack(turns[0].trace)) / tokens
        most = 20 * len(settings.get("watch", ())) + 4 * len(layers) * int(settings.get("top_k", 0))
        name = (
            ", ".join(f"{key} {value if key != 'watch' else len(value)}" for key, value in settings.items()) or "none"
        )
        print(f"| {name} | {taped:.0f} | {len(layers) * 128 * 4} | {packed:.0f} | {most} | {disk:.0f} |", flush=True)


def many_turns(count: int) -> None:
    """Print memory over many recorded turns, and its slope."""
    step = max(1, count // 20)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "audit.db")
        runtime = steerkit.load("tiny", policy=policy_files(), audit=store, prefix_cache="8 MiB")
        print("| turns | memory of its own | store on disk | seconds |\n|---|---|---|---|")
        found, started = [], time.perf_counter()
        for number in range(1, count + 1):
            case = CASES[number % len(CASES)]
            changed = [{"role": "developer", "content": f"this is conversation {number}"}, *case.messages]
            runtime.run(changed, case.tools, max_new_tokens=48)
            if number % step == 0:
                found.append((number, own_memory()))
                disk = sum(path.stat().st_size for path in Path(folder).iterdir())
                seconds = time.perf_counter() - started
                print(f"| {number} | {found[-1][1] / MIB:.1f} MiB | {disk / MIB:.1f} MiB | {seconds:.0f} |", flush=True)
    numbers, sizes = zip(*found[len(found) // 4 :], strict=True)
    slope = statistics.linear_regression(numbers, sizes).slope
    spread = (max(sizes) - min(sizes)) / MIB
    print(f"after the first quarter: {slope:.0f} bytes a turn, {spread:.1f} MiB between the least and the most")


def loaded_set(folder: Path) -> None:
    """In a process of its own: load, read a few columns, read all."""
    activations = torch.randn(1, 64, WIDTH)
    own, seen = own_memory(), resident()

    def said(what: str, seconds: float | None = None) -> None:
        took = "" if seconds is None else f"{seconds:.2f}"
        print(f"| {what} | {took} | {(own_memory() - own) / MIB:.0f} MiB | {(resident() - seen) / MIB:.0f} MiB |")

    start = time.perf_counter()
    saes = load_set(folder)
    said("loaded", time.perf_counter() - start)
    start = time.perf_counter()
    plan = compile_plan([(policy(LAYERS, 0, True),)], saes)
    said(f"a plan that reads {EDITED + 1} features a layer", time.perf_counter() - start)
    start = time.perf_counter()
    assert saes.fingerprint
    said("fingerprint for a record", time.perf_counter() - start)
    tape = Tape(range(LAYERS), range(LAYERS))
    tape.rows, tape.length = torch.zeros(1, dtype=torch.long), 64
    for layer in range(LAYERS):
        tape.keep_raw(layer, activations, 0)
    start = time.perf_counter()
    assert plan.sites
    read_traces(tape, compile_plan([()], saes), saes, [Wanted(top_k=TOP_K)], [Extent(64, Span(0, 64))])
    said(f"top-{TOP_K} trace of 64 tokens", time.perf_counter() - start)


def sae_memory() -> None:
    """Print the tables of SAE sets in float32 and bfloat16."""
    for dtype in (torch.float32, torch.bfloat16):
        with tempfile.TemporaryDirectory() as folder:
            made = random_saes(LAYERS, WIDTH).checkpoints.values()
            functiongemma.write([replace(one, sae=one.sae.to("cpu", dtype)) for one in made], Path(folder))
            size = sum(path.stat().st_size for path in Path(folder).iterdir())
            name = str(dtype).removeprefix("torch.")
            print(f"\n18 SAEs of {WIDTH} to 4,096 features, {name}, files of {size / MIB:.0f} MiB")
            print("| after | seconds | memory of its own | with mapped files |\n|---|---|---|---|", flush=True)
            subprocess.run([sys.executable, __file__, "--folder", folder], check=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("trace", "turns", "saes"))
    parser.add_argument("--turns", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.folder:
        loaded_set(given.folder)
        return
    for name, run in (("trace", traces), ("saes", sae_memory), ("turns", lambda: many_turns(given.turns))):
        if given.only in (None, name):
            run()


if __name__ == "__main__":
    main()
