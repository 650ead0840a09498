"""The seam of hook points: each is found, read and written where its row says, and gates go by their order."""

from __future__ import annotations

import re
from contextlib import nullcontext
from typing import Any, get_args

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    ContinuousBatchingConfig,
    DynamicCache,
    GenerationConfig,
    PreTrainedModel,
)

import steerkit
from steerkit.errors import SteeringError
from steerkit.sites import POINTS, Point, Site
from steerkit.steer import attach_ragged, cache_name, compile_plan, find_sites
from steerkit.steer.points import TABLE, EngineName
from steerkit.testing import planted_policy, planted_saes, small_model
from tests.steer.conftest import PROMPTS, clamp, logits_of

PROMPT = PROMPTS[2]
TEXT: dict[str, Any] = {
    "vocab_size": 1024,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}


def randomly(made: Any, model_type: str, **config: Any) -> PreTrainedModel:
    """A model of a family with random weights."""
    torch.manual_seed(0)
    model: PreTrainedModel = made.from_config(AutoConfig.for_model(model_type, **config)).eval()
    return model


def test_the_table_is_all_points_and_their_order_is_causal() -> None:
    """One row a point; a pass through the model runs the sites in the order in which they sort."""
    assert tuple(TABLE) == POINTS
    model, seen = small_model(), []
    sites = find_sites(model)
    handles = [sites.hook(site, lambda y, site=site: seen.append(site)) for site in sorted(sites.modules, reverse=True)]  # type: ignore[misc]  # mypy cannot infer a lambda with a default
    logits_of(model, PROMPT)
    for handle in handles:
        handle.remove()
    assert seen == sorted(sites.modules)
    assert {site.point for site in seen} == set(POINTS)


@pytest.mark.parametrize("point", POINTS)
def test_a_width_is_that_of_the_activations(point: Point) -> None:
    """The table's width is what a hook sees, in a model whose heads are wider than the residual stream."""
    model, seen = small_model(head_dim=24), []
    site = Site(1, point)
    handle = find_sites(model).hook(site, seen.append)
    logits_of(model, PROMPT)
    handle.remove()
    assert seen[0].shape[-1] == find_sites(model).width(site)


def test_a_site_reads_as_it_is_written() -> None:
    """Text, number and JSON of a site; what names none says so."""
    for site in (Site(3), Site(12, "resid_post")):
        assert Site.of(str(site)) == Site.of(site.compact) == Site.of(site) == site
    assert (Site(3).content, Site(3, "mlp_out").content) == ({"layer": 3}, {"site": "mlp_out.3"})
    for wrong in ("resid_pre.3", "attn_out", "attn_out.03", "attn_out.-1", "attn_out.x", "3"):
        with pytest.raises(ValueError, match="expected a hook point"):
            Site.of(wrong)


FIRST, LAST = Site(1, "resid_post"), Site(2, "attn_out")


def gated(gate: Site, edited: Site, place: str = "any", above: float = 0.0) -> steerkit.Policy:
    rule = {"name": "r", "where": place, "when": {"feature": "g", "above": above}, "edit": {"f": {"shift": 0.01}}}
    return planted_policy("p", {"g": (gate, 5), "f": (edited, 3)}, steer=[rule])


def test_a_gate_opens_a_later_site_in_the_same_token() -> None:
    """`resid_post.1` opens `attn_out.2` at the very tokens at which its feature is on."""
    model = small_model()
    saes = planted_saes(model, points=POINTS)
    assert not compile_plan([[gated(FIRST, LAST)]], saes).has_late_rules
    with torch.no_grad(), steerkit.attach(model, saes, gated(FIRST, LAST), trace=[FIRST]) as recorder:
        steered = logits_of(model, PROMPT)
    on = saes[FIRST].encode(recorder.raw(FIRST)[0])[:, 5] > 0
    assert 0 < int(on.sum()) < len(on)
    assert torch.equal(recorder.opened()[LAST][0, :, 1], on)
    assert not torch.equal(steered, logits_of(model, PROMPT))


def test_a_gate_of_a_later_site_acts_from_the_next_token_on() -> None:
    """`attn_out.2` opens `resid_post.1` a token later: in the reply alone, and refused at other places."""
    model = small_model()
    saes = planted_saes(model, points=POINTS)
    with pytest.raises(ValueError, match=r"edit at resid_post\.1 behind a gate at layer 2; such a gate acts from the"):
        gated(LAST, FIRST)
    reply = (PROMPT[-1], *PROMPTS[0], *PROMPTS[1])
    with steerkit.attach(model, saes, planted_policy(), trace=[LAST]) as recorder:
        logits_of(model, [*PROMPT[:-1], *reply])
    above = float(saes[LAST].encode(recorder.raw(LAST)[0])[len(PROMPT) - 1 :, 5].median())
    policy = gated(LAST, FIRST, "reply", above)
    assert compile_plan([[policy]], saes).has_late_rules
    with torch.no_grad(), steerkit.attach(model, saes, policy, trace=[LAST], prompt_length=len(PROMPT)) as recorder:
        cache = DynamicCache(config=model.config)
        model(torch.tensor([PROMPT[:-1]]), **{cache_name(model): cache})
        for token in reply:
            model(torch.tensor([[token]]), **{cache_name(model): cache})
    on = saes[LAST].encode(recorder.raw(LAST)[0])[len(PROMPT) - 2 : -1, 5] > above  # of the token before each
    opened = recorder.opened()[FIRST][0, len(PROMPT) - 1 :, 1]
    assert 0 < int(on.sum()) < len(reply)
    assert torch.equal(opened, on)


@pytest.mark.parametrize("model_type", ["gemma3", "gemma4"])
def test_a_multimodal_models_language_stack_is_steered(model_type: str) -> None:
    """Beside it stands a vision tower with modules of the same names; the decoder is the one that is hooked."""
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    more: dict[str, Any] = {"image_size": 28, "patch_size": 14} if model_type == "gemma3" else {}
    other: dict[str, Any] = {} if model_type == "gemma3" else {"vocab_size_per_layer_input": 1024, "audio_config": None}
    text = {**TEXT, **({} if model_type == "gemma3" else other)}
    text.pop("audio_config", None)
    model = randomly(AutoModelForImageTextToText, model_type, text_config=text, vision_config={**vision, **more})
    sites = find_sites(model)
    assert sites.body is model.get_decoder()
    assert len(sites.of("attn_out")) == 4
    for point in POINTS:
        saes, policy = planted_saes(model, points=[point]), clamp(30.0, layer=Site(1, point))
        plain = logits_of(model, PROMPT)
        with steerkit.attach(model, saes, policy):
            steered = logits_of(model, PROMPT)
        assert not torch.equal(steered, plain)
        assert torch.equal(logits_of(model, PROMPT), plain)


def test_a_model_says_which_layers_lack_a_point() -> None:
    """Of Qwen3.5 only the layers of full attention have an o_proj; the residual stream is everywhere."""
    kinds = ["linear_attention", "full_attention"] * 2
    model = randomly(AutoModelForCausalLM, "qwen3_5_text", **TEXT, layer_types=kinds)
    sites = find_sites(model)
    assert [site.layer for site in sites.of("attn_out")] == [1, 3]
    assert [site.layer for site in sites.of("resid_post")] == [0, 1, 2, 3]
    with pytest.raises(
        SteeringError, match=r"no self_attn\.o_proj; layers with attn_out: 1, 3 \(layers of linear attention"
    ):
        sites.at(Site(2))
    with pytest.raises(SteeringError, match=r"layer 4: the model has no such layer; it has layers 0 to 3"):
        sites.at(Site(4, "resid_post"))
    with steerkit.attach(model, planted_saes(model, points=["resid_post"]), clamp(30.0, layer=Site(2, "resid_post"))):
        assert not torch.equal(logits_of(model, PROMPT), torch.zeros(1))


def continued(model: Any, plan: Any = None) -> list[list[int]]:
    """Five greedy tokens after each of three prompts, by `generate_batch`; the second prompt has no policy."""
    batching = ContinuousBatchingConfig(
        allow_block_sharing=False,
        use_cuda_graph=False,
        use_async_batching=False,
        num_blocks=8,
        max_batch_tokens=64,
    )
    config = GenerationConfig(do_sample=False, max_new_tokens=5, eos_token_id=-1)
    rows = {"req_0": 1, "req_1": 0, "req_2": 1}
    with nullcontext() if plan is None else attach_ragged(model, plan, rows):
        found = model.generate_batch([list(ids) for ids in PROMPTS], config, batching)
    return [list(found[name].generated_tokens) for name in rows]


@pytest.mark.parametrize("point", POINTS)
def test_each_engine_that_a_row_names_serves_the_point(point: Point) -> None:
    """Continuous batching gives, at each point, the tokens of each prompt by itself under its own policy."""
    assert {"transformers", "continuous batching"} <= set(TABLE[point].engines) <= set(get_args(EngineName))
    model: Any = small_model()
    saes, policy = planted_saes(model, points=[point]), clamp(20.0, layer=Site(1, point))
    settings = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": -1}
    alone = []
    for ids, held in zip(PROMPTS, ([policy], [], [policy]), strict=True):
        with torch.no_grad(), steerkit.attach(model, saes, rows=[held]):
            found = model.generate(input_ids=torch.tensor([list(ids)]), **settings)
        alone.append(found[0, len(ids) :].tolist())
    steered, plain = continued(model, compile_plan([[policy]], saes)), continued(model)
    assert steered == alone
    assert steered[1] == plain[1]
    assert all(steered[number] != plain[number] for number in (0, 2))


def test_an_engine_that_a_row_does_not_name_refuses_the_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where the plan uses it, with what the engine serves, who else serves the point, and the row's reason."""
    model = small_model()
    row = TABLE["resid_post"]._replace(engines=("transformers",), missing="it sums elsewhere")
    monkeypatch.setitem(TABLE, "resid_post", row)
    for point in ("resid_post", "mlp_out"):
        saes = planted_saes(model, points=[point])  # type: ignore[list-item]  # mypy joins the names to str
        policy = clamp(1.0, layer=Site(1, point))  # type: ignore[arg-type]
        with steerkit.attach(model, saes, policy):
            logits_of(model, PROMPT)
        plan = compile_plan([[policy]], saes)
        if point == "mlp_out":
            with attach_ragged(model, plan, {}):
                continue
        said = (
            "resid_post.1: continuous batching does not serve resid_post, expected one of attn_in, attn_out, mlp_out, "
            "or transformers (it sums elsewhere)"
        )
        with pytest.raises(SteeringError, match=f"^{re.escape(said)}$"), attach_ragged(model, plan, {}):
            pass


class Layer(nn.Module):
    """A decoder layer that returns a tuple, as older ones do."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, str]:
        """One more, and a text."""
        return x + 1, "weights"


def test_what_a_layer_returns_beside_its_activations_stays() -> None:
    """Only the first of a tuple is steered."""
    model: Any = nn.Module()
    model.layers = nn.ModuleList([Layer()])
    model.layers[0].self_attn = nn.Module()
    model.layers[0].self_attn.o_proj = nn.Linear(2, 2)
    with torch.no_grad():
        handle = find_sites(model).hook(Site(0, "resid_post"), lambda y: 2 * y)
        assert [part if isinstance(part, str) else part.tolist() for part in model.layers[0](torch.ones(2))] == [
            [4.0, 4.0],
            "weights",
        ]
        handle.remove()
        assert model.layers[0](torch.ones(2))[0].tolist() == [2.0, 2.0]
