"""What is held in memory: by a trace, over thousands of turns, and by SAEs.

    python benchmarks/memory.py [--only trace | turns | saes] [--turns 10000]    # half an hour on one core

- *trace*: bytes per token (of prompt and reply) for each setting of a policy's `trace`: on the recorder while the model
  runs, in the `Trace` object, in the packed trace of the record, and in the whole store on disk; beside them what the
  formulas give. On the model in the box (float32) and on FunctionGemma's architecture with random weights (bfloat16).
- *turns*: recorded turns of the box under its policies, one after the other in one process, each with another prompt:
  memory that belongs to the process (`Anonymous` of /proc/self/smaps_rollup), what of it the C library's `malloc` has
  handed out (`mallinfo2`), Python's blocks, and the slopes of the second half.
- *saes*: 18 SAEs of FunctionGemma's shape, written in the published format and as safetensors, each loaded in a process
  that holds the model: seconds, and memory after loading, a plan, a recorded turn and a turn with a full trace; beside
  it the files read whole.

It needs Linux, which says what belongs to a process.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from arms import EDITED, TOP_K, policy, random_saes
from held import ROLLUP, Held, now
from transformers import AutoTokenizer

import steerkit
from steerkit.agent import Runtime
from steerkit.audit import Store, pack
from steerkit.engine import Batch, LoadedModel, Sampling, box_folder, generate
from steerkit.policy import Policy
from steerkit.sae import SaeSet, load_set
from steerkit.sae.formats import functiongemma, tensors
from steerkit.steer import attach, compile_plan
from steerkit.testing import FUNCTIONGEMMA, random_model
from steerkit.tiny.demo_requests import CASES, policy_files

LAYERS, WIDTH = int(FUNCTIONGEMMA["num_hidden_layers"]), int(FUNCTIONGEMMA["hidden_size"])
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"watch": 3},
    {"watch": 16},
    {"top_k": 16, "at": "any"},
    {"top_k": 32, "at": "any"},
    {"watch": 16, "top_k": 32, "at": "any"},
)
"""`watch` stands for so many features, all of one layer."""
CASE = next(case for case in CASES if case.name == "plain")
REPLY = 16
MIB = 1024**2


class Setup(NamedTuple):
    """A model with SAEs."""

    name: str
    loaded: LoadedModel
    saes: SaeSet
    turns: int
    """How many show what the store grows by."""


def box() -> Setup:
    """The model in the box."""
    made = steerkit.load("tiny", audit=False)
    assert made.saes is not None
    return Setup("box, float32", made.loaded, made.saes, 50)


def stand_in() -> LoadedModel:
    """FunctionGemma's architecture with random weights and the box's tokenizer; it writes no control tokens."""
    tokenizer = AutoTokenizer.from_pretrained(box_folder("tiny"), trust_remote_code=False)
    model: Any = random_model(FUNCTIONGEMMA, dtype=torch.bfloat16)
    with torch.no_grad():  # embeddings are tied: a token whose row is 0 is never the likeliest
        rows = model.get_input_embeddings().weight
        rows[len(tokenizer) :] = 0
        rows[torch.tensor(tokenizer.all_special_ids)] = 0
    return LoadedModel("random", None, model, tokenizer)


def shape() -> Setup:
    """FunctionGemma's shape."""
    return Setup("FunctionGemma's shape, bfloat16", stand_in(), random_saes(LAYERS, WIDTH, bias=0.0), 5)


def tracing(settings: Mapping[str, Any]) -> Policy:
    """A policy that does nothing but trace."""
    names = [f"f{index}" for index in range(settings.get("watch", 0))]
    features = {name: {"layer": 3, "index": 40 * number} for number, name in enumerate(names)}
    body = {"name": "t", "features": features, "trace": {**settings, "watch": names}}
    return Policy.model_validate({"steerkit": 1, **body})


def size_of(value: Any) -> int:
    """Bytes of Python objects, with all that they are made of."""
    size = sys.getsizeof(value)
    if is_dataclass(value):
        return size + sum(size_of(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, Mapping):
        return size + sum(size_of(key) + size_of(item) for key, item in value.items())
    return size + sum(map(size_of, value)) if isinstance(value, tuple) else size


def on_tape(setup: Setup, prompt: Sequence[int], layers: Sequence[int]) -> float:
    """Bytes of the buffers per token that there is room for, of a run as the runtime makes it."""
    batch, capacity = Batch.of([prompt], 0, setup.loaded.device), len(prompt) + REPLY
    with attach(setup.loaded.model, compile_plan([()], setup.saes), trace=layers, capacity=capacity) as attached:
        recorder = attached.recorder
        list(generate(setup.loaded.model, batch, [Sampling(REPLY)], (), 0))
    return sum(recorder.raw(layer).untyped_storage().nbytes() for layer in recorder.kept) / capacity


def stored(store: Store) -> int:
    """Bytes of the store's pages, those of the log too."""
    count, size = (store.database.execute(f"PRAGMA page_{what}").fetchone()[0] for what in ("count", "size"))
    return int(count * size)


def trace_row(setup: Setup, settings: Mapping[str, Any]) -> str:
    """One line of the table."""
    watched, top_k = settings.get("watch", 0), settings.get("top_k", 0)
    layers = list(setup.saes) if top_k else [3] * bool(watched)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "audit.db")
        runtime = Runtime(setup.loaded, setup.saes, tracing(settings), store=store, prefix_cache=False)
        turn = runtime.run(CASE.messages, CASE.tools, max_new_tokens=REPLY)
        before, tokens = stored(store), len(turn.prompt_ids) + len(turn.reply_ids)
        for _ in range(setup.turns):
            runtime.run(CASE.messages, CASE.tools, max_new_tokens=REPLY)
        disk = (stored(store) - before) / setup.turns / tokens
        runtime.close()
        store.close()
    taped = on_tape(setup, turn.prompt_ids, layers)
    trace = replace(turn.trace, places={}, edits=())
    itemsize = setup.loaded.model.dtype.itemsize
    by_formula = (len(layers) * setup.saes[3].d_in * itemsize, 32 * watched + 4 * top_k * len(layers))
    name = ", ".join(f"{key} {value}" for key, value in settings.items()) or "none"
    sizes = (taped, by_formula[0], (size_of(trace) - size_of(type(trace)())) / tokens, by_formula[1])
    packed = len(pack(turn.trace)) / tokens
    return f"| {setup.name} | {name} | {' | '.join(f'{size:,.0f}' for size in (*sizes, packed, disk))} |"


def traces() -> None:
    """Print the table of trace settings."""
    print("| model | trace | recorder | by formula | `Trace` | by formula | packed in the record | store in all |")
    print("|---|---|---|---|---|---|---|---|")
    for make in (box, shape):
        setup = make()
        for settings in SETTINGS:
            print(trace_row(setup, settings), flush=True)


def slope(numbers: Sequence[int], values: Sequence[int]) -> str:
    """Of the second half: per turn, with its standard error."""
    x, y = numbers[len(numbers) // 2 :], values[len(values) // 2 :]
    line = statistics.linear_regression(x, y)
    left = [b - line.slope * a - line.intercept for a, b in zip(x, y, strict=True)]
    spread = sum((a - statistics.fmean(x)) ** 2 for a in x)
    error = (sum(one * one for one in left) / max(1, len(x) - 2) / spread) ** 0.5
    return f"{line.slope:+.1f} ± {error:.1f}"


def many_turns(count: int) -> None:
    """Print memory over many recorded turns, and its slopes."""
    step = max(1, count // 20)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "audit.db")
        runtime = steerkit.load("tiny", policy=policy_files(), audit=store, prefix_cache="8 MiB")
        print("| turns | memory of its own | handed out by malloc | Python blocks | store on disk | seconds |")
        print("|---|---|---|---|---|---|")
        found: list[tuple[int, Held, int]] = []
        started = time.perf_counter()
        for number in range(1, count + 1):
            case = CASES[number % len(CASES)]
            changed = [{"role": "developer", "content": f"this is conversation {number}"}, *case.messages]
            runtime.run(changed, case.tools, max_new_tokens=48)
            if number % step == 0:
                gc.collect()  # what waits for it comes and goes
                disk = sum(path.stat().st_size for path in Path(folder).iterdir())
                found.append((number, now(), disk))
                own, _, out, blocks = found[-1][1]
                sizes = f"{own / MIB:.1f} MiB | {out / MIB:.2f} MiB | {blocks:,} | {disk / MIB:.1f} MiB"
                print(f"| {number} | {sizes} | {time.perf_counter() - started:.0f} |", flush=True)
    numbers, sizes_held, disks = zip(*found, strict=True)
    own, _, out, blocks = zip(*sizes_held, strict=True)
    print(
        f"of the second half, per turn: {slope(numbers, own)} bytes of its own, {slope(numbers, out)} bytes handed "
        f"out, {slope(numbers, blocks)} blocks, {slope(numbers, disks)} bytes of the store"
    )


def read_whole(folder: Path) -> None:
    """Print what the files take when they are read as PyTorch and safetensors do by themselves."""
    from safetensors.torch import load

    before, start = now(), time.perf_counter()
    kept: list[Any] = [torch.load(path, weights_only=True) for path in sorted(folder.glob("*.pt"))]
    kept += [load(path.read_bytes()) for path in sorted(folder.glob("*.safetensors"))]
    say("the files read whole", time.perf_counter() - start, before)


def loaded_set(folder: Path) -> None:
    """In a process of its own: load, compile, take a turn, take one with a full trace."""
    loaded, runs = stand_in(), partial(Runtime.run, messages=CASE.messages, tools=CASE.tools, max_new_tokens=REPLY)
    with tempfile.TemporaryDirectory() as place:
        store = Store(Path(place) / "audit.db")
        runs(Runtime(loaded, store=store, prefix_cache=False))  # what turns take without SAEs
        before = now()

        def after(what: str, do: Callable[[], Any]) -> Any:
            start = time.perf_counter()
            made = do()
            say(what, time.perf_counter() - start, before)
            return made

        saes = after("loaded", lambda: load_set(folder))
        steered = policy(LAYERS, 0, True)
        after(f"a plan that reads {EDITED + 1} features a layer", lambda: compile_plan([(steered,)], saes))
        after("the set's fingerprint", lambda: saes.fingerprint)
        watching = Runtime(loaded, saes, steered, store=store, prefix_cache=False)
        after("a recorded turn under it", lambda: runs(watching))
        full = {"trace": steered.trace.model_copy(update={"top_k": TOP_K, "at": "any"})}
        tracing_all = Runtime(loaded, saes, steered.model_copy(update=full), store=store, prefix_cache=False)
        after(f"a recorded turn with a top-{TOP_K} trace", lambda: runs(tracing_all))
        store.close()


def say(what: str, seconds: float, before: Held) -> None:
    """Print one line of a table of SAEs."""
    own, files = (round((a - b) / MIB) for a, b in zip(now()[:2], before[:2], strict=True))
    print(f"| {what} | {seconds:.2f} | {own} MiB | {files} MiB |", flush=True)


def sae_memory() -> None:
    """Print the tables of SAE sets, by format and dtype."""
    for form, dtype in ((functiongemma, torch.float32), (functiongemma, torch.bfloat16), (tensors, torch.float32)):
        with tempfile.TemporaryDirectory() as folder:
            made = random_saes(LAYERS, WIDTH, bias=0.0).checkpoints.values()
            form.write([replace(one, sae=one.sae.to("cpu", dtype)) for one in made], Path(folder))
            size = sum(path.stat().st_size for path in Path(folder).iterdir())
            name = f"{form.FILES[0]}, {str(dtype).removeprefix('torch.')}"
            print(f"\n18 SAEs of {WIDTH} to 4,096 features, {name}, files of {size / MIB:.0f} MiB\n")
            print("| after | seconds | memory of its own | mapped files in memory |\n|---|---|---|---|", flush=True)
            for way in ("--folder", "--whole"):
                subprocess.run([sys.executable, __file__, way, folder], check=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("trace", "turns", "saes"))
    parser.add_argument("--turns", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--whole", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not ROLLUP.exists():
        parser.error(f"needs Linux: {ROLLUP} says what belongs to a process")
    if given.folder:
        return loaded_set(given.folder)
    if given.whole:
        return read_whole(given.whole)
    for name, run in (("trace", traces), ("saes", sae_memory), ("turns", lambda: many_turns(given.turns))):
        if given.only in (None, name):
            run()
    return None


if __name__ == "__main__":
    main()
