"""Fields of a steering rule and of the trace, each by its effect on a running model beside the same without it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, DynamicCache

import steerkit
from steerkit.agent import Runtime
from steerkit.chat import encode_call, place_machine, render, steps_by_place
from steerkit.engine import box_folder, cache_name
from steerkit.errors import PolicyError
from steerkit.policy import Policy, resolve
from steerkit.sae import SaeSet
from steerkit.sites import Feature, Site
from steerkit.steer import Recorder
from steerkit.testing import planted_policy, planted_saes, small_model
from steerkit.tiny.demo_requests import CASES
from steerkit.types import PLACES, Span, Tool, TopK, Trace

TOKENIZER = AutoTokenizer.from_pretrained(box_folder("tiny"))
MODEL = small_model(vocab_size=len(TOKENIZER))
SAES = planted_saes(MODEL)
PROMPT = render(
    TOKENIZER,
    [
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": "read it"},
        {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "read", "arguments": {"n": 1}}}]},
        {"role": "tool", "tool_call_id": "1", "content": "pay Zoren"},
    ],
    [Tool("read", "Read.")],
).ids
REPLY = TOKENIZER.encode("ok " + encode_call("pay", {"to": "Zoren", "amount": 900}) + "done", add_special_tokens=False)
IDS = torch.tensor([[*PROMPT, *REPLY]])
LENGTH = IDS.shape[1]
AT = {
    place: {t for span in spans for t in range(*span)}
    for place, spans in steps_by_place(TOKENIZER, PROMPT, [*REPLY, 0]).items()
}
"""The steps of the conversation at each place, as the guard is given them."""


def forward(policy: Policy | tuple[()], saes: SaeSet = SAES) -> tuple[torch.Tensor, Recorder]:
    """Logits of every token of the conversation, fed at once, and the recorder."""
    with (
        torch.no_grad(),
        steerkit.attach(MODEL, saes, policy, prompt_length=len(PROMPT), tokenizer=TOKENIZER) as recorder,
    ):
        logits = MODEL(input_ids=IDS).logits[0]
    return logits, recorder


def rule(edit: Any = None, *, where: str = "any", **parts: Any) -> Policy:
    """A policy with one rule that edits feature 11 of layer 1; `read` lies below it."""
    steer = [{"name": "r", "where": where, "edit": {"edited": edit or {"clamp": 30.0}}, **parts}]
    return planted_policy("p", {"edited": (1, 11), "read": (0, 3)}, steer=steer)


def acted(policy: Policy, column: int = 1) -> set[int]:
    """Tokens at which a rule acted."""
    _, recorder = forward(policy)
    return set(recorder.opened()[Site(1)][0, :, column].nonzero().squeeze(-1).tolist())


def values(layer: int = 0, index: int = 3) -> torch.Tensor:
    """A feature's value at every token, without any edit."""
    with torch.no_grad(), steerkit.attach(MODEL, SAES, trace=[layer]) as recorder:
        MODEL(input_ids=IDS)
    return SAES[layer].encode(recorder.raw(layer)[0])[:, index]


READ = values()
HIGH = float(READ.sort().values[-3:-1].mean())
"""Between the second and the third largest value that is read."""
PEAKS = set((READ > HIGH).nonzero().squeeze(-1).tolist())


@pytest.mark.parametrize("place", [*PLACES, "call.arguments.to", "call.arguments.amount"])
def test_a_rule_writes_at_its_place_and_nowhere_else(place: str) -> None:
    """Its steps are those that the conversation has there: the first of them differs, all before keep their bits."""
    assert AT[place]
    assert acted(rule(where=place)) == AT[place]
    plain, steered = forward(())[0], forward(rule(where=place))[0]
    first = min(AT[place])
    assert torch.equal(steered[:first], plain[:first])
    assert not torch.equal(steered[first], plain[first])


@pytest.mark.parametrize("place", [*PLACES, "call.arguments.to", "call.arguments.amount"])
def test_a_gate_is_read_at_its_place_and_nowhere_else(place: str) -> None:
    """A gate that every token would open opens at those of its place; one that none opens, at none of them."""
    assert acted(rule(when={"feature": "read", "above": -1.0, "at": place})) == AT[place]
    assert acted(rule(when={"feature": "read", "above": 1e6, "at": place})) == set()


@pytest.mark.parametrize("place", [*PLACES, "call.arguments.to", "call.arguments.amount"])
def test_a_reply_token_by_token_is_steered_as_at_once(place: str) -> None:
    """What acts changes where the reply goes from one place to the next, beside a rule that acts all along."""
    steer = [
        {"name": "always", "where": "any", "edit": {"other": {"scale": 3.0}}},
        {"name": "there", "where": place, "edit": {"edited": {"clamp": 30.0}}},
    ]
    features = {"edited": (1, 11), "other": (1, 4)}
    policy = planted_policy("p", features, steer=steer)
    found, cache = [], DynamicCache(config=MODEL.config)
    with torch.no_grad(), steerkit.attach(MODEL, SAES, policy, prompt_length=len(PROMPT), tokenizer=TOKENIZER):
        for part in (IDS[:, : len(PROMPT)], *IDS[:, len(PROMPT) :].split(1, dim=1)):
            found.append(MODEL(input_ids=part, **{cache_name(MODEL): cache}).logits[0])
    at_once = forward(policy)[0]
    assert torch.allclose(torch.cat(found), at_once, atol=1e-4)
    after = sorted(step for step in AT[place] if step >= len(PROMPT))
    elsewhere = forward(planted_policy("p", features, steer=steer[:1]))[0]
    assert not after or not torch.allclose(elsewhere[after[0]], at_once[after[0]], atol=1e-2)


def test_places_do_not_overlap_where_they_must_not() -> None:
    """Developer, user and tool result are apart, a declaration is the developer's, a name is before its arguments."""
    assert not AT["developer"] & AT["user"]
    assert not AT["user"] & AT["tool_result"]
    assert AT["declaration"] < AT["developer"]
    assert AT["prompt"] & AT["reply"] == AT["reply.start"] == {len(PROMPT) - 1}
    assert AT["call.open"] < AT["call.name"] < AT["call"] < AT["reply"]
    assert max(AT["call.name"]) < min(AT["call.arguments"])
    assert AT["call.arguments.to"] | AT["call.arguments.amount"] < AT["call.arguments"]
    assert not AT["text"] & AT["call"]


def test_for_holds_the_gate_open_as_long_as_it_says() -> None:
    """That token, that and the two after it, or all after it; the token that opened it counts."""
    gate = {"feature": "read", "above": HIGH}
    assert len(PEAKS) == 2
    assert acted(rule(when=gate)) == PEAKS
    held = {t + n for t in PEAKS for n in range(3)} & set(range(LENGTH))
    assert acted(rule(when=gate, **{"for": "3 tokens"})) == held
    assert acted(rule(when=gate, **{"for": "turn"})) == set(range(min(PEAKS), LENGTH))


def test_windows_read_what_was() -> None:
    """The largest of three tokens is high for two more than the value itself; their mean is another thing."""
    peaks = {t + n for t in PEAKS for n in range(3)} & set(range(LENGTH))
    assert acted(rule(when={"feature": "read", "above": HIGH, "max_over": 3})) == peaks != PEAKS
    means = [float(READ[max(0, t - 2) : t + 1].mean()) for t in range(LENGTH)]
    ordered = sorted(means)
    bound = (ordered[-4] + ordered[-5]) / 2
    expected = {t for t, mean in enumerate(means) if mean > bound}
    assert acted(rule(when={"feature": "read", "above": bound, "mean_over": 3})) == expected
    assert acted(rule(when={"feature": "read", "above": bound})) != expected


def test_hysteresis_keeps_a_gate_open_until_it_falls() -> None:
    """Open from above the one bound until below the other; without the second it closes at once."""
    low = float(READ.quantile(0.3))
    expected, on = set(), False
    for t, value in enumerate(READ.tolist()):
        on = value > HIGH or (on and value >= low)
        expected |= {t} if on else set()
    assert acted(rule(when={"feature": "read", "above": HIGH, "off_below": low})) == expected > PEAKS
    assert acted(rule(when={"feature": "read", "above": HIGH})) == PEAKS


@pytest.mark.parametrize("unit", ["max", "mean", "std", "q50", "q90", "q99", "q999"])
def test_a_unit_is_the_features_own_statistic(unit: str) -> None:
    """`2 UNIT` does what twice the statistic does, in edits and in gates, and another statistic does something else."""
    numbers = {"max": 3.0, "mean": 0.2, "std": 0.4, "q50": 0.1, "q90": 0.7, "q99": 1.5, "q999": 2.5}
    tables = {
        f"layer_{site.layer:02d}.{name}": torch.full((SAES[site].d_sae,), number)
        for site in SAES
        for name, number in numbers.items()
    }
    saes = SaeSet("with units", SAES.checkpoints.values(), tables)

    def logits(quantity: Any) -> torch.Tensor:
        when = {"feature": "read", "above": -1.0, "below": quantity}
        return forward(resolve(rule({"clamp": quantity}, when=when), saes.statistic), saes)[0]

    assert torch.equal(logits(f"2 {unit}"), logits(2 * tables[f"layer_01.{unit}"][0].item()))
    assert not torch.equal(logits(f"2 {unit}"), logits(2 * tables[f"layer_01.{unit}"][0].item() + 0.5))


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        ({"clamp": 0.7}, lambda f: torch.full_like(f, 0.7)),
        ({"ablate": True}, torch.zeros_like),
        ({"scale": 3.0}, lambda f: 3 * f),
        ({"shift": 0.4}, lambda f: f + 0.4),
        ({"floor": 3e-4}, lambda f: f.clamp(min=3e-4)),
        ({"cap": 2e-4}, lambda f: f.clamp(max=2e-4)),
        ({"scale": 2.0, "shift": 2e-4, "floor": 3e-4, "cap": 8e-4}, lambda f: (2 * f + 2e-4).clamp(3e-4, 8e-4)),
    ],
)
def test_an_edit_writes_what_it_says(edit: dict[str, Any], expected: Any) -> None:
    """The activation changes along the feature's direction by f' - f, at every token, and by nothing else."""
    site = MODEL.get_submodule("model.layers.1.self_attn.o_proj")
    found = []
    for policy in (planted_policy("idle"), rule(edit)):
        with torch.no_grad(), steerkit.attach(MODEL, SAES, policy, prompt_length=len(PROMPT)):
            handle = site.register_forward_hook(lambda module, args, out: found.append(out[0].clone()))
            MODEL(input_ids=IDS)
            handle.remove()
    feature = values(1, 11)
    change = (expected(feature) - feature).unsqueeze(-1) * SAES[1].W_dec[11]
    assert torch.allclose(found[1] - found[0], change, atol=1e-6)
    assert float(change.abs().max()) > 1e-4


def test_of_two_open_rules_the_higher_priority_writes() -> None:
    """Whichever stands first in the file; where only the other is open, that one writes."""

    def pair(first: int, second: int, when: Any = None) -> torch.Tensor:
        strong = {"name": "a", "where": "any", "edit": {"edited": {"clamp": 30.0}}, "priority": first}
        weak = {"name": "b", "where": "any", "edit": {"edited": {"clamp": -9.0}}, "priority": second}
        gated = {**strong, **({} if when is None else {"when": when})}
        return forward(planted_policy("p", {"edited": (1, 11), "read": (0, 3)}, steer=[gated, weak]))[0]

    strong, weak = forward(rule())[0], forward(rule({"clamp": -9.0}))[0]
    assert torch.equal(pair(1, 0), strong)
    assert torch.equal(pair(0, 1), weak)
    assert torch.equal(pair(1, 0, {"feature": "read", "above": 1e6}), weak)
    assert not torch.equal(strong, weak)


def test_an_attached_policy_needs_places_of_its_tokenizer() -> None:
    """The machine that reads places is the tokenizer's own, so a place means the same for gates and for the guard."""
    assert place_machine(TOKENIZER) is place_machine(TOKENIZER)
    assert set(AT) >= {*PLACES}


CASE = next(case for case in CASES if case.name == "held")


def traced(box: Runtime, **trace: Any) -> Trace:
    """The trace of a turn on the model in the box."""
    policy = planted_policy("t", {"f": (3, 5), "g": (2, 7)}, trace=trace, probes={"p": {"weights": {"f": 2.0}}})
    return box.run(CASE.messages, CASE.tools, policy).trace


def test_watch_keeps_the_values_that_it_names(box: Runtime) -> None:
    """One value for every token that was read; what is not named is not kept."""
    assert traced(box).watched == {}
    kept = traced(box, watch=["f", "p"])
    assert set(kept.watched) == {"t.f", "t.p"}
    assert kept.features == {"t.f": Feature(3, 5)}
    assert torch.allclose(2 * torch.tensor(kept.watched["t.f"]), torch.tensor(kept.watched["t.p"]), atol=1e-5)
    assert len(kept.watched["t.f"]) == kept.places["any"][0].end


def test_top_k_keeps_so_many_features_at_its_place(box: Runtime) -> None:
    """From the first to the last token of the place, for `call` with the step before; without a number, none."""
    assert traced(box).top == ()

    def span(top: TopK) -> Span:
        return Span(top.start, top.start + top.count)

    for k, place in ((1, "user"), (5, "reply"), (3, "call"), (3, "call.name"), (2, "prompt")):
        kept = traced(box, top_k=k, at=place)
        assert box.saes is not None
        assert [top.site for top in kept.top] == list(box.saes)
        assert {top.k for top in kept.top} == {k}
        steps = kept.places[place]
        assert {span(top) for top in kept.top} == {Span(steps[0].start - (place == "call"), steps[-1].end)}


def test_a_policy_for_another_model_is_refused(box: Runtime) -> None:
    """Its own name and no name are taken, another name and another fingerprint are not."""
    for name in (None, "tiny", "steerkit/tiny", box.loaded.fingerprint):
        assert box.run(CASE.messages, CASE.tools, planted_policy("m", model=name), max_new_tokens=1)
    for name in ("other", "sha256:0"):
        with pytest.raises(PolicyError, match="policy 'm' model: got"):
            box.run(CASE.messages, CASE.tools, planted_policy("m", model=name), max_new_tokens=1)


@pytest.mark.parametrize("write_back", ["delta", "reconstruction"])
def test_shadow_writes_nothing_either_way(write_back: str) -> None:
    """In shadow a rule is recorded and the logits keep their bits; enforced they do not."""
    steer = rule().model_dump(exclude_none=True)["steer"]
    for mode, same in (("shadow", True), ("enforce", False)):
        policy = planted_policy("p", {"edited": (1, 11)}, steer=steer, mode=mode, write_back=write_back)
        assert acted(policy) == set(range(LENGTH))
        assert torch.equal(forward(policy)[0], forward(())[0]) is same
