"""What steering costs per decoded token on a GPU, step by step and with the step in a CUDA graph, against plain.

    python benchmarks/gpu.py [--batches 1,8,32,128] [--prompt 256] [--tokens 32] [--rounds 5] [--compiled]
    python benchmarks/gpu.py --device cpu --small       # the same on a small model, without graphs

FunctionGemma's architecture with random weights, bfloat16, greedy. First it checks, in float32 on the model in the box,
that graphs give the tokens and open the rules of `attach`, and that a change of policies captures nothing. Then the
arms take turns; a time is that of the tokens from the second on, the device synchronised at both ends, with the
reading of the trace where there is one. `eager` arms are compared with transformers' own `generate`, `graphed` ones
with a graph of the same step without steerkit's hooks. Ratios are medians over the rounds' own, with the spread.
`--compiled` adds steps that `torch.compile` made, which takes a minute or more for each batch.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from arms import TOP_K, Arms, policy, random_saes
from torch import Tensor
from transformers import DynamicCache, StoppingCriteria, StoppingCriteriaList

from steerkit.engine import Batch, Graphs, cache_name, generate, load_model
from steerkit.engine.api import Sampling
from steerkit.engine.hf.cuda_graphs import Step
from steerkit.engine.hf.model import box_folder
from steerkit.policy import Policy
from steerkit.sae import SaeSet, load_set
from steerkit.steer import Capacity, Extent, Plan, Wanted, attach, compile_plan, fused_kernels, read_traces
from steerkit.testing import FUNCTIONGEMMA, SMALL, random_model
from steerkit.types import Span

Timed = Callable[[int], float]
"""Decodes that many tokens after the second and gives the seconds."""


def now() -> float:
    """Seconds, once the device has done all that it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class Clock(StoppingCriteria):  # type: ignore[misc]  # transformers' class is not typed
    """Notes when the second token was chosen."""

    def __init__(self) -> None:
        self.calls, self.start = 0, 0.0

    def __call__(self, ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """Go on."""
        self.calls += 1
        if self.calls == 2:
            self.start = now()
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)


class GpuArms(Arms):
    """The arms of one batch, each timed from its second token on."""

    def __init__(self, model: Any, saes: SaeSet, prompts: Tensor, *, compiled: bool = False) -> None:
        super().__init__(model, saes, prompts)
        self._compiled = compiled
        self.devices = dict.fromkeys(saes, prompts.device)
        self._plain: Step | None = None
        self.second: dict[Graphs | None, float] = {}
        """By way, what the second token of its last run took: with a graph, fill the buffers as well."""
        self.fused = Graphs(model).kernels is not None

    def plain_eager(self, tokens: int) -> float:
        """transformers' own generation."""
        clock = Clock()
        self.model.generate(
            self.batch.ids,
            attention_mask=self.batch.mask,
            min_new_tokens=tokens + 2,
            max_new_tokens=tokens + 2,
            do_sample=False,
            pad_token_id=0,
            stopping_criteria=StoppingCriteriaList([clock]),
        )
        return now() - clock.start

    @torch.inference_mode()
    def plain_graphed(self, tokens: int) -> float:
        """The step of fixed shape by itself, no hook on the model."""
        mask, cache = self.batch.mask, DynamicCache(config=self.model.config)
        positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)
        inputs = {"input_ids": self.batch.ids, "attention_mask": mask, "position_ids": positions}
        logits = self.model(**inputs, **{cache_name(self.model): cache}, logits_to_keep=1).logits[:, -1]
        if self._plain is None:
            columns = -(-(mask.shape[1] + tokens + 1) // 256) * 256
            self._plain = Step(self.model, cache, Capacity(), len(mask), columns)
        step = self._plain
        step.cache.fill(cache, mask, positions[:, -1:])
        start = 0.0
        for number in range(tokens + 1):
            step.cache.feed(torch.tensor(logits.argmax(dim=-1).tolist()).unsqueeze(-1))
            logits = step()
            if number == 0:
                logits.argmax(dim=-1).tolist()
                start = now()
        logits.argmax(dim=-1).tolist()
        return now() - start

    def timed(self, plan: Plan, rows: Sequence[int] | None, *, trace: bool, graphs: Graphs | None) -> Timed:
        """steerkit's loop under a plan."""

        def run(tokens: int) -> float:
            limits = [Sampling(max_new_tokens=tokens + 2)] * len(self.batch.ids)
            layers, width = (range(self.layers) if trace else ()), self.batch.ids.shape[1]
            with attach(self.model, plan, rows=rows, trace=layers, prompt_length=width) as attached:
                recorder = attached.recorder
                how: dict[str, Any] = (
                    {} if graphs is None else {"graphs": graphs, "prefill_state": attached.prefill_state}
                )
                steps = generate(self.model, self.batch, limits, (), 0, **how)
                next(steps)
                first = now()
                next(steps)
                start = now()
                self.second[graphs] = start - first
                for _ in range(tokens):
                    next(steps)
                end = now()
                next(steps, None)
            if trace:
                between = now()
                length = width + tokens + 1
                extent = Extent(length, Span(width + 1, length))
                read_traces(recorder, plan, self.saes, [Wanted(top_k=TOP_K)] * len(limits), [extent] * len(limits))
                end += now() - between
            return end - start

        return run

    def every(self) -> dict[str, tuple[Timed, str]]:
        """Every arm by its name, and the arm that it is compared with."""
        size = len(self.batch.ids)
        nothing = compile_plan([()], self.saes, self.devices)
        clamps = compile_plan([(policy(self.layers, 0, False),)], self.saes, self.devices)
        mixed = compile_plan([(policy(self.layers, n, True),) for n in range(size)], self.saes, self.devices)
        plans: dict[str, tuple[Plan, Sequence[int] | None, bool]] = {
            "idle": (nothing, None, False),
            "16 clamps a layer": (clamps, [1] * size, False),
            "clamps, gates, top-32 trace, a policy per row": (mixed, range(1, size + 1), True),
        }
        arms = {
            "plain, eager": (self.plain_eager, "plain, eager"),
            "plain, graphed": (self.plain_graphed, "plain, graphed"),
        }
        for name, (plan, rows, trace) in plans.items():
            ways = {
                "eager": None,
                "graphed": Graphs(self.model),
                "graphed without fused kernels": Graphs(self.model, fused=False),
            }
            if self._compiled and plan.rules and not trace:
                ways["graphed, compiled"] = Graphs(self.model, compiled=True)
            for how, graphs in ways.items():
                if graphs is None or how != "graphed without fused kernels" or (plan.rules and self.fused):
                    run = self.timed(plan, rows, trace=trace, graphs=graphs)
                    arms[f"{name}, {how}"] = (run, "plain, eager" if graphs is None else "plain, graphed")
        return arms


def lines(arms: GpuArms, tokens: int, rounds: int) -> Iterator[str]:
    """Rows of the table for one batch."""
    every = arms.every()
    seconds: dict[str, list[float]] = {name: [] for name in every}
    for number in range(rounds + 1):
        order = list(every)
        for name in order[number % len(order) :] + order[: number % len(order)]:
            found = every[name][0](tokens)
            if number:  # the first round warms up, and captures
                seconds[name].append(found)
    size = len(arms.batch.ids)
    for name, (_, base) in every.items():
        ratios = [a / b for a, b in zip(seconds[name], seconds[base], strict=True)]
        speed = size * tokens / statistics.median(seconds[name])
        ratio = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        yield f"| {size} | {name} | {speed:,.0f} | {1000 * statistics.median(seconds[name]) / tokens:.3f} | {ratio} |"
    took = ", ".join(f"{1000 * seconds:.1f}" for graphs, seconds in arms.second.items() if graphs is not None)
    yield f"| {size} | second token of the graphed arms, with the buffers filled: {took} ms | | | |"


def box_policy(saes: SaeSet, number: int) -> Policy:
    """A gated clamp in two layers of the box, that holds, and one that acts late."""
    first, *_, last = saes
    features = {"a": (first, 3 + number), "b": (last, 5 + number), "c": (first, 40 + number)}
    body = {name: {"layer": layer, "index": index} for name, (layer, index) in features.items()}
    steer = [
        {"name": "held", "where": "any", "when": {"feature": "a", "above": 0.0, "max_over": 4}, "for": "3 tokens",
         "edit": {"b": {"clamp": 2.0 + number}}},
        {"name": "late", "where": "reply", "when": {"feature": "b", "above": 1.0}, "edit": {"c": {"clamp": 1.5}}},
        {"name": "call", "where": "reply", "edit": {"a": {"clamp": 0.5}}},
    ]  # fmt: skip
    parts = {"name": f"p{number}", "model": "steerkit/tiny", "features": body, "steer": steer}
    return Policy.model_validate({"steerkit": 1, **parts, "guard": {"default": "allow"}})


def check(device: torch.device, fused: bool) -> None:
    """Graphs against `attach` on the box in float32, and policies that change without a capture."""
    folder = box_folder("tiny")
    assert folder is not None
    loaded = load_model("tiny", device=device)
    saes = load_set(folder / "saes")
    graphs = Graphs(loaded.model, fused=fused)
    prompts = [[2, *range(10, 30)], [2, *range(40, 75)], [2, *range(100, 107)]]
    batch = Batch.of(prompts, 0, device)
    limits, captures, seen = [Sampling(max_new_tokens=48)] * 3, [], set()
    for number in range(4):
        policies = [(box_policy(saes, number),), (), (box_policy(saes, number + 1),)]
        plan = compile_plan(policies, saes, loaded.site_devices)
        found = []
        for how in ({}, {"graphs": graphs}):
            rows, width = [plan.row(held) for held in policies], batch.ids.shape[1]
            with attach(loaded.model, plan, rows=rows, trace=list(saes), prompt_length=width) as attached:
                recorder = attached.recorder
                extra: dict[str, Any] = {**how, "prefill_state": attached.prefill_state} if how else {}
                replies = list(generate(loaded.model, batch, limits, (), 0, split_prompt=True, **extra))
            found.append((replies, {layer: opened.cpu() for layer, opened in recorder.opened().items()}))
        (tokens, opened), (graph_tokens, graph_opened) = found
        assert graphs.refused is None, graphs.refused
        assert tokens == graph_tokens, "graphs gave other tokens than attach"
        assert all(torch.equal(opened[layer], graph_opened[layer]) for layer in opened), "other rules were open"
        seen.add(str(tokens))
        captures.append(graphs.statistics.captures)
    assert captures == [1, 1, 1, 1], captures
    acted = sum(int(part.sum()) for part in opened.values())
    kind = "fused kernels" if fused else "plain tensors"
    print(f"box, float32, {kind}: 4 sets of policies, {len(seen)} different replies, {acted} open rules in the last,")
    print(f"tokens and rules equal to attach's; {graphs.statistics}", flush=True)


def main() -> None:
    """Check, measure, and print the table last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--batches", default="1,8,32,128")
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    device = torch.device(given.device)
    start = time.perf_counter()
    check(device, False)
    if fused_kernels(device) is not None:
        check(device, True)
    size = SMALL if given.small else FUNCTIONGEMMA
    model = random_model(size, dtype=getattr(torch, given.dtype)).to(device)
    saes = random_saes(size["num_hidden_layers"], size["hidden_size"])
    local = [replace(one, sae=one.sae.to(device)) for one in saes.checkpoints.values()]
    saes = SaeSet("random", local)
    draw = torch.Generator().manual_seed(0)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    what = f"prompt {given.prompt}, {given.tokens} tokens, {given.rounds} rounds"
    table = [f"{name}, torch {torch.__version__}, {given.dtype}, {what}"]
    table.append("| batch | arm | tokens/s | ms a step | against plain |\n|---|---|---|---|---|")
    for rows in map(int, given.batches.split(",")):
        prompts = torch.randint(1, size["vocab_size"], (rows, given.prompt), generator=draw).to(device)
        table += lines(GpuArms(model, saes, prompts, compiled=given.compiled), given.tokens, given.rounds)
        print(f"batch {rows} done after {time.perf_counter() - start:.0f} s", flush=True)
    print("\n".join(table), flush=True)


if __name__ == "__main__":
    main()
