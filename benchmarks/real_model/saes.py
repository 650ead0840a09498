"""SAEs of the stand-in by the recipe of the published FunctionGemma SAEs, beside their own table and better recipes.

    python benchmarks/real_model/saes.py OUT --model MODEL --data CONVERSATIONS.jsonl [--against FOLDER]

MODEL is the stand-in, CONVERSATIONS a JSONL file with `messages` and `tools`. Into OUT go `train.jsonl` and
`held_out.jsonl` (the conversations in a random order: --held-out of them, and as many others as --tokens has room for),
a folder of SAEs for each of --recipes, `runs.jsonl` with wall time, CPU time and peak memory of each command, and
`saes.json`; from all of it the tables are printed. Training and measuring are `steerkit sae train` and `sae health`. A
run that is stopped, or that --minutes ends, goes on with the same command; what is there is not computed again.

With --against the SAEs are held against another model too, such as the one that MODEL was tuned from; for the reverse
run the script on that one.

The whole (18 layers, 300,000 tokens, five epochs, four recipes) takes many hours on a CPU. With fewer --tokens,
--epochs, --layers or --recipes the tables say so.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from sae_tables import show_drift, show_recipes, show_seed

from steerkit.engine import LoadedModel, load_model
from steerkit.lab import read_corpus
from steerkit.sae import load_set, summarize

RECIPES: Final = ("seed", "normalised", "topk", "jumprelu")
"""The recipes, with their usual settings; all have 4,096 features, as many epochs, and the same tokens."""
_ROWS: Final = 64
"""Conversations that are tokenised at a time, until there are enough tokens."""


def split(rows: list[dict[str, Any]], loaded: LoadedModel, tokens: int, held_out: int, seed: int, out: Path) -> None:
    """Write `train.jsonl` and `held_out.jsonl`, unless they are there."""
    if (out / "train.jsonl").exists():
        return
    random.Random(seed).shuffle(rows)
    chosen, count, rest = [], 0, rows[held_out:]
    for start in range(0, len(rest), _ROWS):
        part = rest[start : start + _ROWS]
        with tempfile.TemporaryDirectory() as folder:
            texts = read_corpus(written(Path(folder) / "part.jsonl", part), loaded).texts
        for row, text in zip(part, texts, strict=True):
            if count + len(text) > tokens:
                break
            chosen.append(row)
            count += len(text)
        else:
            continue
        break
    written(out / "held_out.jsonl", rows[:held_out])
    written(out / "train.jsonl", chosen)


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A file of conversations, whole or not at all."""
    lines = [json.dumps({"messages": row["messages"], "tools": row.get("tools") or []}) for row in rows]
    path.with_suffix(".part").write_text("".join(f"{line}\n" for line in lines))
    return path.with_suffix(".part").replace(path)


class Stopped(Exception):
    """The time is up; the same command goes on."""


class Runner:
    """Runs commands of steerkit one after the other, and notes what each took.

    Args:
        out: folder of `runs.jsonl`.
        minutes: time for all of them together, or None.
    """

    def __init__(self, out: Path, minutes: float | None) -> None:
        self.out = out
        self.end = None if minutes is None else time.monotonic() + 60 * minutes

    def __call__(self, name: str, *arguments: str | Path, into: Path | None = None) -> None:
        """Run a command, its output to `into`, a file that is written whole or not at all.

        Raises:
            Stopped: the time is up.
            SystemExit: the command failed.
        """
        part = self.out / "output.part"
        began = time.monotonic()
        with part.open("w") as file:
            command = [sys.executable, "-m", "steerkit.cli.main", *map(str, arguments)]
            process = subprocess.Popen(command, stdout=file if into else None)
            peak = ended = 0
            while not ended:
                peak = max(peak, high_water(process.pid))
                if self.end is not None and time.monotonic() > self.end:
                    process.terminate()
                time.sleep(0.2)
                ended, status, used = os.wait4(process.pid, os.WNOHANG)
            process.returncode = os.waitstatus_to_exitcode(status)
        took = {"name": name, "seconds": time.monotonic() - began, "cpu_seconds": used.ru_utime + used.ru_stime,
                "peak_mib": peak, "status": process.returncode}  # fmt: skip
        with (self.out / "runs.jsonl").open("a") as log:
            log.write(json.dumps({**took, "threads": os.environ.get("OMP_NUM_THREADS")}) + "\n")
        if self.end is not None and time.monotonic() > self.end and process.returncode != 0:
            raise Stopped
        if process.returncode != 0:
            sys.exit(f"{' '.join(command[2:])}: ended with {process.returncode}")
        if into is not None:
            part.replace(into)


def high_water(pid: int) -> int:
    """Peak memory of a process so far in MiB; 0 where the system does not say."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM")), 0)


def finished(folder: Path) -> bool:
    """True if a training run is complete."""
    path = folder / "training.json"
    return path.exists() and bool(json.loads(path.read_text())["finished"])


def make(given: argparse.Namespace, run: Runner) -> None:
    """Train and measure what is missing."""
    out: Path = given.out
    common = ("--model", given.model)
    for recipe in given.recipes:
        folder = out / recipe
        if not finished(folder):
            layers = () if given.layers is None else ("--layers", given.layers)
            sizes = ("--d-sae", "4096", "--epochs", str(given.epochs), "--save-every", str(given.save_every))
            options = ("--recipe", recipe, *sizes, *layers)
            run(f"train {recipe}", "sae", "train", "--data", out / "train.jsonl", "--out", folder, *common, *options)
        health, drift = out / f"{recipe}.health.jsonl", out / f"{recipe}.drift.jsonl"
        data = ("sae", "health", "--data", out / "held_out.jsonl", "--saes", folder, *common, "--json")
        if not health.exists():
            run(f"health {recipe}", *data, "--calls", str(given.calls), into=health)
        if given.against and not drift.exists():
            run(f"drift {recipe}", *data, "--against", given.against, into=drift)


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file; none where it is not there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def results(out: Path, recipes: list[str]) -> dict[str, Any]:
    """All that is there, by recipe."""
    found: dict[str, Any] = {}
    for recipe in recipes:
        if not finished(out / recipe):
            continue
        rows = [{"layer": one.layer, **one._asdict()} for one in summarize(load_set(out / recipe))]
        *health, calls = lines_of(out / f"{recipe}.health.jsonl") or [{}]
        runs = [one for one in lines_of(out / "runs.jsonl") if one["name"] == f"train {recipe}"]
        found[recipe] = {
            "training": [{key: value for key, value in row.items() if key != "site"} for row in rows],
            "health": health,
            "calls": calls.get("calls"),
            "drift": lines_of(out / f"{recipe}.drift.jsonl"),
            "seconds": sum(one["cpu_seconds"] for one in runs),
            "peak_mib": max((one["peak_mib"] for one in runs), default=0),
        }
    return found


def main() -> None:
    """Make what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--against", help="another model, such as the one that MODEL was tuned from")
    parser.add_argument("--tokens", type=int, default=300_000, help="tokens of the conversations that are trained on")
    parser.add_argument("--held-out", type=int, default=64, help="conversations that are measured on")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--layers", help="such as 0-5,11 (default: all)")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--calls", type=int, default=16, help="held-out conversations to generate calls from")
    parser.add_argument("--save-every", type=int, default=20_000, help="tokens between checkpoints")
    parser.add_argument("--minutes", type=float, help="stop after so long; the same command goes on")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    loaded = load_model(given.model, prepack=False)
    split(lines_of(given.data), loaded, given.tokens, given.held_out, 0, given.out)
    tokens = read_corpus(given.out / "train.jsonl", loaded).tokens
    del loaded
    try:
        make(given, Runner(given.out, given.minutes))
    except Stopped:
        print("the time is up; the same command goes on")
    found = results(given.out, given.recipes)
    if not found:
        return
    (given.out / "saes.json").write_text(json.dumps(found, indent=1) + "\n")
    print(
        f"{tokens:,} tokens, {given.epochs} epochs, 4,096 features a layer; measured on {given.held_out} conversations"
    )
    if "seed" in found:
        show_seed(found["seed"])
    if all(one["health"] for one in found.values()):
        show_recipes(found)
    for recipe, one in found.items():
        if one["drift"]:
            show_drift(recipe, one["drift"], given.against)


if __name__ == "__main__":
    main()
