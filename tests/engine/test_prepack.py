"""Linear weights laid out anew: the same tokens, the model left as it was, and its own weights where they cannot be."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steerkit import load
from steerkit.engine import Batch, Sampling, generate, load_model, prepack, prepacked
from steerkit.engine.stand_in import FUNCTIONGEMMA, SMALL, random_model
from steerkit.errors import ModelError
from steerkit.steer import attach, compile_plan
from steerkit.testing import planted_policy
from steerkit.tiny.world import tool

SIZE = {**FUNCTIONGEMMA, "vocab_size": 2048, "num_hidden_layers": 2}
ASKED = [{"role": "user", "content": "move 20 dollars to Karik"}]
TOOLS = [tool("transfer_money"), tool("get_balance")]


def replies(model: Any, prompts: Tensor) -> list[list[int | None]]:
    """Greedy tokens of each step."""
    limits = [Sampling(max_new_tokens=12)] * len(prompts)
    return list(generate(model, Batch(prompts, torch.ones_like(prompts)), limits, (), 0))


def logits(model: Any, prompts: Tensor) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model(prompts).logits
    return found


@pytest.mark.parametrize("rows", [1, 5])
def test_float32_tokens_are_the_plain_models(rows: int) -> None:
    """Logits agree to rounding, and are made by other products: not to the bit."""
    model = random_model(SIZE)
    prompts = torch.randint(1, 2048, (rows, 40), generator=torch.Generator().manual_seed(1))
    plain, tokens = logits(model, prompts), replies(model, prompts)
    copies = prepacked(model, True)
    assert copies is not None
    with copies.in_place():
        other = logits(model, prompts)
        assert replies(model, prompts) == tokens
    assert torch.allclose(other, plain, atol=1e-4)
    assert not torch.equal(other, plain)
    assert torch.equal(logits(model, prompts), plain)


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="no bfloat16 on this processor")
def test_bfloat16_logits_are_close() -> None:
    """To bfloat16's rounding over two layers; the control is another model."""
    model = random_model(SIZE, dtype=torch.bfloat16)
    prompts = torch.randint(1, 2048, (3, 40), generator=torch.Generator().manual_seed(1))
    plain, copies = logits(model, prompts), prepacked(model, True)
    assert copies is not None
    with copies.in_place():
        assert torch.allclose(logits(model, prompts), plain, atol=0.05)
    assert not torch.allclose(logits(random_model(SIZE, seed=1, dtype=torch.bfloat16), prompts), plain, atol=0.05)


def test_nothing_is_left_on_the_model() -> None:
    """Also after an error, and only once the outermost of nested uses ends; state and fingerprint stay."""
    model = random_model(SIZE)
    before, names = {name: part.clone() for name, part in model.state_dict().items()}, vars(model.lm_head).keys()
    kept, copies = set(names), prepacked(model, True)
    assert copies is not None
    assert copies.bytes == sum(m.weight.numel() * 4 for m in model.modules() if isinstance(m, nn.Linear))
    inside = []
    with pytest.raises(RuntimeError, match="stop"), copies.in_place():  # noqa: PT012
        with copies.in_place():
            pass
        inside.append("forward" in vars(model.lm_head))
        raise RuntimeError("stop")
    assert inside == [True]
    assert set(vars(model.lm_head)) == kept
    assert all(torch.equal(part, before[name]) for name, part in model.state_dict().items())


def test_a_changed_weight_is_laid_out_anew() -> None:
    """In place or replaced; without it, the control, the copies say what the model once was."""
    model = random_model(SIZE)
    prompts = torch.randint(1, 2048, (1, 8), generator=torch.Generator().manual_seed(1))
    copies = prepacked(model, True)
    assert copies is not None
    with copies.in_place():
        before = logits(model, prompts)
        with torch.no_grad():
            model.model.layers[0].mlp.up_proj.weight.neg_()
        assert torch.equal(logits(model, prompts), before)  # it is looked at where a use begins
    plain = logits(model, prompts)
    with copies.in_place():
        assert torch.allclose(logits(model, prompts), plain, atol=1e-4)
    assert not torch.allclose(plain, before, atol=1e-3)
    model.model.layers[1].mlp.up_proj.weight = nn.Parameter(torch.zeros(2048, 640), requires_grad=False)
    plain = logits(model, prompts)
    with copies.in_place():
        assert torch.allclose(logits(model, prompts), plain, atol=1e-4)


def test_hooks_read_and_write_all_the_same() -> None:
    """An edit behind a hook on `o_proj` changes the logits, by what it changes them by without the copies."""
    loaded = load("tiny", audit=False)
    saes, model = loaded.saes, loaded.loaded.model
    policy = planted_policy(
        "p", {"a": (2, 3)}, steer=[{"name": "r", "where": "any", "edit": {"a": {"clamp": 5}}}], guard=None
    )
    plan, copies = compile_plan([(policy,)], saes), prepacked(model, True)
    assert copies is not None
    prompts = torch.randint(1, 900, (2, 20), generator=torch.Generator().manual_seed(1))
    unsteered = logits(model, prompts)
    with attach(model, plan):
        steered = logits(model, prompts)
    with copies.in_place(), attach(model, plan) as tape:
        assert torch.allclose(logits(model, prompts), steered, atol=1e-3)
    assert tape.fired == {2: 1}
    assert not torch.allclose(steered, unsteered, atol=0.1)


def test_auto_looks_at_the_size_and_at_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small models keep their own weights, so do those that it makes no faster, and those that would take too much."""
    model = random_model(SMALL)
    monkeypatch.setattr(prepack, "_WINS", 1e9)
    assert prepacked(model, "auto") is None
    monkeypatch.setattr(prepack, "SMALLEST", 1)
    assert prepacked(model, "auto") is not None
    monkeypatch.setattr(prepack, "_WINS", 0.0)
    assert prepacked(model, "auto") is None
    monkeypatch.setattr(prepack, "_WINS", 1e9)
    monkeypatch.setattr(prepack, "LARGEST", 1000)
    assert prepacked(model, "auto") is None
    assert prepacked(model, False) is None


def test_where_it_cannot_be_auto_does_without_and_on_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another dtype, another library's forward, a torch without the operators."""
    monkeypatch.setattr(prepack, "SMALLEST", 1)
    monkeypatch.setattr(prepack, "_WINS", 1e9)
    double = random_model(SIZE, dtype=torch.float64)
    assert prepacked(double) is None
    with pytest.raises(ModelError, match="no oneDNN products in float64; expected"):
        prepacked(double, True)
    model = random_model(SIZE)
    model.lm_head.forward = model.lm_head.forward
    with pytest.raises(ModelError, match="another library has replaced"):
        prepacked(model, True)
    del model.lm_head.forward
    assert prepacked(model) is not None
    monkeypatch.setattr(prepack, "_laid_out", lambda weight: torch.ops.mkldnn.no_such_operator(weight))
    assert prepacked(model) is None


def test_both_ways_call_alike() -> None:
    """The box's own turns, calls and verdicts, with copies and without."""
    plain, packed = (load("tiny", audit=False, prepack=wanted).run(ASKED, TOOLS) for wanted in (False, True))
    assert json.dumps(plain.calls, default=str) == json.dumps(packed.calls, default=str)
    assert plain.calls


def test_a_model_is_not_laid_out_twice_by_a_copy_of_its_record() -> None:
    """Runtimes that share a model share its copies."""
    loaded = load_model("tiny", prepack=True)
    assert replace(loaded).prepacked is loaded.prepacked
