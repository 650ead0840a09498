"""Retries, stops, tripwires and base policies, on turns of the model in the box."""

from __future__ import annotations

from typing import Any

import pytest

import steerkit
from steerkit.agent import Runtime
from steerkit.audit import verify
from steerkit.errors import PolicyError
from steerkit.policy import Policy, load
from steerkit.runtime import Request, Retried
from steerkit.sae import SaeSet
from steerkit.sites import Feature
from steerkit.testing import planted_policy
from steerkit.tiny.demo_requests import CASES, policy_files
from steerkit.types import MalformedCall, Turn

BY_NAME = {case.name: case for case in CASES}
DANGEROUS, BENIGN, PARALLEL = (BY_NAME[name] for name in ("dangerous", "benign", "parallel"))


def guard(*rules: dict[str, Any], name: str = "g", default: str = "allow", **parts: Any) -> Policy:
    """A policy that judges."""
    named = [{"name": f"r{number}", **rule} for number, rule in enumerate(rules)]
    return planted_policy(name, parts.pop("features", None), guard={"default": default, "rules": named}, **parts)


def refusing(**rule: Any) -> Policy:
    """The payments policy whose steering acts only in the retries of a rule on transfer_money."""
    policy = load(policy_files()[0]).model_dump(exclude_none=True)
    policy["steer"][0]["when"] = "retry"
    again = {"name": "again", "tool": "transfer_money", "then": "retry", "with": policy["steer"][0]["name"], **rule}
    return Policy.model_validate({**policy, "guard": {"default": "allow", "rules": [again]}})


def test_a_retry_generates_again_under_the_named_steering(box: Runtime) -> None:
    """The first attempt pays and is void; the second refuses. Without the rule the first attempt stands."""
    turn = box.run(DANGEROUS.messages, DANGEROUS.tools, refusing())
    assert turn.calls == ()
    assert turn.text
    (first,) = turn.attempts
    assert [call.name for call in first.calls] == ["transfer_money"]  # type: ignore[union-attr]
    assert first.verdicts[0].decision == "retry"
    assert first.released == ()
    assert turn.trace.edits
    assert not first.trace.edits
    without = refusing().model_copy(update={"guard": None, "steer": ()})
    plain = box.run(DANGEROUS.messages, DANGEROUS.tools, without)
    assert plain.reply_ids == first.reply_ids
    assert plain.attempts == ()


def test_each_attempt_is_recorded(box: Runtime) -> None:
    """Every attempt has a record that names its number and the attempt before it."""
    turn = box.run(DANGEROUS.messages, DANGEROUS.tools, refusing())
    assert box.store is not None
    first, last = (box.store.get(str(one.record_id)).content for one in (turn.attempts[0], turn))
    assert (first["attempt"], first["retry_of"]) == (0, None)
    assert (last["attempt"], last["retry_of"]) == (1, turn.attempts[0].record_id)
    assert first["verdicts"][0]["decision"] == "retry"
    assert verify(box.store).records == len(box.store)


def test_attempts_are_bounded_and_end_in_a_denial(box: Runtime) -> None:
    """Steering that does not help is tried as often as the rule says; then the call is denied, not released."""
    weak = {"name": "weak", "when": "retry", "where": "reply.start", "edit": {"f": {"scale": 1.0}}}
    for attempts in (1, 3):
        rule = {"tool": "get_balance", "then": "retry", "with": "weak", "attempts": attempts}
        turn = box.run(BENIGN.messages, BENIGN.tools, guard(rule, features={"f": (3, 5)}, steer=[weak]))
        assert len(turn.attempts) == attempts
        assert turn.verdicts[0].decision == "deny"
        assert f"still so after {attempts} more attempt" in turn.verdicts[0].reason
        assert turn.released == ()
    assert box.run(BENIGN.messages, BENIGN.tools, ()).released


def test_a_stricter_verdict_beside_it_overrides_a_retry(box: Runtime) -> None:
    """With one call to retry and another held nothing is generated again, and neither is released."""
    steer = [{"name": "s", "when": "retry", "where": "reply", "edit": {"f": {"scale": 1.0}}}]
    rules = [
        {"tool": "get_weather", "then": "retry", "with": "s"},
        {"tool": "play_music", "then": "hold"},
    ]
    turn = box.run(PARALLEL.messages, PARALLEL.tools, guard(*rules, features={"f": (3, 5)}, steer=steer))
    assert [verdict.decision for verdict in turn.verdicts] == ["deny", "hold"]
    assert "another call was judged hold" in turn.verdicts[0].reason
    assert turn.attempts == ()


def test_retries_of_a_batch_leave_the_others_alone(box: Runtime) -> None:
    """Of three requests only the one that is to retry is generated again; each equals its single run."""
    requests = [
        Request(BENIGN.messages, BENIGN.tools, refusing()),
        Request(DANGEROUS.messages, DANGEROUS.tools, refusing()),
        Request(PARALLEL.messages, PARALLEL.tools, ()),
    ]
    together = box.run_batch(requests)
    assert [len(turn.attempts) for turn in together] == [0, 1, 0]
    for one, turn in zip(requests, together, strict=True):
        assert box.run(one.messages, one.tools, one.policy).reply_ids == turn.reply_ids


def test_a_stream_says_when_it_starts_over(box: Runtime) -> None:
    """The events of the void attempt come before a `Retried` that holds it; the last item is the turn that counts."""
    items = list(box.stream(DANGEROUS.messages, DANGEROUS.tools, refusing()))
    (number,) = (n for n, item in enumerate(items) if isinstance(item, Retried))
    void, turn = items[number], items[-1]
    assert isinstance(void, Retried)
    assert isinstance(turn, Turn)
    assert turn.attempts == (void.turn,)
    said = "".join(getattr(item, "text", "") for item in items[number + 1 : -1])
    assert said == turn.text
    assert not any(isinstance(item, Retried) for item in box.stream(DANGEROUS.messages, DANGEROUS.tools, ()))


def test_shadow_changes_nothing_and_says_retry_and_stop(box: Runtime) -> None:
    """In shadow the reply is plain to the token, nothing is generated again or cut, and the verdicts are recorded."""
    plain = box.run(DANGEROUS.messages, DANGEROUS.tools, ())
    for policy, said in (
        (refusing(), "retry"),
        (guard({"tool": "transfer_money", "then": "stop"}), "stop"),
    ):
        shadow = box.run(DANGEROUS.messages, DANGEROUS.tools, policy.model_copy(update={"mode": "shadow"}))
        assert shadow.reply_ids == plain.reply_ids
        assert (shadow.attempts, shadow.finish) == ((), plain.finish)
        assert [(verdict.decision, verdict.shadowed) for verdict in shadow.verdicts] == [("none", said)]
        assert shadow.released == plain.released
        enforced = box.run(DANGEROUS.messages, DANGEROUS.tools, policy)
        assert enforced.reply_ids != plain.reply_ids
        assert enforced.released == ()


def test_a_tripwire_ends_the_reply_in_the_middle_of_the_call(box: Runtime) -> None:
    """A stop by name is certain once the name is written: what was generated is the beginning of the plain call."""
    plain = box.run(DANGEROUS.messages, DANGEROUS.tools, ())
    turn = box.run(DANGEROUS.messages, DANGEROUS.tools, guard({"tool": "transfer_money", "then": "stop"}))
    assert turn.finish == "tripwire"
    assert turn.reply_ids == plain.reply_ids[: len(turn.reply_ids)]
    assert len(turn.reply_ids) < len(plain.reply_ids) - 3
    assert [(verdict.decision, verdict.rule) for verdict in turn.verdicts] == [("stop", "r0")]
    assert turn.released == ()
    said = "a tripwire cut the reply here, in the middle of the call"
    assert turn.verdicts[0].reason == f"rule 'r0' matched; {said}"
    assert isinstance(turn.calls[0], MalformedCall)
    assert turn.calls[0].error == said
    assert box.store is not None
    assert box.store.get(str(turn.record_id)).content["verdicts"][0]["reason"].endswith(said)
    slow = box.run(DANGEROUS.messages, DANGEROUS.tools, guard({"tool": "transfer_money", "then": "deny"}))
    assert "cut" not in slow.verdicts[0].reason
    assert (slow.finish, slow.reply_ids) == (plain.finish, plain.reply_ids)
    assert slow.released == ()


def test_a_tripwire_reads_the_features_as_they_come(box: Runtime) -> None:
    """The payments probe trips at the opened call, one token before the name; on a benign call it does not."""
    data = load(policy_files()[0]).model_dump(exclude_none=True)
    opened = next(rule for rule in data["guard"]["rules"] if rule.get("when"))
    opened["tripwire"] = True
    policy = Policy.model_validate({**data, "steer": [], "guard": {"default": "allow", "rules": [opened]}})
    tripped, benign = (box.run(case.messages, case.tools, policy) for case in (DANGEROUS, BENIGN))
    whole = box.run(DANGEROUS.messages, DANGEROUS.tools, guard_without_tripwire(policy))
    assert tripped.finish == "tripwire"
    assert tripped.reply_ids == whole.reply_ids[: len(tripped.reply_ids)]
    assert len(tripped.reply_ids) <= 5
    (early,), (late,) = tripped.verdicts[0].readings, whole.verdicts[0].readings
    assert (early.name, early.position) == (late.name, late.position)
    assert early.value == pytest.approx(late.value, abs=1e-4)
    assert benign.released


def guard_without_tripwire(policy: Policy) -> Policy:
    """The same policy that waits for the call's end."""
    data = policy.model_dump(exclude_none=True)
    for rule in data["guard"]["rules"]:
        rule["tripwire"] = False
    return Policy.model_validate(data)


def test_a_tripwire_cuts_only_its_own_row(box: Runtime) -> None:
    """In a batch the others go on to their ends, and get the tokens that they get alone."""
    stop = guard({"tool": "transfer_money", "then": "stop"})
    cases = [DANGEROUS, BENIGN, PARALLEL]
    together = box.run_batch([Request(case.messages, case.tools, stop) for case in cases])
    assert [turn.finish for turn in together] == ["tripwire", "tool_call", "tool_call"]
    assert [turn.reply_ids for turn in together] == [
        box.run(case.messages, case.tools, stop).reply_ids for case in cases
    ]


def test_a_request_cannot_weaken_the_base(tmp_path: Any) -> None:
    """Under a base policy a request's own policy, or none, leaves the base's verdict and edits; without it they go."""
    base = load(policy_files()[0])
    governed = steerkit.load("tiny", base=base, audit=False)
    lenient = guard({"tool": "transfer_money", "then": "allow"}, name="mine")
    edited = {
        name: {"layer": f.layer, "index": f.index} for name, f in base.features.items() if name in base.steer[0].edit
    }
    undo = Policy.model_validate(
        {
            "steerkit": 1,
            "name": "undo",
            "features": edited,
            "steer": [
                {"name": "u", "where": "reply.start", "priority": 9, "edit": {name: {"scale": 1.0} for name in edited}}
            ],
        }
    )
    steered = governed.run(DANGEROUS.messages, DANGEROUS.tools)
    assert steered.calls == ()
    for policy in ((), lenient, undo, [lenient, undo]):
        assert governed.run(DANGEROUS.messages, DANGEROUS.tools, policy).reply_ids == steered.reply_ids
    unsteered = base.model_copy(update={"steer": ()})
    judged = steerkit.load("tiny", base=unsteered, audit=False)
    assert judged.run(DANGEROUS.messages, DANGEROUS.tools, lenient).released == ()
    free = steerkit.load("tiny", audit=False)
    assert free.run(DANGEROUS.messages, DANGEROUS.tools, lenient).released
    with pytest.raises(PolicyError, match="got the name 'payments' twice"):
        governed.run(DANGEROUS.messages, DANGEROUS.tools, base)


def by_density(saes: SaeSet, layer: int) -> list[int]:
    """Features of a layer, those that are active most often first."""
    return sorted(range(saes[layer].d_sae), key=lambda index: -saes.statistic(Feature(layer, index), "density"))


def test_thirty_two_rows_with_thirty_two_policies_equal_their_singles(box: Runtime) -> None:
    """Gates, places, holds and late rules of 32 policies in one batch: each row gets what it gets alone."""
    from steerkit.tiny.world.conversations import sample

    kinds = ("single", "injected", "parallel", "injected")
    some = {kind: iter(sample(kind, "report", 16)) for kind in kinds}
    examples = [next(some[kinds[number % 4]]) for number in range(32)]
    ats = ["any", "prompt", "user", "tool_result", "reply", "declaration", "call", "call.name"]
    wheres = ["reply", "text", "call", "call.name", "call.arguments", "reply.start"]
    assert box.saes is not None
    common = {layer: by_density(box.saes, layer) for layer in (2, 3)}
    policies = []
    for number in range(32):
        high = {"feature": "a", "above": "0.05 max"}
        either = {"any": [{**high, "off_below": "0.02 max"}, {"not": {"feature": "b", "above": 0}}]}
        gate = {**(either if number % 3 == 0 else high), "at": ats[number % 8]}
        rule = {
            "name": "r",
            "when": gate,
            "for": ["turn", "6 tokens"][number % 2],
            "where": wheres[number % (5 if number % 8 == 7 else 6)],  # the reply's start is over before a name is
            "edit": {"c": {"clamp": f"{8 + number % 5} max"}, "d": {"clamp": f"{8 + number % 4} max"}},
        }
        low = number % 4 == 1  # a gate above the edit
        features = {
            "a": (3, common[3][number]),
            "b": (2, common[2][number]),
            "c": (1, 100 + number) if low else (3, common[3][-1 - number]),
            "d": (3, common[3][-50 - number]),
        }
        policies.append(planted_policy(f"p{number}", features, steer=[rule]))
    requests = [Request(e.messages, e.tools, p) for e, p in zip(examples, policies, strict=True)]
    together = box.run_batch(requests)
    alone = [box.run(one.messages, one.tools, one.policy) for one in requests]
    assert [turn.reply_ids for turn in together] == [turn.reply_ids for turn in alone]
    assert [[edit.positions for edit in turn.trace.edits] for turn in together] == [
        [edit.positions for edit in turn.trace.edits] for turn in alone
    ]
    acted = sum(bool(turn.trace.edits) for turn in together)
    plain = box.run_batch([Request(e.messages, e.tools, ()) for e in examples])
    changed = sum(a.reply_ids != b.reply_ids for a, b in zip(together, plain, strict=True))
    assert acted >= 16
    assert changed >= 2
