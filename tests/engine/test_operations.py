"""How many operations a steered token asks for: on a GPU without graphs each is a launch, on a CPU a microsecond.

Counts do not depend on the machine, so they can be held where times cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from steerkit.engine import Batch, Sampling, generate
from steerkit.policy import Policy
from steerkit.steer import attach, compile_plan
from steerkit.testing import operations, planted_policy, planted_saes, small_model

LAYERS = 18
MODEL: Any = small_model(num_hidden_layers=LAYERS)
SAES = planted_saes(MODEL)
PROMPTS = [[5, 17, 301, 44], [8, 33, 2, 900]]


def policy(number: int, gated: bool) -> Policy:
    """A clamp in every layer, each behind a gate that its own layer knows if so wanted."""
    features, steer = {}, []
    for layer in range(LAYERS):
        features |= {f"e{layer}": (layer, 3 + number), f"g{layer}": (layer, 40 + number)}
        rule: dict[str, Any] = {"name": f"r{layer}", "where": "any", "edit": {f"e{layer}": {"clamp": 0.1}}}
        steer.append({**rule, "when": {"feature": f"g{layer}", "above": 0.0}} if gated else rule)
    return planted_policy(f"p{number}", features, steer=steer)


def for_a_token(run: Callable[[int], Any]) -> float:
    """Operations of a token of the reply."""
    return (operations(lambda: run(20)) - operations(lambda: run(4))) / 16


def plain(prompts: Sequence[Sequence[int]]) -> Callable[[int], Any]:
    """transformers' own generation."""
    batch = Batch.of(prompts, 0, torch.device("cpu"))
    settings = {"attention_mask": batch.mask, "do_sample": False, "pad_token_id": 0}
    return lambda n: MODEL.generate(batch.ids, min_new_tokens=n, max_new_tokens=n, **settings)


def steered(prompts: Sequence[Sequence[int]], held: Sequence[tuple[Policy, ...]]) -> Callable[[int], Any]:
    """steerkit's, and a trace of all layers kept."""
    batch, plan = Batch.of(prompts, 0, torch.device("cpu")), compile_plan(held, SAES)

    def run(tokens: int) -> None:
        rows, width = [plan.row(one) for one in held], batch.ids.shape[1]
        with attach(MODEL, plan, rows=rows, trace=range(LAYERS), prompt_length=width):
            list(generate(MODEL, batch, [Sampling(max_new_tokens=tokens)] * len(held), (), 0))

    return run


def test_a_steered_token_asks_for_few_operations() -> None:
    """Idle, fewer than transformers' own loop; clamps add four in each layer at most, with a gate in each seven."""
    one = PROMPTS[:1]
    asked = for_a_token(plain(one))
    idle, clamps, gates = (for_a_token(steered(one, [held])) for held in ((), (policy(0, False),), (policy(0, True),)))
    assert idle <= asked
    assert 2 * LAYERS <= clamps - idle <= 4 * LAYERS  # the control: what acts is counted
    assert clamps - idle < gates - idle <= 7 * LAYERS


def test_a_policy_of_each_request_costs_two_more_operations_in_a_layer() -> None:
    """Than two under the same gated policy: one to add to the readings' sums, one to find whose rule is which."""
    same, own = (for_a_token(steered(PROMPTS, [(policy(n, True),) for n in numbers])) for numbers in ((0, 0), (0, 1)))
    assert same < own <= same + 2 * LAYERS


def test_views_are_not_counted() -> None:
    """What computes is, in place as well."""
    x = torch.ones(4, 3)
    assert operations(lambda: x.view(3, 4).unsqueeze(0)[:, 1:].mT.detach()) == 0
    assert operations(lambda: x.to("cpu")) == 0
    assert operations(lambda: x.double()) == 1
    assert operations(lambda: torch.relu(x @ x.mT).add_(1)) == 3
    assert operations(lambda: x[:2].copy_(x[2:])) == 1
