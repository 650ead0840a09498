"""What steering and tracing cost, against plain `generate`, on FunctionGemma's architecture with random weights.

    python benchmarks/overhead.py [--dtype float32] [--sizes 256x1,256x8] [--tokens 16] [--rounds 5] [--clock cpu]

Greedy, fixed lengths. A size is the prompt's tokens x the batch. Every arm generates the same number of tokens in every
round, the arms take turns, and a ratio is the median over rounds of the rounds' own ratios to plain, with the spread;
"plain again" shows the noise. Prefill lasts until the second pass of the model begins; decode is the rest, the trace
included. "prepacked" arms run through copies of the linear weights as oneDNN reads them fastest, which `steerkit.load`
makes by itself where they win. `--clock cpu` counts the process' own time, for a machine in use; give it one thread
then (`OMP_NUM_THREADS=1`).
"""

from __future__ import annotations

import argparse

import torch
from arms import CLOCKS, Arms, measure, random_saes

from steerkit.engine import prepacked
from steerkit.testing import FUNCTIONGEMMA, random_model


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--sizes", default="32x1,256x1,1024x1,256x4,256x8,32x32")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    given = parser.parse_args()
    model = random_model(FUNCTIONGEMMA, dtype=getattr(torch, given.dtype))
    saes = random_saes(FUNCTIONGEMMA["num_hidden_layers"], FUNCTIONGEMMA["hidden_size"])
    copies = prepacked(model, True)
    assert copies is not None
    setting = f"{given.dtype}, {torch.get_num_threads()} threads, {given.clock} time"
    print(f"{setting}, {given.tokens} tokens, {given.rounds} rounds")
    print(f"linear weights prepacked: {copies.bytes / 2**20:.0f} MiB more")
    print("| prompt x batch | arm | prefill | decode |\n|---|---|---|---|")
    draw = torch.Generator().manual_seed(0)
    for size in given.sizes.split(","):
        length, rows = map(int, size.split("x"))
        prompts = torch.randint(1, FUNCTIONGEMMA["vocab_size"], (rows, length), generator=draw)
        arms = Arms(model, saes, prompts).all(copies)
        found = measure(arms, given.tokens, given.rounds, CLOCKS[given.clock], model)
        for name, (prefill, decode) in found.items():
            print(f"| {length} x {rows} | {name} | {prefill} | {decode} |", flush=True)


if __name__ == "__main__":
    main()
