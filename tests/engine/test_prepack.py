"""Linear weights laid out anew: the same tokens, the model left as it was, and its own weights where they cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steerkit import load
from steerkit.agent import Runtime
from steerkit.engine import Batch, Sampling, generate, load_model, prepacked
from steerkit.engine.hf import prepack
from steerkit.engine.lease import Lease
from steerkit.errors import ModelError
from steerkit.lab.replies import replies
from steerkit.runtime import Request
from steerkit.sae.cpu import onednn
from steerkit.sites import Site
from steerkit.steer import attach, compile_plan
from steerkit.testing import FUNCTIONGEMMA, SMALL, planted_policy, random_model
from steerkit.tiny.demo_requests import CASES
from steerkit.tiny.tools import tool
from steerkit.types import Turn

SIZE = {**FUNCTIONGEMMA, "vocab_size": 2048, "num_hidden_layers": 2}
ASKED = [{"role": "user", "content": "move 20 dollars to Karik"}]
TOOLS = [tool("transfer_money"), tool("get_balance")]


def greedy(model: Any, prompts: Tensor) -> list[list[int | None]]:
    """Greedy tokens of each step."""
    limits = [Sampling(max_new_tokens=12)] * len(prompts)
    return list(generate(model, Batch(prompts, torch.ones_like(prompts)), limits, (), 0))


def linears(model: nn.Module) -> list[nn.Linear]:
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


def taken(model: nn.Module) -> int:
    """How many modules run another forward than their class's."""
    return sum("forward" in vars(module) for module in model.modules())


@pytest.fixture(scope="module")
def box_turn() -> Turn:
    """Of the box with its own weights."""
    return load("tiny", audit=False, prepack=False).run(ASKED, TOOLS)


def logits(model: Any, prompts: Tensor) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model(prompts).logits
    return found


@pytest.mark.parametrize("rows", [1, 5])
def test_float32_tokens_are_the_plain_models(rows: int) -> None:
    """Logits agree to rounding, and are made by other products: not to the bit."""
    model = random_model(SIZE)
    prompts = torch.randint(1, 2048, (rows, 40), generator=torch.Generator().manual_seed(1))
    plain, tokens = logits(model, prompts), greedy(model, prompts)
    copies = prepacked(model, True)
    assert copies is not None
    with copies.in_place():
        other = logits(model, prompts)
        assert greedy(model, prompts) == tokens
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


def test_an_error_while_weights_are_laid_out_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fourth weight cannot be: no layer before it runs another way afterwards; later all goes well."""
    model = random_model(SIZE)
    copies, made = prepacked(model, True), []
    assert copies is not None

    def failing(weight: Tensor) -> Tensor:
        made.append(weight)
        if len(made) == 4:
            raise RuntimeError("no memory")
        return weight

    with monkeypatch.context() as patch:
        patch.setattr(onednn, "laid_out", failing)
        with pytest.raises(RuntimeError, match="no memory"), copies.in_place():
            pass
    assert len(made) == 4
    assert not taken(model)
    copies = prepacked(model, True)
    assert copies is not None
    with copies.in_place():
        assert taken(model) == 15
    assert not taken(model)


def test_copies_are_made_when_they_are_first_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that only reads takes no more memory; one that generates lays each weight out once, also a shared one."""
    model = random_model({**SIZE, "tie_word_embeddings": False})
    model.model.layers[1].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight
    copies, laid_out, made = prepacked(model, True), onednn.laid_out, []
    assert copies is not None
    assert copies.bytes == sum({m.weight: m.weight.numel() * 4 for m in linears(model)}.values())

    def counted(weight: Tensor) -> Tensor:
        made.append(weight.shape)
        return laid_out(weight)

    monkeypatch.setattr(onednn, "laid_out", counted)
    prompts = torch.randint(1, 2048, (1, 8), generator=torch.Generator().manual_seed(1))
    plain = logits(model, prompts)
    assert not made
    for _ in range(2):
        with copies.in_place():
            assert torch.allclose(logits(model, prompts), plain, atol=1e-4)
        assert len(made) == 14
    assert len(linears(model)) == 15
    model.model.layers[1].mlp.up_proj.weight = nn.Parameter(torch.zeros(2048, 640), requires_grad=False)
    plain = logits(model, prompts)
    with copies.in_place():
        assert torch.allclose(logits(model, prompts), plain, atol=1e-4)
    assert len(made) == 15


def test_what_needs_gradients_sees_the_models_own_weights() -> None:
    """Gradients are the plain model's to the bit, and so are the logits, while other passes run through the copies."""
    model = random_model(SIZE).requires_grad_(False)
    prompts = torch.randint(1, 2048, (1, 12), generator=torch.Generator().manual_seed(1))
    copies = prepacked(model, True)
    assert copies is not None

    def gradient() -> tuple[Tensor, Tensor]:
        read = model.get_input_embeddings()(prompts).detach().requires_grad_(True)
        found = model(inputs_embeds=read).logits
        return found.detach(), torch.autograd.grad(found.square().sum(), read)[0]

    plain = gradient()
    with copies.in_place():
        inside = gradient()
        packed = logits(model, prompts)
    assert all(torch.equal(one, other) for one, other in zip(plain, inside, strict=True))
    assert float(plain[1].abs().sum()) > 0
    assert not torch.equal(packed, plain[0])


def test_autocast_and_compiled_passes_run_as_they_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast rounds to bfloat16, a compiled model is what torch's compiler made: no graph breaks at the copies."""
    layers = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32)).requires_grad_(False)
    x, copies = torch.randn(3, 64, generator=torch.Generator().manual_seed(1)), prepacked(layers, True)
    assert copies is not None
    compiled = torch.compile(layers, backend="eager", fullgraph=True)
    with torch.inference_mode():
        plain, autocast = layers(x), torch.autocast("cpu", torch.bfloat16)
        with autocast:
            rounded = layers(x)
        with copies.in_place():
            assert torch.equal(compiled(x), plain)
            with autocast:
                assert torch.equal(layers(x), rounded)
            assert not torch.equal(layers(x), plain)
    assert rounded.dtype == torch.bfloat16


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


def test_another_weight_at_the_same_address_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that was given back is soon used again; here every weight looks alike but for which one it is."""
    monkeypatch.setattr(prepack, "_state", lambda weight: (0, 0))
    layer = nn.Linear(8, 4).requires_grad_(False)
    copies, x = prepacked(layer, True), torch.ones(1, 8)
    assert copies is not None
    with torch.inference_mode(), copies.in_place():
        before = layer(x)
    layer.weight = nn.Parameter(-layer.weight, requires_grad=False)
    with torch.inference_mode(), copies.in_place():
        assert torch.allclose(layer(x) - layer.bias, layer.bias - before, atol=1e-5)


def test_a_forward_that_is_replaced_meanwhile_stays() -> None:
    """Another library that takes a layer over during a generation keeps it."""
    layer = nn.Linear(8, 4)
    copies = prepacked(layer, True)
    assert copies is not None
    with copies.in_place():
        layer.forward = theirs = lambda x: x
    assert vars(layer)["forward"] is theirs


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
    with copies.in_place(), attach(model, plan) as attached:
        recorder = attached.recorder
        assert torch.allclose(logits(model, prompts), steered, atol=1e-3)
    assert recorder.fired == {Site(2): 1}
    assert not torch.allclose(steered, unsteered, atol=0.1)


@pytest.mark.parametrize("change", ["forward", "dtype", "type", "device"])
def test_a_model_that_changed_hands_runs_its_own_way(change: str) -> None:
    """What another library put there stays, and is what runs; the record of a turn says that no copies were used."""
    loaded = load_model("tiny", prepack=True)
    model, head = loaded.model, loaded.model.lm_head
    prompts = torch.randint(1, 900, (1, 8), generator=torch.Generator().manual_seed(1))
    assert loaded.runs_prepacked
    if change == "forward":
        head.forward = lambda x: torch.zeros(*x.shape[:-1], 3)
    elif change == "dtype":
        model.to(torch.float64)
    elif change == "type":
        head.__class__ = type("Other", (nn.Linear,), {})
    else:
        model.to("meta")
    theirs, expected = vars(head).get("forward"), None if change == "device" else logits(model, prompts)
    with loaded.alone():
        assert not loaded.runs_prepacked
        assert taken(model) == (change == "forward")
        assert expected is None or torch.equal(logits(model, prompts), expected)
    assert vars(head).get("forward") is theirs
    assert loaded.prepacking(True).runs_prepacked is (change == "type")  # all but that one layer


def test_two_runtimes_on_one_model(box_turn: Turn) -> None:
    """Of nested uses the outermost puts the copies there and takes them away, whoever made them."""
    one = load_model("tiny", prepack=True)
    other = replace(one, prepacked=prepacked(one.model, True), lease=Lease())
    with one.alone():
        with other.alone():
            assert taken(one.model) == len(linears(one.model))
        assert taken(one.model) == len(linears(one.model))
    assert not taken(one.model)
    for loaded in (one, other):
        assert Runtime(loaded).run(ASKED, TOOLS).calls == box_turn.calls


def test_threads_and_dropped_streams_leave_the_model_as_it_was(box_turn: Turn) -> None:
    """Threads wait for each other and get the same turn; a stream that is dropped in the middle takes it all off."""
    runtime = load("tiny", audit=False, prepack=True)
    with ThreadPoolExecutor(4) as pool:
        turns = list(pool.map(lambda _: runtime.run(ASKED, TOOLS), range(8)))
    assert {turn.reply_ids for turn in turns} == {box_turn.reply_ids}
    assert not taken(runtime.loaded.model)
    stream = runtime.stream(ASKED, TOOLS)
    next(stream)
    assert taken(runtime.loaded.model)
    stream.close()
    assert not taken(runtime.loaded.model)


def test_a_batch_gets_the_tokens_of_its_singles() -> None:
    """In float32, as without copies."""
    runtime = load("tiny", audit=False, prepack=True)
    asked = [Request(case.messages, case.tools) for case in CASES]
    together = runtime.run_batch(asked)
    assert [turn.reply_ids for turn in together] == [runtime.run(one.messages, one.tools).reply_ids for one in asked]
    assert len({turn.reply_ids for turn in together}) > 1


def test_replies_of_the_workshop_run_through_the_copies() -> None:
    """So `steerkit sae` and `features` generate as fast; without copies, the control, nothing is put there."""
    for wanted in (True, False):
        loaded, seen = load_model("tiny", prepack=wanted), []

        @contextmanager
        def way(model: nn.Module = loaded.model, seen: list[int] = seen) -> Iterator[None]:
            seen.append(taken(model))
            yield

        written = replies(loaded, [[2, 5, 7]], 3, way)
        assert len(written[0]) <= 3
        assert seen == [len(linears(loaded.model)) * wanted]


def test_auto_looks_at_the_size_and_at_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small models keep their own weights, so do those that it makes no faster, and those that would take too much."""
    model = random_model(SMALL)
    monkeypatch.setattr(prepack, "_WINS", 1e9)
    assert prepacked(model, "auto") is None
    monkeypatch.setattr(onednn, "SMALLEST", 1)
    assert prepacked(model, "auto") is not None
    monkeypatch.setattr(prepack, "_WINS", 0.0)
    assert prepacked(model, "auto") is None
    monkeypatch.setattr(prepack, "_WINS", 1e9)
    monkeypatch.setattr(onednn, "LARGEST", 1000)
    assert prepacked(model, "auto") is None
    assert prepacked(model, False) is None


def test_where_it_cannot_be_auto_does_without_and_on_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another dtype, another library's forward, a torch without the operators."""
    monkeypatch.setattr(onednn, "SMALLEST", 1)
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
    monkeypatch.setattr(onednn, "laid_out", lambda weight: torch.ops.mkldnn.no_such_operator(weight))
    assert prepacked(model) is None


def test_both_ways_call_alike() -> None:
    """The box's own turns, calls and verdicts, with copies and without."""
    plain, packed = (load("tiny", audit=False, prepack=wanted) for wanted in (False, True))
    for case in CASES:
        one, other = (runtime.run(case.messages, case.tools) for runtime in (plain, packed))
        assert (one.reply_ids, one.calls, one.verdicts) == (other.reply_ids, other.calls, other.verdicts)
    assert packed.loaded.fingerprint == plain.loaded.fingerprint


def test_a_model_is_not_laid_out_twice_by_a_copy_of_its_record() -> None:
    """Runtimes that share a model share its copies."""
    loaded = load_model("tiny", prepack=True)
    assert replace(loaded).prepacked is loaded.prepacked
