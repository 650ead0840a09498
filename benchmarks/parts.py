"""What parts of a decode step cost by themselves: a layer's attention and hooks, and the unembedding.

    python benchmarks/parts.py [--rounds 60] [--keys 256] [--batches 1,8,32]

Attention is transformers' own over FunctionGemma's heads, which share their keys: as it is called without a mask, and
with one that hides nothing. The hooks are those of `attach` around layers that do nothing. Both have all that they need
in the caches; in a model a hook takes longer, as what a layer's weights drove out is read anew. The unembedding is one
product by 262,144 rows of 640: with the weight as it is, as torch does it and as steerkit does, and prepacked.
Medians over rounds in which the arms take turns, with the quartiles, in microseconds: of a layer, or of the product.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from arms import policy, random_saes
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from steerkit.engine.hf.unembedding import Unembedding
from steerkit.sae import SaeSet
from steerkit.sae.cpu import onednn
from steerkit.steer import attach, compile_plan
from steerkit.testing import FUNCTIONGEMMA, random_model

LAYERS, WIDTH, PROMPT = FUNCTIONGEMMA["num_hidden_layers"], FUNCTIONGEMMA["hidden_size"], 5


class Attention(nn.Module):
    """Its projection alone, which gives what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.o_proj = nn.Identity()


class Layer(nn.Module):
    """A layer of nothing but its projection."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = Attention()


class Body(nn.Module):
    """Layers that do nothing."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(layers))
        self.device_of = nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, input_ids: Tensor, states: Tensor, cache: object = None) -> Tensor:
        """The states, through every projection."""
        for layer in self.layers:
            states = layer.self_attn.o_proj(states)
        return states


class Model(nn.Module):
    """A body alone."""

    def __init__(self, layers: int = LAYERS) -> None:
        super().__init__()
        self.model = Body(layers)

    def forward(self, **given: Any) -> Tensor:
        """The body's."""
        found: Tensor = self.model(**given)
        return found


class Cache:
    """Says how much was read."""

    seen = 0

    def get_seq_length(self) -> int:
        """Tokens."""
        return self.seen


def turns(arms: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Microseconds of each arm, in rounds after five that warm up."""
    found: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(rounds + 5):
        for name, run in arms.items():
            start = time.perf_counter()
            run()
            if number >= 5:
                found[name].append(1e6 * (time.perf_counter() - start))
    return found


def told(values: Sequence[float]) -> str:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.0f} ({low:.0f} to {high:.0f})"


def attention(dtype: torch.dtype, rows: int, keys: int, rounds: int) -> Iterator[str]:
    """The rows of the table for one batch: a query of each sequence over so many keys."""
    module = random_model({**FUNCTIONGEMMA, "num_hidden_layers": 1}, dtype=dtype).model.layers[0].self_attn
    heads, width = FUNCTIONGEMMA["num_attention_heads"], FUNCTIONGEMMA["head_dim"]
    query = torch.randn(rows, heads, 1, width, dtype=dtype)
    key, value = torch.randn(2, rows, FUNCTIONGEMMA["num_key_value_heads"], keys, width, dtype=dtype).unbind()
    mask = torch.zeros(rows, 1, 1, keys, dtype=dtype)

    def over(given: Tensor | None) -> Callable[[], Any]:
        return lambda: sdpa_attention_forward(module, query, key, value, given, scaling=module.scaling)

    for name, took in turns({"no mask": over(None), "a mask": over(mask)}, rounds).items():
        yield f"| {dtype} | {rows} | attention over {keys} keys, {name} | {told(took)} |".replace("torch.", "")


def unembedding(dtype: torch.dtype, rows: int, rounds: int) -> Iterator[str]:
    """The rows of the table for one batch, and whether steerkit's logits are torch's to the bit."""
    model = random_model({**FUNCTIONGEMMA, "num_hidden_layers": 1}, dtype=dtype)
    states, own = torch.randn(rows, 1, WIDTH, dtype=dtype), model.lm_head.weight
    packed, ours = onednn.laid_out(own), Unembedding(model)

    def in_pieces() -> Tensor:
        with ours.in_place():
            found: Tensor = model.lm_head(states)
        return found

    def whole() -> Tensor:
        return nn.functional.linear(states, own)

    bits = "the same bits" if torch.equal(whole(), in_pieces()) else "other bits"
    arms: dict[str, Callable[[], Any]] = {
        "as torch does it": whole,
        f"as steerkit does it, {bits}": in_pieces,
        "prepacked": lambda: onednn.product(states, packed, None),
    }
    for name, took in turns(arms, rounds).items():
        yield f"| {dtype} | {rows} | unembedding, {name} | {told(took)} |".replace("torch.", "")


def hooks(saes: SaeSet, rows: int, rounds: int, dtype: torch.dtype = torch.bfloat16) -> Iterator[str]:
    """The rows of the table for one batch: what hooks add to the layers, each rule of a row's own policy or of one."""
    ids, states = torch.ones(rows, 1, dtype=torch.long), 0.04 * torch.randn(rows, 1, WIDTH, dtype=dtype)
    prompt, read = ids.expand(-1, PROMPT), states.expand(-1, PROMPT, -1)
    numbers = {"16 clamps": (1, False), "16 clamps behind a gate": (1, True)}
    if rows > 1:
        numbers |= {f"the same, {rows} policies": (rows, True)}
    bare = Model()
    arms: dict[str, Callable[[], Any]] = {"bare": lambda: bare(input_ids=ids, states=states)}
    with ExitStack() as stack:
        for name, (number, gated) in numbers.items():
            plan = compile_plan([(policy(LAYERS, n, gated),) for n in range(number)], saes)
            model, cache = Model(), Cache()
            which = [1 + row % number for row in range(rows)]
            stack.enter_context(attach(model, plan, rows=which, prompt_length=PROMPT, capacity=512))
            model(input_ids=prompt, states=read, cache=cache)
            cache.seen = PROMPT
            arms[name] = lambda model=model, cache=cache: model(input_ids=ids, states=states, cache=cache)
        took = turns(arms, rounds)
    for name in numbers:
        added = [(a - b) / LAYERS for a, b in zip(took[name], took["bare"], strict=True)]
        yield f"| {dtype} | {rows} | hooks, {name} | {told(added)} |".replace("torch.", "")


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--keys", type=int, default=256)
    parser.add_argument("--batches", default="1,8,32")
    given = parser.parse_args()
    saes = random_saes(LAYERS, WIDTH)
    print(f"{torch.get_num_threads()} threads, {given.rounds} rounds, microseconds (quartiles)")
    print("| dtype | batch | part | µs |\n|---|---|---|---|")
    for rows in map(int, given.batches.split(",")):
        for dtype in (torch.bfloat16, torch.float32):
            print(*attention(dtype, rows, given.keys, given.rounds), sep="\n", flush=True)
        print(*hooks(saes, rows, given.rounds), sep="\n", flush=True)
        for dtype in (torch.bfloat16, torch.float32):
            print(*unembedding(dtype, rows, given.rounds // 4), sep="\n", flush=True)


if __name__ == "__main__":
    main()
