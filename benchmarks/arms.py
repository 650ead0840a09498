"""Ways of generating a fixed number of tokens, to be timed side by side on one model with random weights."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steerkit.engine import Batch, Prepacked, generate
from steerkit.engine.api import Sampling
from steerkit.policy import Policy
from steerkit.sae import Sae, SaeSet
from steerkit.sae.checkpoint import Checkpoint
from steerkit.sites import Site
from steerkit.steer import Extent, Plan, Wanted, attach, compile_plan, read_traces
from steerkit.types import Span

D_SAE, EDITED, TOP_K = 4096, 16, 32
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""`cpu` counts the process' own time, for a machine in use; with one thread both are one on a quiet machine."""

Run = Callable[[int], Any]
"""Generates that many tokens for each prompt."""


class Timing(NamedTuple):
    """Of one arm against another of the same rounds."""

    ratio: float
    """Median over rounds."""
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.ratio:.3f} ({self.low:.3f} to {self.high:.3f})"


def random_saes(layers: int, width: int, bias: float = -0.05) -> SaeSet:
    """ReLU SAEs with random weights; on vectors of length 1 about an eighth of the features is active (0: half)."""
    draw = torch.Generator().manual_seed(0)
    found = []
    for layer in range(layers):
        directions = torch.nn.functional.normalize(torch.randn(D_SAE, width, generator=draw), dim=1)
        sae = Sae(directions.T.contiguous(), torch.full((D_SAE,), bias), directions, torch.zeros(width))
        found.append(Checkpoint(Path(), "random", Site(layer), sae))
    return SaeSet("random", found)


def policy(layers: int, number: int, gated: bool, edited: int = EDITED) -> Policy:
    """A clamp of some features in every layer, at every token; `gated` ones each behind a feature of their layer."""
    features, rules = {}, []
    for layer in range(layers):
        names = [f"l{layer}_{index}" for index in range(edited + 1)]
        features |= {
            name: {"layer": layer, "index": (number * 101 + place * 211) % D_SAE} for place, name in enumerate(names)
        }
        rule: dict[str, Any] = {
            "name": f"layer-{layer}",
            "where": "any",
            "edit": {name: {"clamp": 0.01} for name in names[:edited]},
        }
        rules.append({**rule, "when": {"feature": names[edited], "above": 0.0}} if gated else rule)
    body = {"name": f"p{number}", "model": "random", "features": features, "steer": rules}
    return Policy.model_validate({"steerkit": 1, **body, "guard": {"default": "allow"}})


class Arms:
    """The arms of one model, prompt length and batch size."""

    def __init__(self, model: Any, saes: SaeSet, prompts: Tensor) -> None:
        self.model, self.saes = model, saes
        self.batch = Batch(prompts, torch.ones_like(prompts))
        self.layers = len(saes)

    def plain(self, tokens: int) -> Tensor:
        """transformers' own greedy generation."""
        found: Tensor = self.model.generate(
            self.batch.ids,
            attention_mask=self.batch.mask,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            do_sample=False,
            pad_token_id=0,
        )
        return found

    def steered(self, plan: Plan, rows: Sequence[int] | None = None, *, trace: bool = False) -> Run:
        """steerkit's loop under a plan; gives the replies, or with `trace` the deferred traces of the new tokens."""

        def run(tokens: int) -> Any:
            limits = [Sampling(max_new_tokens=tokens)] * len(self.batch.ids)
            layers, width = (range(self.layers) if trace else ()), self.batch.ids.shape[1]
            with attach(self.model, plan, rows=rows, trace=layers, prompt_length=width) as attached:
                recorder = attached.recorder
                replies = list(generate(self.model, self.batch, limits, (), 0))
            if trace:
                length = width + tokens - 1
                extent = Extent(length, Span(width - 1, length))
                return read_traces(
                    recorder, plan, self.saes, [Wanted(top_k=TOP_K)] * len(limits), [extent] * len(limits)
                )
            return replies

        return run

    def all(self, copies: Prepacked | None = None) -> dict[str, Run]:
        """Every arm by its name, plain first and once more, to see the noise; some of them also with `copies`."""
        size = len(self.batch.ids)
        nothing = compile_plan([()], self.saes)
        clamps = compile_plan([(policy(self.layers, 0, False),)], self.saes)
        gates = compile_plan([(policy(self.layers, 0, True),)], self.saes)
        arms = {
            "plain": self.plain,
            "plain again": self.plain,
            "idle": self.steered(nothing),
            "16 clamps a layer": self.steered(clamps),
            "top-32 trace": self.steered(nothing, trace=True),
            "clamps, gates and trace": self.steered(gates, trace=True),
        }
        if size > 1:
            mixed = compile_plan([(policy(self.layers, number, True),) for number in range(size)], self.saes)
            arms[f"{size} policies, gates and trace"] = self.steered(mixed, range(1, size + 1), trace=True)
        if copies is not None:
            last = list(arms)[-1]
            again = {"idle": arms["idle"], "clamps and trace": self.steered(clamps, trace=True), last: arms[last]}
            arms |= {f"prepacked, {name}": inside(copies.in_place, run) for name, run in again.items()}
        return arms


def inside(context: Callable[[], AbstractContextManager[Any]], run: Run) -> Run:
    """The run within a context that is entered anew each time."""

    def ran(tokens: int) -> Any:
        with context():
            return run(tokens)

    return ran


def measure(
    arms: dict[str, Run],
    tokens: int,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    model: torch.nn.Module | None = None,
) -> dict[str, tuple[Timing, Timing]]:
    """Prefill and decode of each arm against the first, the arms taking turns in every round.

    With the `model` that all arms run, prefill ends where its second pass begins. Without, decode is what a long
    generation takes beyond one of a single token, which says little where prefill is long and unsteady.
    """
    prefill: dict[str, list[float]] = {name: [] for name in arms}
    decode: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(rounds + 1):
        order = list(arms.items())
        for name, run in order[number % len(order) :] + order[: number % len(order)]:
            if model is None:
                first, whole = timed(run, 1, clock), timed(run, tokens + 1, clock)
            else:
                first, whole = timed_passes(run, tokens + 1, clock, model)
            if number:  # the first round warms up
                prefill[name].append(first)
                decode[name].append(whole - first)
    base = next(iter(arms))
    return {name: (_against(prefill, name, base), _against(decode, name, base)) for name in arms}


def timed(run: Run, tokens: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds."""
    start = clock()
    run(tokens)
    return clock() - start


def timed_passes(run: Run, tokens: int, clock: Callable[[], float], model: torch.nn.Module) -> tuple[float, float]:
    """Seconds until the model's second pass begins, if there is one, and in all."""
    begins: list[float] = []
    handle = model.register_forward_pre_hook(lambda module, args: begins.append(clock()))
    try:
        start = clock()
        run(tokens)
        end = clock()
        return [*begins, end][1] - start, end - start
    finally:
        handle.remove()


def _against(seconds: dict[str, list[float]], name: str, base: str) -> Timing:
    ratios = [a / b for a, b in zip(seconds[name], seconds[base], strict=True)]
    return Timing(statistics.median(ratios), min(ratios), max(ratios))
