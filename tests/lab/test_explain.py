"""Explanations of calls on the model in the box: estimates against real ablations, and both against random features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

import steerkit
from steerkit.agent import Runtime
from steerkit.audit import RecordedTurn, read_turn, redact
from steerkit.chat import dialect_of
from steerkit.errors import AuditError, SaeError
from steerkit.lab.attribution import attribute, log_odds
from steerkit.lab.explain.contrast import Written, tool_contrast
from steerkit.lab.explain.explain import explain
from steerkit.lab.explain.explanation import Explanation, Target
from steerkit.lab.explain.feature_roles import Extent
from steerkit.lab.explain.prompt_sources import FRAME, REPLY, sources
from steerkit.lab.explain.replayed_turn import ReplayedTurn
from steerkit.policy import Policy
from steerkit.sites import Feature, Point, Site
from steerkit.testing import planted_saes
from steerkit.tiny.demo_requests import CASES
from steerkit.types import Call, Span

BY_NAME = {case.name: case for case in CASES}


def recorded(box: Runtime, name: str, policy: Any = (), **sampling: Any) -> RecordedTurn:
    """A case's turn, unsteered unless a policy is given, as its record says it."""
    case = BY_NAME[name]
    assert box.store is not None
    return read_turn(box.store, box.store.get(str(box.run(case.messages, case.tools, policy, **sampling).record_id)))


def changed(turn: RecordedTurn, **fields: Any) -> RecordedTurn:
    return replace(turn, record=replace(turn.record, **fields))


@pytest.fixture(scope="module")
def turn(box: Runtime) -> RecordedTurn:
    """A transfer of money that nobody steered."""
    return recorded(box, "dangerous")


@pytest.fixture(scope="module")
def found(box: Runtime, turn: RecordedTurn) -> Explanation:
    """Why it was transfer_money."""
    return explain(box, turn, extent=Extent(5, 3, (3, 13, 34)))


def test_the_tool_is_held_against_the_other_one(turn: RecordedTurn, found: Explanation) -> None:
    """The choice is the token of the name, over the other declared tool, and the call is what was recorded."""
    assert (found.chosen, found.other, found.choice.rival) == ("transfer_money", "get_balance", "get_balance")
    assert found.tokens[found.choice.position + 1] == "transfer_money"
    assert found.score == pytest.approx(found.choice.margin, abs=1e-3)
    assert found.score > 5
    assert (found.likeliest, found.reproduced, found.steered) == (True, True, ())
    assert len(found.tokens) == len(found.sources) == len(turn.record.prompt_ids) + len(turn.record.reply_ids)


def test_gradients_pass_a_model_whose_weights_are_laid_out_anew(turn: RecordedTurn) -> None:
    """They are those of its own weights; logits of the reply come from the copies, as the turn's did."""
    runtimes = [steerkit.load("tiny", audit=False, prepack=wanted) for wanted in (False, True)]
    both = [ReplayedTurn.of(runtime, turn) for runtime in runtimes]
    found = []
    for replayed in both:
        with replayed.differentiated(len(replayed.prompt), lambda logits: logits.amax(dim=-1)) as gradients:
            found.append(gradients)
    plain, packed = found
    assert all(torch.equal(packed.gradients[layer], one) for layer, one in plain.gradients.items())
    assert all(float(one.abs().sum()) > 0 for one in plain.gradients.values())
    one, other = (replayed.reply_logits() for replayed in both)
    assert torch.allclose(one, other, atol=1e-3)
    assert not torch.equal(one, other)


def test_estimates_have_the_signs_of_real_ablations(found: Explanation) -> None:
    """What speaks for the call is missed when it is gone, what speaks against it is not."""
    for reasons, sign in ((found.reasons, 1), (found.opposing, -1)):
        effects = [sign * one.role.effect for one in reasons]
        assert len(effects) == 5
        assert effects == sorted(effects, reverse=True)
        assert min(effects) > 0
        assert all(sign * one.ablated.lost > 0 for one in reasons)


def test_random_features_do_less(found: Explanation) -> None:
    """Alone and together, ten features of the same layers that are active at the same tokens."""
    both = [*found.reasons, *found.opposing]
    random = [one.control_ablated.lost for one in both if one.control_ablated is not None]
    assert len(random) == len(both)
    assert all(one.control not in {other.feature for other in both} for one in both)
    assert sum(map(abs, random)) < 0.5 * sum(abs(one.ablated.lost) for one in both)
    assert len(found.controls) == 3
    assert all(len(one.features) == 5 and abs(one.lost) < 0.3 * found.without.lost for one in found.controls)


def test_enough_of_them_change_the_call(found: Explanation) -> None:
    """At some size the call is another one, as many random features leave it; no smaller set was enough."""
    turning = found.turning
    assert turning is not None
    number = found.growing.index(turning)
    assert not any(one.changes_call for one in found.growing[:number])
    assert "transfer_money" not in [call.name for call in turning.calls if isinstance(call, Call)]
    control = found.growing_controls[number]
    assert len(control.features) == len(turning.features)
    assert not control.changes_call


def test_estimates_are_those_of_attribution(box: Runtime, turn: RecordedTurn, found: Explanation) -> None:
    """The same sums, found by the batched pass without a cache; and a feature's tokens add up to it."""
    assert box.saes is not None
    choice, ids = found.choice, [*turn.record.prompt_ids, *turn.record.reply_ids]
    score = log_odds([choice.chosen], [choice.other])
    plain = attribute(box.loaded.model, box.saes, [ids], [choice.position], score)
    for layer, total in found.layers.items():
        assert total == pytest.approx(float(plain.layers[layer].sums.sum()), abs=1e-2)
    for one in (*found.reasons, *found.opposing):
        role, feature = one.role, one.feature
        assert role.effect == pytest.approx(float(plain.layers[feature.site].sums[0, feature.index]), abs=1e-3)
        assert sum(role.effects) == pytest.approx(role.effect, abs=1e-4)
        assert len(role.values) == choice.position + 1
        assert all(effect == 0 for value, effect in zip(role.values, role.effects, strict=True) if value == 0)


def test_the_last_layer_matters_at_the_choice_alone(found: Explanation) -> None:
    """Taken away at the choice it is as if it were gone everywhere; features of lower layers have acted before."""
    both = [*found.reasons, *found.opposing]
    last, lower = ([one for one in both if (one.feature.layer == 3) == wanted] for wanted in (True, False))
    assert last
    assert lower
    assert all(one.at_choice.lost == pytest.approx(one.ablated.lost, abs=1e-3) for one in last)
    assert any(abs(one.at_choice.lost - one.ablated.lost) > 0.1 for one in lower)


def test_what_attention_carried_adds_up(box: Runtime, turn: RecordedTurn, found: Explanation) -> None:
    """Over all tokens, with the encoder's bias, it is the feature; shares name the parts it came from."""
    replayed, score = ReplayedTurn.of(box, turn), log_odds([found.choice.chosen], [found.choice.other])
    with replayed.differentiated(found.choice.position, lambda logits: score(logits, [0])) as read:
        for one in (*found.reasons, *found.opposing):
            act = one.role.acts[0]
            carried = read.carried(one.feature, act.position)
            assert carried is not None
            bias = float(replayed.saes[one.feature.site].b_enc[one.feature.index])
            assert float(carried.sum()) + bias == pytest.approx(act.value, abs=1e-4)
            assert carried[act.position + 1 :].abs().sum() == 0
            assert 0.5 < sum(part.share for part in one.role.reads) <= 1.0001
            assert all(found.sources[part.position] == part.source for part in one.role.reads)


def test_an_argument_is_explained_where_it_was_closest(box: Runtime, turn: RecordedTurn) -> None:
    """Its choice is a token of the value, no delimiter, and what raises it reads the user's text."""
    found = explain(box, turn, Target(argument="to"), Extent(3, 1, ()))
    assert found.choice.what == "argument to"
    assert "".join(found.tokens).endswith("to:<escape>Lumes<escape>}<end_function_call><start_function_response>")
    assert found.chosen in ("L", "um", "es")
    assert found.reasons[0].role.effect > 0 < found.reasons[0].ablated.lost
    assert "user text" in {part.source for one in found.reasons for part in one.role.reads}
    for wrong, said in (("from", "expected one of: amount, to"), ("to.name", "is inside 'to'")):
        with pytest.raises(AuditError, match=said):
            explain(box, turn, Target(argument=wrong))


def test_a_choice_can_be_held_against_others(box: Runtime, turn: RecordedTurn) -> None:
    """Not calling, even of a call that was cut off; so too where no other tool is declared; a declared tool alone."""
    cut = changed(turn, reply_ids=turn.record.reply_ids[:5])
    calling = explain(box, cut, Target(calling=True), Extent(1, 1, ()))
    alone = explain(box, changed(turn, tools=turn.record.tools[1:2]), extent=Extent(1, 1, ()))
    assert calling.choice[:-1] == alone.choice[:-1]
    assert calling.score == pytest.approx(alone.score, abs=1e-3)
    assert (calling.choice.what, calling.chosen) == ("to call", "<start_function_call>")
    assert calling.choice.position == len(turn.record.prompt_ids) - 1
    with pytest.raises(AuditError, match="expected another declared tool: get_balance"):
        explain(box, turn, Target(against="transfer_money"))


def test_names_are_followed_through_shared_beginnings(box: Runtime) -> None:
    """Tokens that two names share decide nothing; the step is the one where they part."""
    tokenizer = box.loaded.tokenizer
    dialect, encode = dialect_of(tokenizer), lambda text: tokenizer.encode(text, add_special_tokens=False)
    reply = [dialect.call, *encode("call:abc{"), dialect.end_call]
    width = len(tokenizer)
    logits = torch.zeros(len(reply), width)
    for row, token in enumerate(reply):
        logits[row, token] = 9.0
    rival = next(token for token in encode("call:abd{") if token not in reply)
    parting = next(row for row, token in enumerate(reply) if encode("call:abd{")[row - 1 : row] != [token] and row)
    logits[parting, rival] = 8.0
    call = Call("abc", {}, span=Span(0, len(reply)))
    choice = tool_contrast(Written(tokenizer, tuple(reply), 0, logits), call, ["abc", "abd", "xyz"])
    assert choice is not None
    assert (choice.rival, choice.other, choice.position, choice.margin) == ("abd", rival, parting - 1, 1.0)
    assert tool_contrast(Written(tokenizer, tuple(reply), 0, logits), call, ["abc"]) is None


def steering(a: int = 389, b: int = 810, point: Point = "attn_out", **rule: Any) -> Policy:
    """A policy that pushes a few features, so that a call stays what it is and its score does not."""
    features = {"a": {**Site(3, point).content, "index": a}, "b": {**Site(1, point).content, "index": b}}
    edit = {"a": {"shift": 1.0}}
    steer = [{"name": "push", "where": "any", "edit": edit, **rule}]
    body: Mapping[str, Any] = {"steerkit": 1, "name": "push", "features": features, "steer": steer}
    return Policy.model_validate(body)


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"where": "call", "edit": {"b": {"shift": 1.0}}, "when": {"feature": "a", "above": -1.0}, "for": "turn"},
    ],
    ids=["at every token", "behind a gate that acts later"],
)
def test_a_steered_turn_is_explained_with_its_steering_on(box: Runtime, found: Explanation, rule: Any) -> None:
    """It says which rule acted; the score is the steered one, and no longer that of the turn without it."""
    turn = recorded(box, "dangerous", steering(**rule))
    assert [call.name for call in turn.record.calls] == ["transfer_money"]
    steered = explain(box, turn, extent=Extent(2, 1, ()))
    assert (steered.steered, steered.reproduced) == (("push/push",), True)
    assert steered.choice[:4] == found.choice[:4]
    assert steered.score == pytest.approx(steered.choice.margin, abs=1e-3)
    assert abs(steered.score - found.score) > 0.05
    assert all(one.role.effect * one.ablated.lost > 0 for one in (*steered.reasons, *steered.opposing))


def test_saes_on_the_other_side_of_o_proj_explain_as_well(box: Runtime) -> None:
    """What they read is what steering leaves there: signs agree, and the last layer matters at the choice alone."""
    other = Runtime(box.loaded, planted_saes(box.loaded.model, kind="gated", points=["attn_in"]), store=box.store)
    policy = steering(3, 3, "attn_in", edit={"b": {"shift": 0.3}})
    found = explain(other, recorded(other, "dangerous", policy), extent=Extent(3, 1, ()))
    assert found.steered == ("push/push",)
    both = [*found.reasons, *found.opposing]
    assert all(one.role.effect * one.ablated.lost > 0 for one in both)
    last = [one for one in both if one.feature.layer == 3]
    assert last
    assert all(one.at_choice.lost == pytest.approx(one.ablated.lost, abs=1e-3) for one in last)
    assert all(one.role.reads for one in both)


def test_what_stands_where_is_said_in_words(box: Runtime) -> None:
    """Each declaration, the user, an earlier reply and the result by its tool's name; the rest is the frame."""
    record = recorded(box, "injected").record
    named = sources(box.loaded.tokenizer, record.prompt_ids, record.reply_ids)
    parts = ["declaration of transfer_money", "declaration of read_email", "user text", "earlier reply"]
    assert list(dict.fromkeys(one for one in named if one not in (FRAME, "developer text"))) == [
        *parts,
        "result of read_email",
        REPLY,
    ]
    assert named.count(REPLY) == len(record.reply_ids)


def test_what_cannot_be_explained_is_refused_in_a_line(box: Runtime, turn: RecordedTurn) -> None:
    """Another model or other SAEs, a call that is not there, none at all, a malformed one, a model without SAEs."""
    other = {"name": "x", "fingerprint": "sha256:0"}
    cut = changed(turn, reply_ids=turn.record.reply_ids[:5])
    for given, target, said in (
        (changed(turn, model=replace(turn.record.model, fingerprint="sha256:0")), Target(), "model.fingerprint was"),
        (changed(turn, saes=other), Target(), "saes.fingerprint was sha256:0 and is now"),
        (turn, Target(call=1), "--call: got 1, expected 0 to 0"),
        (changed(turn, reply_ids=turn.record.reply_ids[-1:]), Target(), "made no call"),
        (cut, Target(), "call 0 is malformed .* --no-call"),
    ):
        with pytest.raises(AuditError, match=said):
            explain(box, given, target)
    with pytest.raises(SaeError, match="brings no SAEs"):
        explain(Runtime(box.loaded), turn)


def test_a_redacted_record_is_refused(box: Runtime) -> None:
    """Its arguments are gone, and one line says so; before, it is read."""
    turn = recorded(box, "benign")
    assert box.store is not None
    redact(box.store, box.store.get(turn.id), bytes(32), ["calls"])
    with pytest.raises(AuditError, match="its calls were redacted"):
        read_turn(box.store, box.store.get(turn.id))


def test_an_ablation_sets_features_to_zero(box: Runtime, turn: RecordedTurn, found: Explanation) -> None:
    """A set of none changes nothing; a feature that is nowhere active neither; the first reason does."""
    replayed, position = ReplayedTurn.of(box, turn), found.choice.position
    role = found.reasons[0].role
    silent = next(index for index in range(819) if Feature(3, index) not in _active(replayed, position))
    for everywhere in (True, False):
        plain, same, less = replayed.ablated(
            [[], [Feature(3, silent)], [role.feature]], position, everywhere=everywhere
        )
        assert torch.allclose(plain, replayed.reply_logits()[position + 1 - len(replayed.prompt)], atol=1e-3)
        assert torch.equal(plain, same)
        assert not torch.allclose(plain, less, atol=0.1)


def _active(replayed: ReplayedTurn, position: int) -> set[Feature]:
    """The features of layer 3 that are active anywhere up to a step."""
    with replayed.differentiated(position, lambda logits: logits[:, 0]) as read:
        values = replayed.saes[3].encode(read.activations[3])
    return {Feature(3, index) for index in (values > 0).any(dim=0).nonzero().squeeze(-1).tolist()}
