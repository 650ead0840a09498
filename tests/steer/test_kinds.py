"""SAEs of every kind, on either side of o_proj: steering and traces see the features that `Sae.encode` gives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

import pytest
import torch
from torch import nn

import steerkit
from steerkit.errors import SteeringError
from steerkit.policy import watch_key
from steerkit.sae import Kind, SaeSet, Site
from steerkit.steer import Extent, Wanted, attach, compile_plan, ops, read_traces, traced_layers
from steerkit.testing import planted_policy, planted_saes, small_model
from steerkit.types import Span
from tests.steer.conftest import PROMPTS, clamp, hooks_on, left_padded, logits_of

PROMPT = PROMPTS[2]
EVERY = [(kind, site, subtract) for kind in get_args(Kind) for site in get_args(Site) for subtract in (False, True)]
every = pytest.mark.parametrize(("kind", "site", "subtract"), EVERY)


def saes_of(model: nn.Module, kind: Kind, site: Site, subtract: bool = False) -> SaeSet:
    return planted_saes(model, kind=kind, site=site, subtract_b_dec=subtract)


@contextmanager
def seen_at(model: nn.Module, layer: int, site: Site) -> Iterator[list[torch.Tensor]]:
    """What the model reads on one side of a layer's o_proj, after steering's own hook."""
    seen: list[torch.Tensor] = []
    module = model.get_submodule(f"model.layers.{layer}.self_attn.o_proj")
    if site == "output":
        handle = module.register_forward_hook(lambda module, args, out: seen.append(out.clone()))
    else:
        handle = module.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    yield seen
    handle.remove()


def activations(model: nn.Module, saes: SaeSet, policy: steerkit.Policy, layer: int) -> torch.Tensor:
    """`(T, d_in)` of a site after steering."""
    with steerkit.attach(model, saes, policy), seen_at(model, layer, saes[layer].site) as seen:
        logits_of(model, PROMPT)
    return seen[0][0]


@every
def test_some_columns_read_what_the_whole_reads(model: nn.Module, kind: Kind, site: Site, subtract: bool) -> None:
    """A few features read alone equal those of `Sae.encode`; some are on, some off, and the plain kind differs."""
    saes = saes_of(model, kind, site, subtract)
    plain = activations(model, saes, planted_policy(), 1)
    indices = torch.arange(1, 64, 3)
    expected = saes[1].encode(plain)[:, indices]
    assert torch.allclose(ops.read_features(plain, saes[1].columns(indices)), expected, atol=1e-7)
    assert 0 < int((expected > 0).sum()) < expected.numel()
    if kind != "relu":
        other = saes_of(model, "relu", site, subtract)[1].encode(plain)[:, indices]
        assert not torch.allclose(other, expected, atol=1e-4)


@every
@pytest.mark.parametrize("write_back", ["delta", "reconstruction"])
def test_an_edit_equals_the_formula(model: nn.Module, kind: Kind, site: Site, subtract: bool, write_back: str) -> None:
    """`y + (f' - f) @ W_dec`, or `decode(f')`, of the features that `Sae.encode` gives, on the side the SAE reads."""
    saes = saes_of(model, kind, site, subtract)
    plain = activations(model, saes, planted_policy(), 1)
    edits = {"a": {"scale": 2.0, "shift": 0.01}, "b": {"clamp": 0.5}}
    steer = [{"name": "r", "where": "any", "edit": edits}]
    policy = planted_policy("p", {"a": (1, 3), "b": (1, 40)}, write_back=write_back, steer=steer)
    features = saes[1].encode(plain)
    wanted = features.clone()
    wanted[:, 3], wanted[:, 40] = 2.0 * features[:, 3] + 0.01, 0.5
    expected = saes[1].decode(wanted)
    if write_back == "delta":
        expected += plain - saes[1].decode(features)
    steered = activations(model, saes, policy, 1)
    assert torch.allclose(steered, expected, atol=1e-5)
    assert not torch.allclose(steered, plain, atol=1e-2)


@every
def test_gates_open_where_the_feature_says(model: nn.Module, kind: Kind, site: Site, subtract: bool) -> None:
    """A gate above 0 opens at the tokens where `Sae.encode` has the feature on, and at no other."""
    saes = saes_of(model, kind, site, subtract)
    plain = activations(model, saes, planted_policy(), 0)
    on = saes[0].encode(plain) > 0
    index = next(j for j in range(on.shape[1]) if 0 < int(on[:, j].sum()) < len(PROMPT))
    rule = {"name": "r", "where": "any", "when": {"feature": "g", "above": 0}, "edit": {"f": {"clamp": 1.0}}}
    policy = planted_policy("p", {"g": (0, index), "f": (1, 3)}, steer=[rule])
    with steerkit.attach(model, saes, policy) as recorder:
        logits_of(model, PROMPT)
    assert torch.equal(recorder.opened()[1][0, :, 1], on[:, index])


@every
def test_idle_rows_keep_their_bits(model: nn.Module, kind: Kind, site: Site, subtract: bool) -> None:
    """In a batch the row without a policy has the bits of the batch without steerkit; the others do not."""
    saes, batch = saes_of(model, kind, site, subtract), left_padded(PROMPTS)
    with torch.no_grad():
        plain = model(**batch).logits
        with steerkit.attach(model, saes, rows=[clamp(0.5), (), clamp(0.5, layer=2)]):
            steered = model(**batch).logits
    assert torch.equal(steered[1], plain[1])
    assert not torch.equal(steered[0], plain[0])
    assert not torch.equal(steered[2], plain[2])
    assert hooks_on(model) == 0


@every
def test_traces_hold_what_encode_gives(model: nn.Module, kind: Kind, site: Site, subtract: bool) -> None:
    """Watched values and each token's strongest features, read after the fact, and the norm of the edit."""
    saes = saes_of(model, kind, site, subtract)
    policy = planted_policy("p", {"f": (1, 3)}, steer=[{"name": "r", "where": "any", "edit": {"f": {"clamp": 0.5}}}])
    plan, wanted = compile_plan([[policy]], saes), [Wanted((policy,), {"p": ("f",)}, top_k=2)]
    with attach(model, plan, trace=traced_layers(wanted, saes)) as attached:
        logits_of(model, PROMPT)
    trace = read_traces(attached.recorder, plan, saes, wanted, [Extent(len(PROMPT), Span(0, len(PROMPT)))])[0]
    plain = activations(model, saes, planted_policy(), 1)
    features = saes[1].encode(plain)
    assert torch.allclose(torch.tensor(trace.watched[watch_key(policy, "f")]), features[:, 3], atol=1e-7)
    strongest = torch.frombuffer(bytearray(trace.top[1].value), dtype=torch.float16).view(-1, 2)
    assert torch.allclose(strongest.float(), features.topk(2).values, rtol=1e-3, atol=1e-6)
    norms = (0.5 - features[:, 3]).abs() * saes[1].W_dec[3].norm()
    assert trace.edits[0].norm == pytest.approx(float(norms.max()), rel=1e-5)


def test_an_input_edit_passes_through_the_projection(model: nn.Module) -> None:
    """What o_proj writes moves by the edit times its own weights; an SAE on the output moves it by the edit itself."""
    saes, projection = saes_of(model, "relu", "input"), model.get_submodule("model.layers.1.self_attn.o_proj")
    outputs = []
    for policy in (planted_policy(), clamp(0.5)):
        with steerkit.attach(model, saes, policy), seen_at(model, 1, "output") as seen:
            logits_of(model, PROMPT)
        outputs.append(seen[0][0])
    change = activations(model, saes, clamp(0.5), 1) - activations(model, saes, planted_policy(), 1)
    moved = outputs[1] - outputs[0]
    assert torch.allclose(moved, change @ projection.weight.T, atol=1e-6)  # type: ignore[operator, union-attr]
    assert float(moved.abs().max()) > 1e-3


@pytest.mark.parametrize("kind", get_args(Kind))
def test_prompts_in_chunks_and_steps_come_out_the_same(model: nn.Module, kind: Kind) -> None:
    """Greedy generation under an edit on the input side is that of feeding the whole sequence again each time."""
    saes, policy = saes_of(model, kind, "input"), clamp(2.0)
    ids = torch.tensor([list(PROMPT)])
    settings = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad(), steerkit.attach(model, saes, policy):
        cached = model.generate(input_ids=ids, **settings)
    with torch.no_grad(), steerkit.attach(model, saes, policy):
        again = model.generate(input_ids=ids, use_cache=False, **settings)
    with torch.no_grad():
        plain = model.generate(input_ids=ids, **settings)
    assert torch.equal(cached, again)
    assert not torch.equal(cached, plain)


def test_a_width_that_does_not_fit_its_side_is_named() -> None:
    """An SAE of the output's width on the input side is refused with both widths; on its own side it is not."""
    wide = small_model(head_dim=24)  # 2 heads: o_proj is given 48 and writes 32
    saes = planted_saes(wide)
    with steerkit.attach(wide, saes, clamp(1.0)):
        logits_of(wide, PROMPT)
    for sae in saes.values():
        sae.site = "input"
    with (
        pytest.raises(SteeringError, match="reads width 32, the model's o_proj is given 48"),
        steerkit.attach(wide, saes, clamp(1.0)),
    ):
        pass
    with steerkit.attach(wide, planted_saes(wide, site="input"), clamp(1.0)):
        logits_of(wide, PROMPT)


def test_dictionaries_too_large_for_a_trace_are_refused_before_the_run(model: nn.Module) -> None:
    """Of more than 65,536 features the strongest are not kept; watching single ones goes on working."""
    saes = saes_of(model, "relu", "output")
    sae = saes[1]
    sae.W_enc = torch.zeros(32, 1).expand(32, 65_537)
    watching = Wanted((planted_policy("p", {"f": (1, 3)}),), {"p": ("f",)})
    assert traced_layers([watching], saes) == {1}
    with pytest.raises(SteeringError, match="layer 1 has 65537 features, but a trace numbers at most 65536"):
        traced_layers([watching._replace(top_k=1)], saes)
