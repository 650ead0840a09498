"""`torch.compile` of a model with steering on it: no graph break, and no recompilation where policies change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import DynamicCache, StaticCache

from steerkit.engine import Batch, cache_name
from steerkit.engine.hf.static_cache import StepCache
from steerkit.errors import SteeringError
from steerkit.policy import Policy
from steerkit.sae import SaeSet
from steerkit.steer import Capacity, Fill, Plan, StaticSteering, attach, attach_static, compile_plan, pack_plan
from steerkit.testing import planted_policy, planted_saes, small_model

BATCH = Batch.of([[5, 17, 301, 44], [8, 33, 2, 900, 5, 7, 7]], 0, torch.device("cpu"))
POSITIONS = (BATCH.mask.cumsum(-1) - 1).clamp(min=0)
TOKENS, COLUMNS = 10, 32


def policy(value: float, above: float, layer: int = 2) -> Policy:
    """A plain clamp, one behind a gate that looks back and holds, and one that acts late."""
    features = {"f": (1, 3), "g": (0, 4), "h": (layer, 5), "late": (0, 7)}
    steer = [
        {"name": "plain", "where": "reply", "edit": {"f": {"clamp": value}}},
        {
            "name": "held",
            "where": "any",
            "when": {"feature": "g", "above": above, "max_over": 3},
            "for": "3 tokens",
            "edit": {"h": {"clamp": 20.0}},
        },
        {"name": "late", "where": "reply", "when": {"feature": "f", "above": 0.0}, "edit": {"late": {"clamp": value}}},
    ]
    return planted_policy("p", features, steer=steer)


@pytest.fixture
def counter() -> Iterator[CompileCounterWithBackend]:
    torch._dynamo.reset()
    yield CompileCounterWithBackend("eager")
    torch._dynamo.reset()


def prompt(model: nn.Module) -> DynamicCache:
    """The batch read, its last column by itself."""
    cache = DynamicCache(config=model.config)
    for start, end in ((0, 6), (6, 7)):
        how = {"attention_mask": BATCH.mask[:, :end], "position_ids": POSITIONS[:, start:end]}
        model(BATCH.ids[:, start:end], **how, **{cache_name(model): cache})
    return cache


def stepped(
    model: nn.Module, forward: Any, steps: StepCache, plan: Plan, rows: list[int], steering: StaticSteering
) -> Tensor:
    """Logits of some steps of fixed shape with the model's compiled `forward`."""
    found = []
    with attach(model, plan, rows=rows, prompt_length=7) as attached:
        steps.fill(prompt(model), BATCH.mask, POSITIONS[:, -1:])
        fill = Fill(steering, pack_plan(plan), rows)
        fill.resume(attached.prefill_state)
        with attach_static(model, steering):
            for number in range(TOKENS):
                fill.see([number, number + 1])
                steps.feed(torch.tensor([[number], [number + 1]]))
                steps.begin()
                found.append(forward(**steps.inputs, **{cache_name(model): steps.cache}).logits[:, -1].clone())
        fill.settle()
    return torch.stack(found)


def plainly(model: nn.Module, plan: Plan, rows: list[int]) -> Tensor:
    """The same logits by `attach`."""
    found = []
    with attach(model, plan, rows=rows, prompt_length=7):
        cache = prompt(model)
        for number in range(TOKENS):
            mask = torch.cat([BATCH.mask, BATCH.mask.new_ones(2, number + 1)], dim=1)
            how = {"attention_mask": mask, "position_ids": POSITIONS[:, -1:] + number + 1}
            ids = torch.tensor([[number], [number + 1]])
            found.append(model(ids, **how, **{cache_name(model): cache}).logits[:, -1])
    return torch.stack(found)


def test_one_graph_serves_policies_that_change(counter: CompileCounterWithBackend) -> None:
    """Compiled whole and once, the model is steered under one plan after another as `attach` steers it."""
    model = small_model()
    saes = planted_saes(model)
    requests = [[(policy(30.0, 0.0),), ()], [(policy(-9.0, 0.01, 1),), (policy(4.0, 0.0),)], [(), (policy(30.0, 0.0),)]]
    plans = [compile_plan(held, saes) for held in requests]
    room = Capacity()
    for plan in plans:
        room = room.joined(pack_plan(plan).needs)
    steering = StaticSteering(model, room, 2, COLUMNS)
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    found = []
    with torch.no_grad():
        steps = StepCache(model, prompt(model), 2, COLUMNS)  # type: ignore[arg-type]
        for plan, held in zip(plans, requests, strict=True):
            rows = [plan.row(one) for one in held]
            logits = stepped(model, compiled, steps, plan, rows, steering)
            assert torch.allclose(logits, plainly(model, plan, rows), atol=2e-4)
            found.append(logits)
            assert counter.frame_count == 1
    assert not torch.allclose(found[0], found[1], atol=2e-2)


def test_plain_attach_compiles_again_and_again(counter: CompileCounterWithBackend) -> None:
    """The control: what `attach` does in Python is compiled anew at every token."""
    model = small_model()
    plan = compile_plan([(policy(30.0, 0.0),), ()], planted_saes(model))
    compiled = torch.compile(model, backend=counter)
    with torch.no_grad(), attach(model, plan, rows=[1, 0], prompt_length=7):
        cache = StaticCache(config=model.config, max_cache_len=COLUMNS)
        for start, end in ((0, 6), (6, 7)):
            how = {"attention_mask": BATCH.mask[:, :end], "position_ids": POSITIONS[:, start:end]}
            model(BATCH.ids[:, start:end], **how, **{cache_name(model): cache})
        for number in range(3):
            mask = torch.ones(2, 8 + number, dtype=torch.long)
            how = {"attention_mask": mask, "position_ids": POSITIONS[:, -1:] + number + 1}
            compiled(torch.tensor([[number], [number]]), **how, **{cache_name(model): cache})
    assert counter.frame_count > 1


def test_a_plan_without_room_is_refused(saes: SaeSet) -> None:
    """What is larger than the buffers is one error that names what is too small."""
    model = small_model()
    plan = compile_plan([(policy(30.0, 0.0),)], saes)
    needs = pack_plan(plan).needs
    Fill(StaticSteering(model, needs, 1, COLUMNS), pack_plan(plan), [1])
    small = StaticSteering(model, pack_plan(compile_plan([()], saes)).needs, 1, COLUMNS)
    with pytest.raises(SteeringError, match=r"static buffers: features: got \d, expected at most 0; make"):
        Fill(small, pack_plan(plan), [1])
    with pytest.raises(SteeringError, match="for 1 requests, but 2 rows came"):
        Fill(StaticSteering(model, needs, 1, COLUMNS), pack_plan(plan), [1, 1])


@pytest.fixture(scope="module")
def saes() -> SaeSet:
    return planted_saes(small_model())
