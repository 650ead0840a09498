"""What steering and tracing cost as features, layers, rows, policies and tokens grow, against the least possible.

    python benchmarks/scaling.py [--rounds 7] [--figure benchmarks/scaling.png]     # some minutes; extra [figures]

The cost is in seconds, not a ratio: FunctionGemma's 18 layers and width, with a small vocabulary and small inner
layers, so that a step is short and what the hooks add to it stands out. Arms take turns; what is shown is the median
over rounds of arm minus the same loop without steering, with the quartiles. The least possible is the time for reading
the columns of the edited features once, or for their multiplications, whichever is longer, at the rates that are
measured first (`benchmarks/roofline.md`).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from arms import D_SAE, TOP_K, Arms, Run, policy, random_saes, timed, timed_passes

from steerkit.engine import generate
from steerkit.engine.api import Sampling
from steerkit.sae.cpu import onednn
from steerkit.steer import Extent, Wanted, attach, compile_plan, read_traces
from steerkit.testing import FUNCTIONGEMMA, random_model
from steerkit.types import Span

LAYERS, WIDTH, VOCABULARY = FUNCTIONGEMMA["num_hidden_layers"], FUNCTIONGEMMA["hidden_size"], 512
TOKENS, PROMPT, FEATURES = 16, 32, 16
FLOAT = 4


class Point(NamedTuple):
    """One measured cost, in milliseconds."""

    x: int
    median: float
    low: float
    high: float
    least: float


class Axis(NamedTuple):
    """Costs along one quantity."""

    name: str
    what: str
    points: list[Point]

    @property
    def slope(self) -> tuple[float, float]:
        """Milliseconds for each one more, measured and least: between the two ends."""
        first, last = self.points[0], self.points[-1]
        return (last.median - first.median) / (last.x - first.x), (last.least - first.least) / (last.x - first.x)


class Machine(NamedTuple):
    """What it can do: bytes read in a second, and float32 operations."""

    bytes: float
    operations: float

    def least(self, features: float, tokens: int) -> float:
        """Milliseconds for reading, and writing by, so many features in all layers together at so many tokens."""
        read = features * 2 * WIDTH * FLOAT / self.bytes
        return 1e3 * max(read, features * tokens * 4 * WIDTH / self.operations)


def machine() -> Machine:
    """Measured: the sum of 256 MB, and the faster of torch's and oneDNN's product of 1,024 x 1,024 matrices."""
    much, square = torch.ones(64_000_000), torch.ones(1024, 1024)
    summing = min(timed(lambda _: much.sum(), 0) for _ in range(10))
    products: list[Run] = [lambda _: square @ square]
    if onednn.supports(torch.float32):
        packed = onednn.laid_out(square)
        products.append(lambda _: onednn.product(square, packed, None))
    product = min(timed(run, 0) for run in products for _ in range(10))
    return Machine(much.numel() * FLOAT / summing, 2 * 1024**3 / product)


def added(arms: dict[Any, Run], idle: Run, tokens: int, rounds: int, model: torch.nn.Module) -> dict[Any, list[float]]:
    """Milliseconds that each arm adds to a decode step, or with `tokens` 0 to the prefill, in every round."""
    every = {"idle": idle, **arms}
    found: dict[Any, list[float]] = {name: [] for name in every}
    for number in range(rounds + 1):
        for name, run in every.items():
            first, whole = timed_passes(run, tokens + 1, time.perf_counter, model)
            if number:  # the first round warms up
                found[name].append(1e3 * ((whole - first) / tokens if tokens else first))
    base = found.pop("idle")
    return {name: [one - other for one, other in zip(costs, base, strict=True)] for name, costs in found.items()}


def axis(name: str, what: str, costs: dict[int, list[float]], least: Callable[[int], float]) -> Axis:
    """Medians and quartiles of what was measured."""
    points = []
    for x, some in costs.items():
        low, middle, high = statistics.quantiles(some, n=4)
        points.append(Point(x, middle, low, high, least(x)))
    return Axis(name, what, points)


class Scaling:
    """The measurements, on one small model."""

    def __init__(self, rounds: int) -> None:
        size = {**FUNCTIONGEMMA, "vocab_size": VOCABULARY, "intermediate_size": 64}
        self.model, self.saes, self.rounds = random_model(size), random_saes(LAYERS, WIDTH), rounds
        self.machine = machine()

    def arms(self, rows: int, prompt: int = PROMPT) -> Arms:
        """For a batch of prompts."""
        draw = torch.Generator().manual_seed(0)
        return Arms(self.model, self.saes, torch.randint(1, VOCABULARY, (rows, prompt), generator=draw))

    def steered(self, arms: Arms, *, layers: int = LAYERS, features: int = FEATURES, policies: int = 1) -> Run:
        """So many features clamped in each of so many layers, by so many policies, each with features of its own."""
        plan = compile_plan([(policy(layers, number, False, features),) for number in range(policies)], self.saes)
        size = len(arms.batch.ids)
        return arms.steered(plan, [1 + row % policies for row in range(size)])

    def idle(self, arms: Arms) -> Run:
        """The same loop without steering."""
        return arms.steered(compile_plan([()], self.saes))

    def features(self) -> Axis:
        """Features in each layer."""
        one = self.arms(1)
        runs = {number: self.steered(one, features=number) for number in (1, 4, 16, 64, 256)}
        costs = added(runs, self.idle(one), TOKENS, self.rounds, self.model)
        return axis("features a layer", "decode step", costs, lambda x: self.machine.least(x * LAYERS, 1))

    def layers(self) -> Axis:
        """Layers with edits."""
        one = self.arms(1)
        runs = {number: self.steered(one, layers=number) for number in (1, 2, 4, 9, 18)}
        costs = added(runs, self.idle(one), TOKENS, self.rounds, self.model)
        return axis("layers", "decode step", costs, lambda x: self.machine.least(FEATURES * x, 1))

    def rows(self) -> Axis:
        """Requests in a batch, under one policy."""
        costs = {}
        for number in (1, 4, 8, 32):
            one = self.arms(number)
            costs |= added({number: self.steered(one)}, self.idle(one), TOKENS, self.rounds, self.model)
        return axis("rows", "decode step", costs, lambda x: self.machine.least(FEATURES * LAYERS, x))

    def policies(self) -> Axis:
        """Different policies in a batch of 32; the least is what the union of their features takes."""
        one = self.arms(32)
        runs = {number: self.steered(one, policies=number) for number in (1, 4, 8, 16, 32)}
        costs = added(runs, self.idle(one), TOKENS, self.rounds, self.model)
        return axis("policies (32 rows)", "decode step", costs, lambda x: self.machine.least(FEATURES * LAYERS * x, 1))

    def prompt(self) -> Axis:
        """Tokens of a prompt that is edited at every token."""
        costs = {}
        for number in (32, 256, 1024):
            one = self.arms(1, number)
            costs |= added({number: self.steered(one)}, self.idle(one), 0, self.rounds, self.model)
        return axis("prompt tokens", "prefill", costs, lambda x: self.machine.least(FEATURES * LAYERS, x))

    def traced(self) -> Axis:
        """Tokens whose 32 strongest of all features of all layers are found after the generation."""
        nothing, one = compile_plan([()], self.saes), self.arms(1)
        width, costs = one.batch.ids.shape[1], {}
        for number in (16, 64, 256, 1024):
            with attach(self.model, nothing, trace=range(LAYERS), prompt_length=width) as attached:
                recorder = attached.recorder
                list(generate(self.model, one.batch, [Sampling(max_new_tokens=number + 1)], (), 0))
            extent = Extent(width + number, Span(width, width + number))
            read = partial(read_traces, recorder, nothing, self.saes, [Wanted(top_k=TOP_K)], [extent])
            costs[number] = [1e3 * timed(lambda _, read=read: read(), 0) for _ in range(self.rounds)]

        def least(x: int) -> float:
            return 1e3 * x * LAYERS * 2 * WIDTH * D_SAE / self.machine.operations

        return axis("traced tokens", "after generation", costs, least)


def draw(axes: Sequence[Axis], path: Path) -> None:
    """A panel for each quantity: measured with its quartiles, and the least possible."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.4), dpi=150, layout="constrained")
    for panel, one in zip(figure.subplots(2, 3).flat, axes, strict=True):
        xs, points = [point.x for point in one.points], one.points
        panel.fill_between(xs, [p.low for p in points], [p.high for p in points], color="#0072b2", alpha=0.2)
        panel.plot(xs, [p.median for p in points], color="#0072b2", marker="o", label="measured")
        panel.plot(xs, [p.least for p in points], color="#767676", linestyle="--", label="least possible")
        panel.set_title(f"{one.name}: added to {one.what}", fontsize=10)
        panel.set_xlabel(one.name)
        panel.set_ylabel("milliseconds")
        panel.set_ylim(bottom=0)
        panel.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize=9)
    figure.savefig(path)


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    scaling = Scaling(given.rounds)
    print(f"reads {scaling.machine.bytes / 1e9:.1f} GB/s, {scaling.machine.operations / 1e9:.1f} GFLOP/s, one thread\n")
    print("| added to | by | milliseconds (quartiles) | least possible | for each one more | least |")
    print("|---|---|---|---|---|---|")
    axes = []
    for measured in (scaling.features, scaling.layers, scaling.rows, scaling.policies, scaling.prompt, scaling.traced):
        axes.append(one := measured())
        slope, least = one.slope
        for number, point in enumerate(one.points):
            ends = f"{1e3 * slope:.2f} µs | {1e3 * least:.2f} µs" if number == len(one.points) - 1 else " | "
            cost = f"{point.median:.2f} ({point.low:.2f} to {point.high:.2f}) | {point.least:.3f}"
            print(f"| {one.what} | {point.x} {one.name} | {cost} | {ends} |", flush=True)
    if given.figure:
        draw(axes, given.figure)


if __name__ == "__main__":
    main()
