"""Under `torch.autocast` the model computes in fewer bits, and steering in float32 as ever."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import steerkit
from steerkit.sites import Site
from steerkit.testing import planted_policy, planted_saes, small_model
from tests.steer.conftest import PROMPTS

DTYPES = (torch.bfloat16, torch.float16)
IDS = torch.tensor([PROMPTS[0]])
LAYER, EDITED = 1, 3
MODEL = small_model()
SAES = {kind: planted_saes(MODEL, kind=kind) for kind in ("relu", "topk")}


def plain(saes: steerkit.SaeSet) -> torch.Tensor:
    """`(T, d)` a site's activations in float32."""
    with torch.no_grad(), steerkit.attach(MODEL, saes, trace=[LAYER]) as recorder:
        MODEL(input_ids=IDS)
    return recorder.raw(LAYER)[0]


def read_by(saes: steerkit.SaeSet) -> int:
    """A feature that fires at about half of the tokens."""
    share = (saes[LAYER].encode(plain(saes)) > 0).float().mean(dim=0)
    share[EDITED] = 0
    return int((share - 0.5).abs().argmin())


READ = {kind: read_by(saes) for kind, saes in SAES.items()}


def policy(kind: str, when: dict[str, Any] | None, write_back: str = "delta") -> steerkit.Policy:
    rule: dict[str, Any] = {"name": "s", "where": "any", "edit": {"f": {"clamp": 0.3}}}
    rule |= {} if when is None else {"when": when, "for": "2 tokens"}
    return planted_policy("p", {"f": (LAYER, EDITED), "g": (LAYER, READ[kind])}, steer=[rule], write_back=write_back)


def steered(kind: str, given: steerkit.Policy, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Which tokens were edited, and the site's activations `(T, d)` before and after."""
    site, seen = MODEL.get_submodule(f"model.layers.{LAYER}.self_attn.o_proj"), []
    attached = steerkit.attach(MODEL, SAES[kind], given, trace=[LAYER])
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype), attached as recorder:
        handle = site.register_forward_hook(lambda module, args, out: seen.append(out.clone()))
        try:
            MODEL(input_ids=IDS)
        finally:
            handle.remove()
    return recorder.opened()[Site(LAYER)][0, :, 1], recorder.raw(LAYER)[0], seen[0][0]


GATES: dict[str, dict[str, Any] | None] = {
    "no gate": None,
    "a gate": {"feature": "g", "above": 0.0},
    "a gate of two": {"any": [{"feature": "g", "above": 0.0}, {"feature": "f", "above": 0.05}]},
    "a latch": {"feature": "g", "above": 0.004, "off_below": 0.002},
    "a window": {"feature": "g", "above": 0.0, "max_over": 3},
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("write_back", ["delta", "reconstruction"])
@pytest.mark.parametrize("kind", ["relu", "topk"])
def test_edits_and_gates_are_as_in_float32(dtype: torch.dtype, gate: str, write_back: str, kind: str) -> None:
    """From the activations that the model has there, which are in the dtype of autocast: what float32 makes of them."""
    opened, before, after = steered(kind, policy(kind, GATES[gate], write_back), dtype)
    assert before.dtype == after.dtype == dtype
    sae, x = SAES[kind][LAYER], before.float()
    features = sae.encode(x)
    edited = features.clone()
    edited[:, EDITED] = 0.3
    made = sae.decode(edited) if write_back == "reconstruction" else x + (edited - features) @ sae.W_dec
    expected = torch.where(opened.unsqueeze(-1), made.to(dtype), before)
    assert torch.allclose(after.float(), expected.float(), rtol=torch.finfo(dtype).eps, atol=1e-6)
    assert not torch.equal(after, before)
    if gate == "a gate":
        held = features[:, READ[kind]] > 0
        assert torch.equal(opened, held | held.roll(1).logical_and(torch.arange(len(held)) > 0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_autocast_is_in_force_around_steering(dtype: torch.dtype) -> None:
    """The control: the model's own products are in fewer bits, so its activations are others than in float32."""
    _, before, _ = steered("relu", policy("relu", None), dtype)
    assert not torch.equal(plain(SAES["relu"]), before.float())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_autocast_in_every_gradient_mode(mode: Any) -> None:
    """The same tokens are edited, and gradients still flow through the model."""
    given = policy("relu", GATES["a latch"])
    expected = steered("relu", given, torch.bfloat16)[0]
    with mode(), torch.autocast("cpu", dtype=torch.bfloat16), steerkit.attach(MODEL, SAES["relu"], given) as recorder:
        embeds = MODEL.get_input_embeddings()(IDS).detach().requires_grad_(mode is torch.enable_grad)
        logits = MODEL(inputs_embeds=embeds).logits
    assert torch.equal(recorder.opened()[Site(LAYER)][0, :, 1], expected)
    if mode is torch.enable_grad:
        logits.float().sum().backward()
        assert embeds.grad is not None


def test_a_turn_is_made_in_the_models_own_precision() -> None:
    """Whatever the caller casts: the same text, trace and edits as without, in a turn and in a stream."""
    runtime = steerkit.load("tiny", policy="policies/payments.yaml", audit=False, prefix_cache=False)
    messages = [{"role": "user", "content": "I owe Lumes a payment of 740 dollars"}]
    expected = runtime.run(messages).trace
    assert expected.watched
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert runtime.run(messages).trace == expected
        *_, turn = runtime.stream(messages)
        product = nn.Linear(2, 2)(torch.ones(1, 2))
    assert turn.trace == expected
    assert product.dtype == torch.bfloat16  # the caller's own products are still cast
