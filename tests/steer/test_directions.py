"""Directions on a running model: added, read and recorded, at every hook point and beside SAEs of every kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from transformers import ContinuousBatchingConfig, GenerationConfig

import steerkit
from steerkit.errors import PolicyError, SteeringError
from steerkit.policy import Policy
from steerkit.sae import Kind, SaeSet
from steerkit.sites import POINTS, Site
from steerkit.steer import Extent, Wanted, attach, attach_ragged, compile_plan, find_sites, read_traces, traced_sites
from steerkit.testing import planted_policy, planted_saes, small_model
from tests.directions import adding, drawn, file_of
from tests.steer.conftest import PROMPTS, hooks_on, left_padded, logits_of
from tests.steer.test_kinds import seen_at

PROMPT = PROMPTS[0]
WIDTH = 64


def width(model: nn.Module, site: Site) -> int:
    found = find_sites(model).width(site)
    assert found is not None
    return found


def steered(model: nn.Module, policy: Policy | Sequence[Policy], saes: SaeSet | None = None) -> Tensor:
    with steerkit.attach(model, saes, policy):
        return logits_of(model, PROMPT)


def by_hand(model: nn.Module, add: dict[Site, Tensor], at: slice | int = slice(None)) -> Tensor:
    """Logits with vectors added by hooks of our own, in float32."""
    sites, handles = find_sites(model), []
    for site, vector in add.items():

        def write(y: Tensor, vector: Tensor = vector) -> Tensor:
            out = y.clone()
            out[:, at] = (y[:, at].float() + vector).to(y.dtype)
            return out

        handles.append(sites.hook(site, write))
    found = logits_of(model, PROMPT)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_added_is_what_a_hook_adds_to_the_bit(point: Any, dtype: torch.dtype) -> None:
    """At each hook point, in the model's own precision, once and twice; without SAEs."""
    model = small_model(dtype=dtype)
    sites = [Site(layer, point) for layer in (0, 2)]
    vectors = drawn(width(model, sites[0]), *sites, scale=0.1)
    file = file_of(vectors)
    plain = logits_of(model, PROMPT)
    for times in (1.0, 2.0, -1.0):
        found = steered(model, adding(file, times))
        assert torch.equal(found, by_hand(model, {site: times * one for site, one in vectors.items()}))
        assert not torch.equal(found, plain)
    assert torch.equal(steered(model, adding(file, policy={"mode": "shadow"})), plain)


def test_a_direction_is_written_as_a_feature_of_the_same_row(model: nn.Module, saes: SaeSet) -> None:
    """A feature that is off, shifted, writes the same bits as the direction of its decoder row."""
    with torch.no_grad(), seen_at(model, Site(1)) as seen:
        logits_of(model, PROMPT)
    features = saes[1].encode(seen[0][0])
    off = int((features[-1] == 0).nonzero()[0])
    file = file_of({Site(1): saes[1].W_dec[off]})
    shift = planted_policy("p", {"f": (1, off)}, steer=[{"name": "r", "where": "reply", "edit": {"f": {"shift": 0.7}}}])
    assert torch.equal(steered(model, adding(file, 0.7, where="reply")), steered(model, shift, saes))


def test_places_and_gates_bound_what_is_added(model: nn.Module, saes: SaeSet) -> None:
    """Only the tokens of the place, behind a gate over a feature; where it stays shut nothing changes a bit."""
    vectors = drawn(width(model, Site(1)), "attn_out.1", scale=0.1)
    file = file_of(vectors)
    assert torch.equal(steered(model, adding(file, where="reply.start")), by_hand(model, vectors, -1))
    plain = logits_of(model, PROMPT)
    for when, same in (({"feature": "f", "below": 1e6}, False), ({"feature": "f", "above": 1e6}, True)):
        gated = adding(file, when=when, policy={"features": {"f": (1, 3)}})
        assert torch.equal(steered(model, gated, saes), plain) is same


def test_layers_below_are_equal_and_tokens_before_are_equal(model: nn.Module) -> None:
    """The causal order: an edit at the last token of layer 1 leaves layer 0 and every token before it to the bit."""
    policy = adding(file_of(drawn(width(model, Site(1)), "attn_out.1")), where="reply.start")
    found = {}
    for name, held in (("plain", ()), ("steered", policy)):
        for layer in (0, 2):
            with torch.no_grad(), steerkit.attach(model, None, held), seen_at(model, Site(layer)) as seen:
                logits_of(model, PROMPT)
            found[name, layer] = seen[0][0]
    assert torch.equal(found["plain", 0], found["steered", 0])
    assert torch.equal(found["plain", 2][:-1], found["steered", 2][:-1])
    assert not torch.equal(found["plain", 2][-1], found["steered", 2][-1])


def test_rows_of_a_batch_have_directions_of_their_own(model: nn.Module, saes: SaeSet) -> None:
    """Mixed with feature edits and with none: each row is as alone, and the one without a policy keeps its bits."""
    vectors = drawn(width(model, Site(1)), "attn_out.1", "resid_post.0", scale=0.1)
    file = file_of(vectors)
    clamp = planted_policy("c", {"f": (1, 3)}, steer=[{"name": "r", "where": "any", "edit": {"f": {"clamp": 4.0}}}])
    rows: list[Any] = [adding(file, 2.0), (), clamp]
    batch = left_padded(PROMPTS)
    with torch.no_grad():
        plain = model(**batch).logits
        with steerkit.attach(model, saes, rows=rows):
            mixed = model(**batch).logits
        with steerkit.attach(model, saes, rows=[(), (), clamp]):
            without = model(**batch).logits
        assert not hooks_on(model)
    assert torch.equal(mixed[1], plain[1])
    assert torch.equal(without[0], plain[0])
    for number in (0, 2):
        with steerkit.attach(model, saes, rows[number]):
            alone = logits_of(model, PROMPTS[number])
        assert torch.allclose(mixed[number, -len(PROMPTS[number]) :], alone, atol=1e-4)
        assert not torch.allclose(mixed[number], plain[number], atol=1e-3)


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("write_back", ["delta", "reconstruction"])
def test_features_and_directions_of_one_site_are_written_together(kind: Kind, write_back: str) -> None:
    """One rule clamps a feature and adds a direction: beside an SAE of each kind, both ways to write back."""
    model = small_model()
    saes, site = planted_saes(model, kind=kind), Site(1)
    vectors = drawn(width(model, site), site, scale=0.1)
    edit = {"f": {"clamp": 0.3}, "away": {"add": 1.5}}
    parts = {"features": {"f": (1, 3)}, "write_back": write_back}
    policy = adding(file_of(vectors), edit=edit, where="reply", policy=parts)
    with torch.no_grad(), seen_at(model, site) as seen:
        logits_of(model, PROMPT)
    y = seen[0][0]
    features = saes[1].encode(y)
    clamped = features.clone()
    clamped[-1, 3] = 0.3
    by_delta = y + (clamped - features) @ saes[1].W_dec
    expected = (saes[1].decode(clamped) if write_back == "reconstruction" else by_delta)[-1] + 1.5 * vectors[site]
    with torch.no_grad(), steerkit.attach(model, saes, policy) as recorder, seen_at(model, site) as seen:
        logits_of(model, PROMPT)
    assert torch.allclose(seen[0][0][-1], expected, atol=1e-5)
    assert torch.equal(seen[0][0][:-1], y[:-1])
    plan = compile_plan([(policy,)], saes)
    ((trace,)) = read_traces(recorder, plan, saes, [Wanted((policy,))], [Extent(len(PROMPT))])
    (said,) = trace.edits
    assert said.norm == pytest.approx(float((expected - y[-1]).norm()), rel=1e-3)


def test_a_reconstruction_of_no_features_is_the_vector_alone(model: nn.Module) -> None:
    """A rule that edits no feature at a site has nothing to decode there, with or without an SAE."""
    vectors = drawn(width(model, Site(1)), "attn_out.1", scale=0.1)
    policy = adding(file_of(vectors), policy={"write_back": "reconstruction"})
    assert torch.equal(steered(model, policy), by_hand(model, vectors))


@pytest.mark.parametrize("kind", get_args(Kind))
def test_probes_read_directions(kind: Kind) -> None:
    """A gate opens exactly where bias + weight * sum of activation @ vector + weight * feature is above its bound.

    The sum may be negative; the record's watched values are the same numbers.
    """
    model = small_model()
    saes = planted_saes(model, kind=kind)
    vectors = drawn(width(model, Site(0)), "attn_out.0", "attn_out.1")
    with torch.no_grad(), steerkit.attach(model, saes, trace=[0, 1]) as recorder:
        logits_of(model, PROMPT)
    raw = {layer: recorder.raw(layer)[0] for layer in (0, 1)}
    along = sum(raw[layer] @ vectors[Site(layer)] for layer in (0, 1))
    total = -0.1 - 2.0 * along + 0.5 * saes[1].encode(raw[1])[:, 3]
    bound = float(total.sort().values[2:4].mean())
    probes = {"seen": {"bias": -0.1, "weights": {"away": -2.0, "f": 0.5}}}
    steer = [{"name": "r", "where": "any", "when": {"probe": "seen", "above": bound}, "edit": {"g": {"clamp": 2}}}]
    parts: dict[str, Any] = {"probes": probes, "trace": {"watch": ["seen"]}}
    policy = planted_policy(
        "p", {"f": (1, 3), "g": (2, 5)}, directions=adding(file_of(vectors)).directions, steer=steer, **parts
    )
    wanted, plan = Wanted((policy,), {"p": ("seen",)}), compile_plan([(policy,)], saes)
    assert traced_sites([wanted], saes) == {Site(0), Site(1)}
    with torch.no_grad(), attach(model, plan, trace=traced_sites([wanted], saes)) as attached:
        logits_of(model, PROMPT)
    assert torch.equal(attached.recorder.opened()[Site(2)][0, :, 1], total > bound)
    assert 0 < int((total > bound).sum()) < len(PROMPT)
    assert total.min() < 0
    (trace,) = read_traces(attached.recorder, plan, saes, [wanted], [Extent(len(PROMPT))])
    assert torch.allclose(torch.tensor(trace.watched["p.seen"]), total, atol=1e-4)


def test_random_vectors_are_as_long_and_always_the_same(model: nn.Module) -> None:
    """By seed and hook point; the control of a direction, and no longer the direction."""
    vectors = drawn(width(model, Site(0)), "attn_out.0", "attn_out.1", scale=0.1)
    file = file_of(vectors)

    def rows(**direction: Any) -> dict[Site, Tensor]:
        plan = compile_plan([(adding(file, direction=direction),)], None)
        return {site: table.columns.W_dec[0] for site, table in plan.sites.items()}

    one, again, other = rows(random=1), rows(random=1), rows(random=2)
    for site, vector in vectors.items():
        assert torch.equal(one[site], again[site])
        assert one[site].norm() == pytest.approx(float(vector.norm()), rel=1e-5)
        assert abs(float(torch.cosine_similarity(one[site], vector, dim=0))) < 0.5
        assert not torch.allclose(one[site], other[site])
        assert torch.equal(rows()[site], vector)
    assert not torch.allclose(one[Site(0)], one[Site(1)])
    assert torch.equal(rows(random=1, sites=["attn_out.1"])[Site(1)], one[Site(1)])


def test_of_two_rules_on_one_direction_the_first_acts(model: nn.Module) -> None:
    """Within a policy by priority, of several policies the first one; another direction is added besides."""
    vectors, others = (drawn(width(model, Site(1)), "attn_out.1", seed=seed, scale=0.1) for seed in (0, 1))
    file, other = file_of(vectors), file_of(others, name="other")
    site = Site(1)
    first = steered(model, (adding(file, 2.0), adding(file, 3.0, name="second")))
    assert torch.equal(first, by_hand(model, {site: 2 * vectors[site]}))
    both = steered(model, (adding(file, 2.0), adding(other, 1.0, name="second")))
    assert torch.allclose(both, by_hand(model, {site: 2 * vectors[site] + others[site]}), atol=1e-5)
    assert not torch.allclose(both, first, atol=1e-3)


def test_records_say_where_and_how_much_was_added(model: nn.Module) -> None:
    """An edit for each hook point, without any SAE."""
    vectors = drawn(width(model, Site(0)), "attn_out.0", "resid_post.2", scale=0.1)
    policy = adding(file_of(vectors), 2.0, where="reply")
    plan = compile_plan([(policy,)], None)
    with torch.no_grad(), attach(model, plan) as attached:
        logits_of(model, PROMPT)
    (trace,) = read_traces(attached.recorder, plan, None, [Wanted((policy,))], [Extent(len(PROMPT))])
    assert [(one.rule, one.site, one.positions) for one in trace.edits] == [
        ("add", Site(0), (len(PROMPT) - 1,)),
        ("add", Site(2, "resid_post"), (len(PROMPT) - 1,)),
    ]
    for edit in trace.edits:
        assert edit.norm == pytest.approx(2 * float(vectors[edit.site].norm()), rel=1e-4)


def test_continuous_batching_adds_directions(model: Any) -> None:
    """Each request under its own policy, as `generate` under `attach` gives them."""
    file = file_of(drawn(width(model, Site(1)), "attn_out.1", "resid_post.0"))
    held: list[tuple[Policy, ...]] = [(adding(file, where="reply"),), (), (adding(file, -1.0, name="back"),)]
    plan = compile_plan(held, None)
    rows = [plan.row(one) for one in held]
    config = GenerationConfig(do_sample=False, max_new_tokens=8, eos_token_id=-1)
    batching = ContinuousBatchingConfig(allow_block_sharing=False, num_blocks=8, max_batch_tokens=64)
    with attach_ragged(model, plan, {f"req_{number}": row for number, row in enumerate(rows)}):
        found = model.generate_batch([list(ids) for ids in PROMPTS], config, batching)
    for number, row in enumerate(rows):
        ids = torch.tensor([PROMPTS[number]])
        with attach(model, plan, rows=[row]):
            expected = model.generate(ids, generation_config=config)[0, ids.shape[1] :].tolist()
        assert found[f"req_{number}"].generated_tokens == expected
    assert not hooks_on(model)


def test_what_does_not_fit_the_model_names_the_file(model: nn.Module, saes: SaeSet, tmp_path: Path) -> None:
    """Width and layer, against the model, an SAE and another direction; the runtime's own errors are elsewhere."""
    fits = width(model, Site(1))
    narrow = adding(file_of(drawn(5, "attn_out.1")))
    with pytest.raises(
        SteeringError, match=r"directions\.away: .*\.safetensors: layer 1: the vector has width 5.*made on"
    ):
        steered(model, narrow)
    beside = adding(file_of(drawn(5, "attn_out.1")), edit={"f": {"clamp": 1}, "away": {"add": 1}},
                    policy={"features": {"f": (1, 3)}})  # fmt: skip
    with pytest.raises(
        SteeringError, match=r"\.safetensors: attn_out\.1: got a vector of width 5, but layer 1's SAE has"
    ):
        steered(model, beside, saes)
    with pytest.raises(SteeringError, match=r"\.safetensors: attn_out\.1: got a vector of width \d+, but policy '"):
        steered(model, (adding(file_of(drawn(fits, "attn_out.1"))), adding(file_of(drawn(5, "attn_out.1")), name="n")))
    with pytest.raises(SteeringError, match=r"directions\.away: .*\.safetensors: layer 9: the model has no such layer"):
        steered(model, adding(file_of(drawn(fits, "attn_out.9"))))
    gone = adding(file_of(drawn(fits, "attn_out.1"), tmp_path))
    (tmp_path / "away.safetensors").unlink()
    with pytest.raises(PolicyError, match="no such file"):
        steered(model, gone.model_copy(update={"directions": {"away": gone.directions["away"].model_copy(
            update={"file": str(tmp_path / "moved.safetensors")})}}))  # fmt: skip
    with pytest.raises(SteeringError, match="names features, but no SAEs are loaded"):
        steered(model, planted_policy("p", {"f": (1, 3)}))
    assert not hooks_on(model)
