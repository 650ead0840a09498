"""One rule at a site behind a feature of the same layer, the commonest policy: beside a hook written by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from steerkit.sites import Site
from steerkit.steer import attach, compile_plan, find_sites
from steerkit.testing import planted_policy, planted_saes, small_model

LAYERS, PROMPT = (0, 2), 6
IDS = torch.randint(1, 1000, (3, 14), generator=torch.Generator().manual_seed(1))
COLUMNS = torch.arange(14)
PLACES = {"any": COLUMNS >= 0, "reply": COLUMNS >= PROMPT - 1, "reply.start": COLUMNS == PROMPT - 1}
MODEL: Any = small_model()
GATES: dict[str, dict[str, Any] | None] = {
    "none": None,
    "above": {"above": 0.001},
    "below": {"below": 0.001},
    "between": {"above": 0.0, "below": 0.003},
    "in the reply": {"above": 0.001, "at": "reply"},
}
EDITS = {"clamps": {"clamp": 0.5}, "scales": {"scale": 40.0}, "bounds": {"cap": 0.001}}
FORMULAS: Any = {"clamps": lambda f: 0.5, "scales": lambda f: 40.0 * f, "bounds": lambda f: f.clamp(max=0.001)}


def held(number: int, where: str, gate: str, edit: str) -> Any:
    """In two layers, edits of two features behind a third of the layer."""
    features, rules = {}, []
    for layer in LAYERS:
        features |= {f"l{layer}_{n}": (layer, 3 * number + n) for n in range(3)}
        rule: dict[str, Any] = {"name": f"r{layer}", "where": where}
        rule["edit"] = {f"l{layer}_0": EDITS[edit], f"l{layer}_2": EDITS[edit]}
        if (bounds := GATES[gate]) is not None:
            rule["when"] = {"feature": f"l{layer}_1", **bounds}
        rules.append(rule)
    return (planted_policy(f"p{number}", features, steer=rules),)


@contextmanager
def by_hand(saes: Any, numbers: Any, where: str, gate: str, edit: str) -> Iterator[list[Tensor]]:
    """The same, all features encoded; gives where each layer's rule was open."""
    opened: list[Tensor] = []
    bounds: dict[str, Any] = GATES[gate] or {}

    def hook(layer: int) -> Any:
        def on_pass(module: Any, args: Any, y: Tensor) -> Tensor:
            features = saes[layer].encode(y)
            change = torch.zeros_like(features)
            for row, number in enumerate(numbers):
                read = features[row, :, 3 * number + 1]
                on = PLACES[where] & PLACES[bounds.get("at", "any")]
                on = on & (read > bounds.get("above", -1.0)) & (read < bounds.get("below", 1e9))
                opened.append(on)
                for index in (3 * number, 3 * number + 2):
                    f = features[row, :, index]
                    change[row, :, index] = torch.where(on, FORMULAS[edit](f) - f, 0.0)
            return y + change @ saes[layer].W_dec

        return on_pass

    with ExitStack() as stack:
        for layer in LAYERS:
            stack.enter_context(find_sites(MODEL).at(Site(layer)).register_forward_hook(hook(layer)))
        yield opened


@pytest.mark.parametrize("numbers", [(0,), (0, 0, 0), (0, 1, 4)], ids=["one", "many alike", "many"])
@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize(("where", "gate"), [*(("any", gate) for gate in GATES), ("reply.start", "in the reply")])
def test_it_is_what_a_hook_by_hand_makes_of_it(where: str, gate: str, edit: str, numbers: tuple[int, ...]) -> None:
    """Whichever way it is written, of one request and of many; the rules act at some tokens and not at all others."""
    ids, saes = IDS[: len(numbers)], planted_saes(MODEL)
    policies = [held(number, where, gate, edit) for number in numbers]
    plan = compile_plan(policies, saes)
    with torch.inference_mode():
        plain = MODEL(ids).logits
        with by_hand(saes, numbers, where, gate, edit) as opened:
            expected = MODEL(ids).logits
        with attach(MODEL, plan, rows=[plan.row(one) for one in policies], prompt_length=PROMPT):
            found = MODEL(ids).logits
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(found, plain, atol=1e-3)
    acted = torch.stack(opened)
    assert bool(acted.any())
    assert bool(acted.all()) == (gate == "none")


@pytest.mark.parametrize("numbers", [(0,), (0, 1, 4)], ids=["one", "many"])
def test_gradients_go_through_it(numbers: tuple[int, ...]) -> None:
    """As through the hook by hand, though gates of later layers open after earlier ones were read."""
    saes = planted_saes(MODEL)
    policies = [held(number, "any", "above", "scales") for number in numbers]
    plan = compile_plan(policies, saes)

    def gradient() -> Tensor:
        read = MODEL.get_input_embeddings()(IDS[: len(numbers)]).detach().requires_grad_(True)
        return torch.autograd.grad(MODEL(inputs_embeds=read).logits.square().sum(), read)[0]

    with by_hand(saes, numbers, "any", "above", "scales"):
        expected = gradient()
    with attach(MODEL, plan, rows=[plan.row(one) for one in policies], prompt_length=PROMPT):
        found = gradient()
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(found, gradient(), rtol=1e-2, atol=1e-2)
