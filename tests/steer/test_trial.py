"""Kernels are tried before they steer: what is not to the bit what torch does is found, and done without."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from steerkit.engine import Batch, Graphs, Sampling, generate
from steerkit.sites import Site
from steerkit.steer import Capacity, StaticSteering, attach, compile_plan, disagreement
from steerkit.testing import planted_policy, planted_saes, small_model

MODEL: Any = small_model()
SITES = frozenset(map(Site, {0, 1, 2}))
ROOM = Capacity(
    features=8,
    rules=4,
    readings=4,
    terms=4,
    depth=2,
    window=4,
    read=SITES,
    edited=frozenset({Site(1), Site(2)}),
    gated=SITES,
    kept=SITES,
    remembers=True,
)
SMALL = Capacity(features=8, rules=2, depth=1, read=SITES, edited=SITES)


def torch_alone(steering: StaticSteering, run: Callable[[], Any]) -> Any:
    """What a steering does without kernels."""
    kernels, steering._fused = steering._fused, None
    try:
        return run()
    finally:
        steering._fused = kernels


def kernels(fault: Callable[[StaticSteering, Any, Tensor | None], Any] | None = None) -> Any:
    """Kernels that are torch's own arithmetic, but for what a fault does after each step; and how often they ran."""
    found = SimpleNamespace(steps=0)

    def step(steering: StaticSteering, site: Any, y: Tensor) -> Any:
        found.steps += 1
        out = torch_alone(steering, lambda: steering.step(site, y))
        return out if fault is None else fault(steering, site, out)

    found.begin = lambda steering: torch_alone(steering, steering.begin)
    found.step = step
    return found


def also(change: Callable[[StaticSteering, Any], Any]) -> Any:
    """A fault that leaves the activations as they are."""

    def fault(steering: StaticSteering, site: Any, out: Tensor | None) -> Tensor | None:
        change(steering, site)
        return out

    return fault


FAULTS: dict[str, Any] = {
    "activations": lambda steering, site, out: None if out is None else out + 1e-4 * (steering.column > 9),
    "open rules": also(lambda steering, site: steering.opened[-1, -1].fill_(True)),
    "sums": also(lambda steering, site: steering.sums.mul_(1.000001)),
    "latched": also(lambda steering, site: steering.latched.zero_()),
    "last_open": also(lambda steering, site: steering.last_open.add_(1)),
    "tail": also(lambda steering, site: steering.tail.add_(1)),
    "recorder": also(lambda steering, site: site.raw[:, 3].zero_()),
    "hook counts": also(lambda steering, site: site.fired.add_(1)),
}


@pytest.mark.parametrize("rows", [1, 2, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("room", [ROOM, SMALL, Capacity(kept=SITES)], ids=["all", "edits", "recorder"])
def test_the_same_arithmetic_agrees(room: Capacity, dtype: torch.dtype, rows: int) -> None:
    """Whatever is asked of it."""
    tried = kernels()
    assert disagreement(small_model(dtype=dtype), room, rows, tried) is None
    assert tried.steps >= 3


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str) -> None:
    """Each in the part that it is in; the control is the test above."""
    what = disagreement(MODEL, ROOM, 4, kernels(FAULTS[fault]))
    assert what is not None
    assert what.startswith("layer ")
    assert f"different {'opened' if fault == 'open rules' else fault}" in what


def test_wrong_kernels_do_not_steer() -> None:
    """A generation goes on without them, as under `attach`, and says so; right ones steer."""
    clamp = {"name": "r", "where": "any", "edit": {"f": {"clamp": 30.0}}}
    plan = compile_plan([(planted_policy("p", {"f": (1, 11)}, steer=[clamp]),)], planted_saes(MODEL))
    batch = Batch.of([[5, 17, 301, 44]], 0, torch.device("cpu"))

    def replies(graphs: Graphs | None, rows: list[int]) -> tuple[list[Any], str | None]:
        with attach(MODEL, plan, rows=rows, prompt_length=4, capacity=32) as attached:
            limits = [Sampling(max_new_tokens=12)]
            steps = generate(MODEL, batch, limits, (), 0, graphs=graphs, prefill_state=attached.prefill_state)
            found: list[Any] = []
            while True:
                try:
                    found.append(next(steps))
                except StopIteration as done:
                    return found, done.value

    expected, _ = replies(None, [1])
    assert expected != replies(None, [0])[0]
    right, wrong = Graphs(MODEL), Graphs(MODEL)
    right.kernels, wrong.kernels = kernels(), kernels(FAULTS["activations"])
    for graphs, said in ((right, "fixed steps"), (wrong, "fixed steps without kernels, layer 1: kernels and torch")):
        tried = graphs.kernels
        found, decoding = replies(graphs, [1])
        assert found == expected
        assert str(decoding).startswith(said)
        assert (graphs.kernels is tried) == (graphs is right)
        assert (graphs.without_kernels is None) == (graphs is right)
    assert right.kernels.steps == 30  # 18 tried, one to make the step, and eleven tokens
