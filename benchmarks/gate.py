"""Fails when steering got slower: arms against plain `generate`, with bounds widened by the noise of the same run.

    python benchmarks/gate.py        # under two minutes on two cores

Four layers of FunctionGemma's width with random weights, float32. Noise is how far plain is from itself over the
rounds. An arm fails where even its best round is above its bound and the noise; exit status 1 then. The bounds are
those of the small model, whose steps are short: on FunctionGemma's size the same hooks are a smaller part
(`overhead.py`).
"""

from __future__ import annotations

import sys
import time
from typing import Final

import torch
from arms import Arms, Timing, measure, random_saes

from steerkit.testing import FUNCTIONGEMMA, random_model

LAYERS, PROMPT, TOKENS, ROUNDS = 4, 96, 10, 4
BOUNDS: Final = {
    "idle": (1.03, 1.02),
    "16 clamps a layer": (1.06, 1.03),
    "top-32 trace": (1.08, 1.06),
    "clamps, gates and trace": (1.15, 1.10),
    "4 policies, gates and trace": (1.12, 1.10),
}
"""Prefill and decode."""


def failed(found: Timing, bound: float, noise: float) -> bool:
    """Whether even the best round is too slow."""
    return found.low > bound + noise


def main() -> int:
    """Measure, print, and say whether all is well."""
    start = time.perf_counter()
    torch.set_num_threads(1)
    size = {**FUNCTIONGEMMA, "vocab_size": 8192, "num_hidden_layers": LAYERS}
    model, saes = random_model(size), random_saes(LAYERS, FUNCTIONGEMMA["hidden_size"])
    draw = torch.Generator().manual_seed(0)
    print("| batch | arm | prefill | decode | bounds | |\n|---|---|---|---|---|---|")
    bad = 0
    for rows in (1, 4):
        prompts = torch.randint(1, 8192, (rows, PROMPT), generator=draw)
        found = measure(Arms(model, saes, prompts).all(), TOKENS, ROUNDS)
        noise = [max(one.high - 1, 1 - one.low) for one in found["plain again"]]
        print(f"| {rows} | noise | {noise[0]:.3f} | {noise[1]:.3f} | | |")
        for name, bounds in BOUNDS.items():
            if name not in found:
                continue
            wrong = any(map(failed, found[name], bounds, noise))
            bad += wrong
            prefill, decode = found[name]
            limits = " and ".join(f"{bound:.2f}" for bound in bounds)
            print(
                f"| {rows} | {name} | {prefill} | {decode} | {limits} | {'SLOWER' if wrong else 'fine'} |", flush=True
            )
    print(f"{bad} of the arms are slower than their bound and the noise; {time.perf_counter() - start:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
