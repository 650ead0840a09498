"""SAEs of every kind, at every hook point: steering and traces see the features that `Sae.encode` gives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import nn

import steerkit
from steerkit.errors import SteeringError
from steerkit.policy import watch_key
from steerkit.sae import Kind, SaeSet
from steerkit.sites import POINTS, Point, Site
from steerkit.steer import Extent, Wanted, attach, compile_plan, ops, read_traces, traced_sites
from steerkit.testing import planted_policy, planted_saes, small_model
from steerkit.types import Span
from tests.steer.conftest import PROMPTS, clamp, hooks_on, left_padded, logits_of

PROMPT = PROMPTS[2]
EVERY = [(kind, point, subtract) for kind in get_args(Kind) for point in POINTS for subtract in (False, True)]
every = pytest.mark.parametrize(("kind", "point", "subtract"), EVERY)


def saes_of(model: nn.Module, kind: Kind, point: Point, subtract: bool = False) -> SaeSet:
    return planted_saes(model, kind=kind, points=[point], subtract_b_dec=subtract)


@contextmanager
def seen_at(model: nn.Module, site: Site) -> Iterator[list[torch.Tensor]]:
    """The activations of a site as the model reads them, after steering's own hook."""
    seen: list[torch.Tensor] = []
    layer = f"model.layers.{site.layer}"
    paths = {"mlp_out": f"{layer}.post_feedforward_layernorm", "resid_post": layer}
    module = model.get_submodule(paths.get(site.point, f"{layer}.self_attn.o_proj"))
    if site.point == "attn_in":
        handle = module.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    else:
        handle = module.register_forward_hook(lambda module, args, out: seen.append(out.clone()))
    yield seen
    handle.remove()


def activations(model: nn.Module, saes: SaeSet, policy: steerkit.Policy, site: Site) -> torch.Tensor:
    """`(T, d_in)` of a site after steering."""
    with steerkit.attach(model, saes, policy), seen_at(model, site) as seen:
        logits_of(model, PROMPT)
    return seen[0][0]


def near(y: torch.Tensor) -> float:
    """A tolerance for float32 sums over these activations."""
    return 1e-6 * max(0.1, float(y.abs().max()))


@every
def test_some_columns_read_what_the_whole_reads(model: nn.Module, kind: Kind, point: Point, subtract: bool) -> None:
    """A few features read alone equal those of `Sae.encode`; some are on, some off, and the plain kind differs."""
    saes = saes_of(model, kind, point, subtract)
    plain = activations(model, saes, planted_policy(), Site(1, point))
    indices = torch.arange(1, 64, 3)
    expected = saes[Site(1, point)].encode(plain)[:, indices]
    assert torch.allclose(ops.read_features(plain, saes[Site(1, point)].columns(indices)), expected, atol=near(plain))
    assert 0 < int((expected > 0).sum()) < expected.numel()
    if kind != "relu":
        other = saes_of(model, "relu", point, subtract)[Site(1, point)].encode(plain)[:, indices]
        assert not torch.allclose(other, expected, atol=1e-4)


@every
@pytest.mark.parametrize("write_back", ["delta", "reconstruction"])
def test_an_edit_equals_the_formula(
    model: nn.Module, kind: Kind, point: Point, subtract: bool, write_back: str
) -> None:
    """`y + (f' - f) @ W_dec`, or `decode(f')`, of the features that `Sae.encode` gives, at the SAE's site."""
    saes = saes_of(model, kind, point, subtract)
    plain = activations(model, saes, planted_policy(), Site(1, point))
    edits = {"a": {"scale": 2.0, "shift": 0.01}, "b": {"clamp": 0.5}}
    steer = [{"name": "r", "where": "any", "edit": edits}]
    policy = planted_policy(
        "p", {"a": (Site(1, point), 3), "b": (Site(1, point), 40)}, write_back=write_back, steer=steer
    )
    features = saes[Site(1, point)].encode(plain)
    wanted = features.clone()
    wanted[:, 3], wanted[:, 40] = 2.0 * features[:, 3] + 0.01, 0.5
    expected = saes[Site(1, point)].decode(wanted)
    if write_back == "delta":
        expected += plain - saes[Site(1, point)].decode(features)
    steered = activations(model, saes, policy, Site(1, point))
    assert torch.allclose(steered, expected, atol=1e-5)
    assert not torch.allclose(steered, plain, atol=1e-2)


@every
def test_gates_open_where_the_feature_says(model: nn.Module, kind: Kind, point: Point, subtract: bool) -> None:
    """A gate above 0 opens at the tokens where `Sae.encode` has the feature on, and at no other."""
    saes = saes_of(model, kind, point, subtract)
    plain = activations(model, saes, planted_policy(), Site(0, point))
    on = saes[Site(0, point)].encode(plain) > 0
    index = next(j for j in range(on.shape[1]) if 0 < int(on[:, j].sum()) < len(PROMPT))
    rule = {"name": "r", "where": "any", "when": {"feature": "g", "above": 0}, "edit": {"f": {"clamp": 1.0}}}
    policy = planted_policy("p", {"g": (Site(0, point), index), "f": (Site(1, point), 3)}, steer=[rule])
    with steerkit.attach(model, saes, policy) as recorder:
        logits_of(model, PROMPT)
    assert torch.equal(recorder.opened()[Site(1, point)][0, :, 1], on[:, index])


@every
def test_idle_rows_keep_their_bits(model: nn.Module, kind: Kind, point: Point, subtract: bool) -> None:
    """In a batch the row without a policy has the bits of the batch without steerkit; the others do not."""
    saes, batch = saes_of(model, kind, point, subtract), left_padded(PROMPTS)
    with torch.no_grad():
        plain = model(**batch).logits
        with steerkit.attach(
            model, saes, rows=[clamp(0.5, layer=Site(1, point)), (), clamp(0.5, layer=Site(2, point))]
        ):
            steered = model(**batch).logits
    assert torch.equal(steered[1], plain[1])
    assert not torch.equal(steered[0], plain[0])
    assert not torch.equal(steered[2], plain[2])
    assert hooks_on(model) == 0


@every
def test_traces_hold_what_encode_gives(model: nn.Module, kind: Kind, point: Point, subtract: bool) -> None:
    """Watched values and each token's strongest features, read after the fact, and the norm of the edit."""
    saes = saes_of(model, kind, point, subtract)
    policy = planted_policy(
        "p", {"f": (Site(1, point), 3)}, steer=[{"name": "r", "where": "any", "edit": {"f": {"clamp": 0.5}}}]
    )
    plan, wanted = compile_plan([[policy]], saes), [Wanted((policy,), {"p": ("f",)}, top_k=2)]
    with attach(model, plan, trace=traced_sites(wanted, saes)) as attached:
        logits_of(model, PROMPT)
    trace = read_traces(attached.recorder, plan, saes, wanted, [Extent(len(PROMPT), Span(0, len(PROMPT)))])[0]
    plain = activations(model, saes, planted_policy(), Site(1, point))
    features = saes[Site(1, point)].encode(plain)
    assert torch.allclose(torch.tensor(trace.watched[watch_key(policy, "f")]), features[:, 3], atol=near(plain))
    strongest = torch.frombuffer(bytearray(trace.top[1].value), dtype=torch.float16).view(-1, 2)
    assert torch.allclose(strongest.float(), features.topk(2).values, rtol=1e-3, atol=1e-6)
    norms = (0.5 - features[:, 3]).abs() * saes[Site(1, point)].W_dec[3].norm()
    assert trace.edits[0].norm == pytest.approx(float(norms.max()), rel=1e-5)


def test_an_input_edit_passes_through_the_projection(model: nn.Module) -> None:
    """What o_proj writes moves by the edit times its own weights; an SAE on the output moves it by the edit itself."""
    saes, projection = saes_of(model, "relu", "attn_in"), model.get_submodule("model.layers.1.self_attn.o_proj")
    site, outputs = Site(1, "attn_in"), []
    for policy in (planted_policy(), clamp(0.5, layer=site)):
        with steerkit.attach(model, saes, policy), seen_at(model, Site(1)) as seen:
            logits_of(model, PROMPT)
        outputs.append(seen[0][0])
    change = activations(model, saes, clamp(0.5, layer=site), site) - activations(model, saes, planted_policy(), site)
    moved = outputs[1] - outputs[0]
    assert torch.allclose(moved, change @ projection.weight.T, atol=1e-6)  # type: ignore[operator, union-attr]
    assert float(moved.abs().max()) > 1e-3


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("kind", get_args(Kind))
def test_prompts_in_chunks_and_steps_come_out_the_same(model: nn.Module, kind: Kind, point: Point) -> None:
    """Greedy generation under an edit is that of feeding the whole sequence again each time."""
    saes, policy = saes_of(model, kind, point), clamp(20.0, layer=Site(1, point))
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
    with steerkit.attach(wide, planted_saes(wide), clamp(1.0)):
        logits_of(wide, PROMPT)
    narrow = [replace(one, site=Site(one.layer, "attn_in")) for one in planted_saes(wide).checkpoints.values()]
    with (
        pytest.raises(SteeringError, match="reads width 32, the model's o_proj is given 48"),
        steerkit.attach(wide, SaeSet("narrow", narrow), clamp(1.0, layer=Site(1, "attn_in"))),
    ):
        pass
    with steerkit.attach(wide, planted_saes(wide, points=["attn_in"]), clamp(1.0, layer=Site(1, "attn_in"))):
        logits_of(wide, PROMPT)


def test_dictionaries_too_large_for_a_trace_are_refused_before_the_run(model: nn.Module) -> None:
    """Of more than 65,536 features the strongest are not kept; watching single ones goes on working."""
    saes = saes_of(model, "relu", "attn_out")
    sae = saes[1]
    sae.W_enc = torch.zeros(32, 1).expand(32, 65_537)
    watching = Wanted((planted_policy("p", {"f": (1, 3)}),), {"p": ("f",)})
    assert traced_sites([watching], saes) == {Site(1)}
    with pytest.raises(SteeringError, match="layer 1 has 65537 features, but a trace numbers at most 65536"):
        traced_sites([watching._replace(top_k=1)], saes)
