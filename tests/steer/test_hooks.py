"""Policies on a running model: what an edit does, and that everything else keeps its bits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import steerkit
from steerkit.errors import SteeringError
from steerkit.sae import SaeSet
from steerkit.sites import Site
from steerkit.testing import planted_policy, planted_saes, small_model
from tests.steer.conftest import PROMPTS, clamp, hooks_on, left_padded, logits_of

PROMPT = PROMPTS[0]


def capture(model: nn.Module, layer: int) -> tuple[list[torch.Tensor], object]:
    """Record what leaves a site after steering's own hook."""
    seen: list[torch.Tensor] = []
    site = model.get_submodule(f"model.layers.{layer}.self_attn.o_proj")
    return seen, site.register_forward_hook(lambda module, args, out: seen.append(out.clone()))


def site_outputs(model: nn.Module, saes: SaeSet, policy: steerkit.Policy, layer: int) -> torch.Tensor:
    """`(T, d)` the activations of a site after steering."""
    with steerkit.attach(model, saes, policy):
        seen, handle = capture(model, layer)
        logits_of(model, PROMPT)
        handle.remove()  # type: ignore[attr-defined]
    return seen[0][0]


def test_a_clamp_sets_the_feature_and_nothing_else(model: nn.Module, saes: SaeSet) -> None:
    """After the hook the feature reads what it was clamped to; every other direction is as without it."""
    plain = site_outputs(model, saes, clamp(0.0, layer=2), 1)
    steered = site_outputs(model, saes, clamp(4.0), 1)
    before, after = saes[1].encode(plain), saes[1].encode(steered)
    direction = saes[1].W_enc[:, 3]
    assert torch.allclose(steered @ direction, 4.0 - torch.relu(-plain @ direction), atol=1e-4)
    assert not torch.allclose(before[:, 3], torch.tensor(4.0), atol=1e-1)
    others = [j for j in range(before.shape[1]) if j not in (3, 3 + saes[1].d_in)]
    assert torch.allclose(before[:, others], after[:, others], atol=1e-4)


def test_layers_below_an_edit_are_equal_and_layers_above_differ(model: nn.Module, saes: SaeSet) -> None:
    """An edit at layer 1 leaves layer 0 to the bit and reaches layer 2."""
    idle = planted_policy()
    assert torch.equal(site_outputs(model, saes, clamp(4.0), 0), site_outputs(model, saes, idle, 0))
    assert not torch.equal(site_outputs(model, saes, clamp(4.0), 2), site_outputs(model, saes, idle, 2))


def test_an_empty_policy_leaves_the_logits_to_the_bit(model: nn.Module, saes: SaeSet) -> None:
    """A policy without rules is the identity; a clamp is not."""
    plain = logits_of(model, PROMPT)
    with steerkit.attach(model, saes, planted_policy(), trace=[0, 1, 2]):
        assert torch.equal(logits_of(model, PROMPT), plain)
    with steerkit.attach(model, saes, clamp(4.0)):
        assert not torch.equal(logits_of(model, PROMPT), plain)


def test_an_edit_to_the_present_value_leaves_the_logits_to_the_bit(model: nn.Module, saes: SaeSet) -> None:
    """Scaling by one and a cap that is never reached change nothing; a cap that is reached does."""
    plain = logits_of(model, PROMPT)
    for edit, same in (({"scale": 1.0}, True), ({"cap": 1e6}, True), ({"cap": 0.0}, False)):
        rule = planted_policy("p", {"f": (1, 3)}, steer=[{"name": "r", "where": "any", "edit": {"f": edit}}])
        with steerkit.attach(model, saes, rule):
            assert torch.equal(logits_of(model, PROMPT), plain) is same


def test_a_gate_that_never_opens_leaves_the_logits_to_the_bit(model: nn.Module, saes: SaeSet) -> None:
    """The same edit acts when the comparison is turned round, so the gate and not the edit decides."""
    plain = logits_of(model, PROMPT)
    for when, same in (({"feature": "f", "above": 1e6}, True), ({"feature": "f", "below": 1e6}, False)):
        with steerkit.attach(model, saes, clamp(4.0, when=when)):
            assert torch.equal(logits_of(model, PROMPT), plain) is same


def test_a_probe_gate_sums_features_of_several_layers(model: nn.Module, saes: SaeSet) -> None:
    """The gate opens exactly at tokens where bias + sum of weighted features of two layers passes the threshold."""
    with steerkit.attach(model, saes, planted_policy(), trace=[0, 1]) as recorder:
        logits_of(model, PROMPT)
    total = -0.1 + 2.0 * saes[0].encode(recorder.raw(0))[0, :, 5] - saes[1].encode(recorder.raw(1))[0, :, 9]
    threshold = float(total.median())
    policy = planted_policy(
        "p",
        {"a": (0, 5), "b": (1, 9), "f": (1, 3)},
        probes={"both": {"bias": -0.1, "weights": {"a": 2.0, "b": -1.0}}},
        steer=[
            {"name": "r", "where": "any", "when": {"probe": "both", "above": threshold}, "edit": {"f": {"clamp": 9}}}
        ],
    )
    with steerkit.attach(model, saes, policy) as recorder:
        logits_of(model, PROMPT)
    opened = recorder.opened()[Site(1)][0, :, 1]
    assert torch.equal(opened, total > threshold)
    assert 0 < int(opened.sum()) < len(PROMPT)


@pytest.mark.parametrize(
    ("where", "touched"), [("any", range(7)), ("prompt", range(7)), ("reply", [6]), ("reply.start", [6])]
)
def test_places_in_a_prompt(model: nn.Module, saes: SaeSet, where: str, touched: list[int]) -> None:
    """In the prompt, `reply` and `reply.start` are its last position: the step that produces the first token."""
    with steerkit.attach(model, saes, clamp(4.0, where=where)) as recorder:
        logits_of(model, PROMPT)
    assert recorder.opened()[Site(1)][0, :, 1].nonzero().squeeze(-1).tolist() == list(touched)


def test_shadow_records_and_changes_nothing(model: nn.Module, saes: SaeSet) -> None:
    """In shadow mode the gate is on the recorder and the logits are plain; enforced, they are not."""
    plain = logits_of(model, PROMPT)
    for mode, same in (("shadow", True), ("enforce", False)):
        policy = planted_policy(
            "p", {"f": (1, 3)}, mode=mode, steer=[{"name": "r", "where": "any", "edit": {"f": {"clamp": 4}}}]
        )
        with steerkit.attach(model, saes, policy) as recorder:
            assert torch.equal(logits_of(model, PROMPT), plain) is same
        assert bool(recorder.opened()[Site(1)][0, :, 1].all())


def test_reconstruction_writes_the_decoded_features(model: nn.Module) -> None:
    """With a lossy SAE, `reconstruction` writes `decode(f')` and `delta` keeps the SAE's error out."""
    saes = planted_saes(model)
    saes[1].W_dec.mul_(0.5)
    plain = site_outputs(model, saes, planted_policy(), 1)
    for write_back in ("delta", "reconstruction"):
        policy = planted_policy(
            "p",
            {"f": (1, 3)},
            write_back=write_back,
            steer=[{"name": "r", "where": "any", "edit": {"f": {"clamp": 4}}}],
        )
        steered = site_outputs(model, saes, policy, 1)
        features = saes[1].encode(plain)
        error = plain - saes[1].decode(features)
        features[:, 3] = 4.0
        expected = saes[1].decode(features) + (error if write_back == "delta" else 0.0)
        assert torch.allclose(steered, expected, atol=1e-4)


def test_several_layers_and_features_are_each_edited(model: nn.Module, saes: SaeSet) -> None:
    """No layer's edit is lost to the last one of a loop, and no feature of a site overwrites another."""
    values = {(layer, index): 2.0 + layer + index for layer in (0, 1, 2) for index in (3, 8)}
    names = {f"f{layer}_{index}": (layer, index) for layer, index in values}
    edits = {name: {"clamp": values[feature]} for name, feature in names.items()}
    policy = planted_policy("p", names, steer=[{"name": "r", "where": "any", "edit": edits}])
    for (layer, index), value in values.items():
        with steerkit.attach(model, saes, policy) as recorder:
            seen, handle = capture(model, layer)
            logits_of(model, PROMPT)
            handle.remove()
        direction = saes[layer].W_enc[:, index]
        before, after = recorder.raw(layer)[0] @ direction, seen[0][0] @ direction
        # The mirrored feature -q has its own share of the coordinate, and no rule touches it.
        assert torch.allclose(after, value - torch.relu(-before), atol=1e-4)
        assert not torch.allclose(after, before, atol=0.5)


def test_of_two_policies_on_one_feature_the_first_acts(model: nn.Module, saes: SaeSet) -> None:
    """Given first, or of higher priority in one policy, an edit goes before the other; alone the other acts."""
    first, second = clamp(1.0, name="first"), clamp(2.0, name="second")
    rules = [
        {"name": "low", "where": "any", "edit": {"f": {"clamp": 1.0}}},
        {"name": "high", "where": "any", "edit": {"f": {"clamp": 2.0}}, "priority": 1},
    ]
    ranked = planted_policy("ranked", {"f": (1, 3)}, steer=rules)
    values = {}
    for name, policy in {
        "first": first,
        "second": second,
        "both": [first, second],
        "turned": [second, first],
        "ranked": ranked,
    }.items():
        values[name] = site_outputs(model, saes, policy, 1)  # type: ignore[arg-type]
    assert torch.equal(values["both"], values["first"])
    assert torch.equal(values["turned"], values["second"])
    assert torch.equal(values["ranked"], values["second"])
    assert not torch.equal(values["first"], values["second"])


def test_rows_have_their_own_policies_and_idle_rows_keep_their_bits(model: nn.Module, saes: SaeSet) -> None:
    """In one padded batch each row gets its policy; a row without one has the bits of the batch without steerkit."""
    batch = left_padded(PROMPTS)
    with torch.no_grad():
        plain = model(**batch).logits
        with steerkit.attach(model, saes, rows=[clamp(4.0), (), clamp(-3.0, layer=2)]):
            steered = model(**batch).logits
    assert torch.equal(steered[1], plain[1])
    for row, policy in ((0, clamp(4.0)), (2, clamp(-3.0, layer=2))):
        assert not torch.equal(steered[row], plain[row])
        with steerkit.attach(model, saes, policy):
            single = logits_of(model, PROMPTS[row])
        assert torch.allclose(steered[row, -len(PROMPTS[row]) :], single, atol=1e-4)


def test_padding_never_gates(model: nn.Module, saes: SaeSet) -> None:
    """A rule for every token acts on every token but the padding."""
    batch = left_padded(PROMPTS)
    with torch.no_grad(), steerkit.attach(model, saes, clamp(4.0)) as recorder:
        model(**batch)
    assert torch.equal(recorder.opened()[Site(1)][:, :, 1], batch["attention_mask"].bool())


def test_hooks_are_gone_after_every_kind_of_failure(model: nn.Module, saes: SaeSet) -> None:
    """Nothing stays on the model after a normal end, an error in the body, in the forward pass or in setup."""
    assert hooks_on(model) == 0
    with steerkit.attach(model, saes, clamp(1.0)):
        logits_of(model, PROMPT)
        assert hooks_on(model) > 0
    assert hooks_on(model) == 0
    with pytest.raises(KeyError), steerkit.attach(model, saes, clamp(1.0)):
        raise KeyError("body")
    with pytest.raises(IndexError), steerkit.attach(model, saes, clamp(1.0)):
        logits_of(model, [10**6])
    with pytest.raises(steerkit.SteerkitError), steerkit.attach(model, saes, clamp(1.0, layer=9)):
        pass
    assert hooks_on(model) == 0


def test_nested_policies_add_up_and_come_off_in_turn(model: nn.Module, saes: SaeSet) -> None:
    """Two attachments on one model both act, and each takes off only its own hooks."""
    inner, outer = clamp(4.0), clamp(-2.0, layer=2)
    with steerkit.attach(model, saes, [outer, clamp(4.0, name="inner")]):
        together = logits_of(model, PROMPT)
    with steerkit.attach(model, saes, outer):
        alone = logits_of(model, PROMPT)
        with steerkit.attach(model, saes, inner):
            assert torch.equal(logits_of(model, PROMPT), together)
        assert torch.equal(logits_of(model, PROMPT), alone)
    assert hooks_on(model) == 0


def test_a_site_that_never_fired_is_an_error(model: nn.Module, saes: SaeSet) -> None:
    """No forward pass, or a layer that does not run its o_proj: the policy was not applied, and that is said."""
    with pytest.raises(SteeringError, match="no forward pass"), steerkit.attach(model, saes, clamp(1.0)):
        pass
    other = small_model(seed=1)
    attention = other.model.layers[1].self_attn
    projection = attention.o_proj

    def replace_the_site() -> None:
        with steerkit.attach(other, saes, clamp(1.0)):
            attention.o_proj = nn.Linear(projection.in_features, projection.out_features, bias=False)
            logits_of(other, PROMPT)

    with pytest.raises(SteeringError, match=r"layer 1: the hook ran 0 times"):
        replace_the_site()


def test_saes_of_another_width_are_refused(saes: SaeSet) -> None:
    """The error names both widths, before anything runs."""
    wide = small_model(hidden_size=64)
    with (
        pytest.raises(SteeringError, match=r"reads width 32, the model's o_proj writes 64"),
        steerkit.attach(wide, saes, clamp(1.0)),
    ):
        pass


def test_a_model_without_sites_is_refused(saes: SaeSet) -> None:
    """A module that is no decoder is named."""
    with (
        pytest.raises(SteeringError, match="Linear: found no modules"),
        steerkit.attach(nn.Linear(2, 2), saes, clamp(1.0)),
    ):
        pass
