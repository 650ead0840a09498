"""Verdicts: what is always denied, which rule decides, and what happens when evidence is missing."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from steerkit.guard import certain, is_tripwire, needs, review
from steerkit.policy import Policy
from steerkit.types import Call, CallLike, MalformedCall, Messages, Span, Tool, Trace, Turn, Verdict

PAY = Tool("pay", "", {"type": "object", "properties": {"amount": {"type": "integer"}}, "required": ["amount"]})
CALL = Call("pay", {"amount": 50}, Span(10, 20), Span(13, 15))
PLACES = {
    "any": (Span(0, 21),),
    "prompt": (Span(0, 10),),
    "user": (Span(2, 5),),
    "reply": (Span(9, 21),),
    "reply.start": (Span(9, 10),),
    "call": (Span(10, 19),),
    "call.open": (Span(12, 13),),
    "call.name": (Span(12, 15),),
    "call.arguments": (Span(15, 18),),
    "call.arguments.amount": (Span(16, 18),),
}
"""Where the steps of a 10-token prompt and a 12-token reply stand, which begins with `CALL`."""


def policy(*rules: dict[str, Any], default: str = "allow", name: str = "p", **parts: Any) -> Policy:
    """A policy with a guard over two features and a probe."""
    features = {"f": {"layer": 0, "index": 1}}
    probes = {"risk": {"weights": {"f": 1.0}}}
    guard = {"default": default, "rules": [{"name": f"rule{n}", **rule} for n, rule in enumerate(rules)]}
    return Policy.model_validate(
        {"steerkit": 1, "name": name, "features": features, "probes": probes, "guard": guard, **parts}
    )


def judge(
    *policies: Policy,
    call: CallLike = CALL,
    watched: dict[str, tuple[float, ...]] | None = None,
    messages: Messages = (),
) -> Verdict:
    """The verdict on one call of a 10-token prompt and a 12-token reply."""
    trace = Trace(watched=watched or {}, places=PLACES)
    (verdict,) = review([call], tools=[PAY], trace=trace, policies=policies, messages=messages)
    return verdict


def test_built_in_checks_come_first_and_in_shadow_too() -> None:
    """Malformed, undeclared and ill-typed calls are denied whatever a policy allows; the good call is not."""
    lenient = policy({"then": "allow"}), policy({"then": "allow"}, mode="shadow", name="s")
    cases: dict[str, CallLike] = {
        "malformed_call": MalformedCall("got x", 3, "raw"),
        "unknown_tool": Call("steal", {}),
        "invalid_arguments": Call("pay", {"amount": "50"}),
    }
    for rule, call in cases.items():
        verdict = judge(*lenient, call=call)
        assert (verdict.decision, verdict.rule) == ("deny", rule)
    assert judge(*lenient).decision == "allow"


def test_the_strictest_decision_wins_in_any_order() -> None:
    """Stop over deny over hold over flag over allow, over rules and policies however they are ordered."""
    order = ["allow", "flag", "hold", "deny", "stop"]
    for first, second, third in itertools.permutations(order, 3):
        strictest = max((first, second, third), key=order.index)
        assert judge(policy({"then": first}, {"then": second}, {"then": third})).decision == strictest
        split = [policy({"then": then}, name=then) for then in (first, second, third)]
        assert judge(*split).decision == strictest


def test_every_rule_that_matches_is_named() -> None:
    """Whichever decided, in shadow too; one that did not match is not, and verdicts are equal without regard to it."""
    first = policy({"then": "flag"}, {"tool": "other", "then": "deny"}, {"then": "hold"})
    second = policy({"then": "deny"}, name="q")
    shadow = policy({"then": "stop"}, name="s", mode="shadow")
    verdict = judge(first, second, shadow)
    assert verdict.matched == ("p/rule0", "p/rule2", "q/rule0", "s/rule0")
    assert verdict.rule == "rule0"
    assert judge(policy({"tool": "other", "then": "deny"})).matched == ()
    assert verdict == replace(verdict, matched=())


def test_of_equal_decisions_the_first_is_named() -> None:
    """The rule that stands first in the file is the one in the verdict."""
    verdict = judge(policy({"then": "hold", "reason": "one"}, {"then": "hold", "reason": "two"}))
    assert (verdict.rule, verdict.reason, verdict.policy) == ("rule0", "one", "p")


def test_the_default_counts_only_where_no_rule_matches() -> None:
    """A matching allow rule beats the policy's own default; without it the default decides."""
    assert judge(policy({"tool": "pay", "then": "allow"}, default="deny")).decision == "allow"
    verdict = judge(policy({"tool": "other", "then": "allow"}, default="deny"))
    assert (verdict.decision, verdict.rule) == ("deny", "default")


def test_tools_match_by_their_whole_name() -> None:
    """A prefix is no match; the exact name and the star are."""
    assert judge(policy({"tool": "pa", "then": "deny"})).rule == "default"
    assert judge(policy({"tool": "pay", "then": "deny"})).decision == "deny"
    assert judge(policy({"tool": "*", "then": "deny"})).decision == "deny"


def test_arguments_match_by_schema() -> None:
    """The rule matches where the arguments satisfy its schema, and only there."""
    rule = {"arguments": {"properties": {"amount": {"exclusiveMinimum": 100}}}, "then": "hold"}
    assert judge(policy(rule)).decision == "allow"
    assert judge(policy(rule), call=Call("pay", {"amount": 101})).decision == "hold"


@pytest.mark.parametrize("name", ["f", "risk"])
def test_evidence_is_the_largest_value_at_a_place(name: str) -> None:
    """Above the bound at the place the rule matches; at the bound, or elsewhere, it does not."""
    kind = "feature" if name == "f" else "probe"
    rule = {"when": {kind: name, "above": 1.0, "at": "call.open"}, "then": "deny"}
    values = [0.0] * 21
    for position, value, expected in ((12, 1.5, "deny"), (12, 1.0, "allow"), (11, 9.0, "allow"), (13, 9.0, "allow")):
        seen = list(values)
        seen[position] = value
        verdict = judge(policy(rule), watched={f"p.{name}": tuple(seen)})
        assert verdict.decision == expected
        if expected == "deny":
            (reading,) = verdict.readings
            assert (reading.name, reading.value, reading.threshold, reading.position) == (name, 1.5, 1.0, 12)


def test_below_is_the_right_way_round() -> None:
    """`below` holds when even the largest value stays under the bound."""
    rule = {"when": {"feature": "f", "below": 1.0, "at": "any"}, "then": "deny"}
    assert judge(policy(rule), watched={"p.f": (0.5,) * 21}).decision == "deny"
    assert judge(policy(rule), watched={"p.f": (0.5,) * 20 + (2.0,)}).decision == "allow"


def test_missing_evidence_fails_closed() -> None:
    """Not traced, or not a number: a restricting rule denies and says why, an allowing rule is void."""
    strict = policy({"when": {"feature": "f", "above": 1.0}, "then": "flag"})
    for watched in ({}, {"p.f": ()}, {"p.f": (float("nan"),) * 21}):
        verdict = judge(strict, watched=watched)
        assert verdict.decision == "deny"
        assert "cannot be decided" in verdict.reason
    assert judge(strict, watched={"p.f": (0.0,) * 21}).decision == "allow"
    lenient = policy({"when": {"feature": "f", "above": 1.0}, "then": "allow"}, default="hold")
    assert judge(lenient).decision == "hold"
    assert judge(lenient, watched={"p.f": (2.0,) * 21}).decision == "allow"


def test_shadow_says_what_it_would_have_done() -> None:
    """A shadow policy decides nothing; the verdict carries what it would have been."""
    shadow = policy({"then": "deny"}, mode="shadow", name="s")
    alone, beside = judge(shadow), judge(policy({"then": "flag"}), shadow)
    assert (alone.decision, alone.shadowed) == ("none", "deny")
    assert (beside.decision, beside.shadowed) == ("flag", "deny")
    assert judge(policy({"then": "flag"})).shadowed is None


def test_no_guard_is_said_as_none() -> None:
    """Without a guard the verdict is `none`, never `allow`."""
    assert judge().decision == "none"
    assert judge(Policy(steerkit=1, name="x")).rule == "none"


def test_only_some_calls_are_released() -> None:
    """Allowed, flagged and unguarded calls may run; held, denied and malformed ones may not."""
    verdicts = [Verdict(d, "r", "") for d in ("allow", "flag", "none", "hold", "deny")]  # type: ignore[arg-type]
    calls = tuple(Call(verdict.decision, {}) for verdict in verdicts)
    turn = Turn("", calls, tuple(verdicts), Trace(), (1,), (2,), "stop")
    assert [call.name for call in turn.released] == ["allow", "flag", "none"]
    broken = Turn("", (MalformedCall("e", 0, ""),), (Verdict("allow", "r", ""),), Trace(), (1,), (2,), "stop")
    assert broken.released == ()


def test_the_guard_says_what_it_needs_to_see() -> None:
    """Features and probes of its rules, each once."""
    rules = [
        {"when": {"feature": "f", "above": 1}, "then": "deny"},
        {"when": {"probe": "risk", "above": 1}, "then": "flag"},
    ]
    assert needs(policy(*rules, rules[0])) == ("f", "risk")


@pytest.mark.parametrize("place", PLACES)
def test_a_value_counts_at_its_place_alone(place: Any) -> None:
    """At every place: a large value on its first or last step decides, on the step beside it it does not."""
    strict = policy({"when": {"feature": "f", "above": 1.0, "at": place}, "then": "deny"})
    steps = range(*PLACES[place][0])

    def with_peak_at(step: int) -> str:
        values = [0.0] * 21
        values[step] = 9.0
        return judge(strict, watched={"p.f": tuple(values)}).decision

    assert with_peak_at(steps[0]) == with_peak_at(steps[-1]) == "deny"
    beside = [step for step in (steps[0] - 1, steps[-1] + 1) if 0 <= step < 21]
    assert [with_peak_at(step) for step in beside] == ["allow"] * len(beside)


def test_both_bounds_are_strict() -> None:
    """Between `above` and `below` the rule matches, on either bound it does not."""
    strict = policy({"when": {"feature": "f", "above": 1.0, "below": 2.0}, "then": "deny"})
    for value, expected in ((1.0, "allow"), (1.5, "deny"), (2.0, "allow"), (3.0, "allow"), (float("inf"), "allow")):
        assert judge(strict, watched={"p.f": (0.0,) * 20 + (value,)}).decision == expected


def test_every_criterion_must_hold() -> None:
    """Tool, arguments and evidence together: with any one of them off the rule does not match."""
    over = {"properties": {"amount": {"exclusiveMinimum": 10}}}
    rule = {"tool": "pay", "arguments": over, "when": {"feature": "f", "above": 1.0}, "then": "deny"}
    high, low = {"p.f": (2.0,) * 21}, {"p.f": (0.0,) * 21}
    small = Call("pay", {"amount": 5}, CALL.span, CALL.name_span)
    assert judge(policy(rule), watched=high).decision == "deny"
    assert judge(policy(rule), watched=low).decision == "allow"
    assert judge(policy(rule), watched=high, call=small).decision == "allow"
    assert judge(policy({**rule, "tool": "get"}), watched=high).decision == "allow"


def test_evidence_of_a_part_of_the_place_is_missing_evidence() -> None:
    """Where some of the place's tokens were not read, the largest value is not known; read in full, it is."""
    strict = policy({"when": {"feature": "f", "above": 1.0, "at": "reply"}, "then": "flag"})
    for start, count, expected in ((9, 12, "allow"), (9, 11, "deny"), (10, 11, "deny"), (0, 21, "allow")):
        trace = Trace(start=start, watched={"p.f": (0.0,) * count}, places=PLACES)
        (verdict,) = review([CALL], tools=[PAY], trace=trace, policies=[strict])
        assert verdict.decision == expected
    placed_nowhere = Call("pay", {"amount": 50})
    at_call = policy({"when": {"feature": "f", "above": 1.0, "at": "call.open"}, "then": "flag"})
    assert judge(at_call, watched={"p.f": (0.0,) * 21}, call=placed_nowhere).decision == "deny"
    assert judge(at_call, watched={"p.f": (0.0,) * 21}).decision == "allow"


UNDECIDABLE = {
    "reference to nothing": ({"$ref": "#/nope"}, 50),
    "reference to the network": ({"$ref": "http://127.0.0.1:9/schema.json"}, 50),
    "reference in a circle": ({"$ref": "#"}, 50),
}


@pytest.mark.parametrize("case", UNDECIDABLE)
def test_a_schema_that_cannot_be_applied_fails_closed(case: str) -> None:
    """The model's arguments never raise through the guard: a restricting rule denies, an allowing one is void."""
    schema, amount = UNDECIDABLE[case]
    call = Call("pay", {"amount": amount}, CALL.span, CALL.name_span)
    verdict = judge(policy({"arguments": schema, "then": "flag"}), call=call)
    assert (verdict.decision, verdict.rule) == ("deny", "rule0")
    assert "rule 'rule0' cannot be decided: its schema cannot be checked" in verdict.reason
    assert judge(policy({"arguments": schema, "then": "allow"}, default="hold"), call=call).decision == "hold"
    assert judge(policy({"arguments": {}, "then": "flag"}), call=call).decision == "flag"


def test_a_tools_own_schema_that_cannot_be_applied_denies() -> None:
    """Arguments that cannot be checked against the tool are invalid arguments, whatever a policy allows."""
    tool = Tool("pay", "", {"type": "object", "properties": {"amount": {"type": "integer", "multipleOf": 0.5}}})

    def verdict(amount: int) -> Verdict:
        call = Call("pay", {"amount": amount})
        return review([call], tools=[tool], trace=Trace(), policies=[policy({"then": "allow"})])[0]

    assert (verdict(10**5000).decision, verdict(10**5000).rule) == ("deny", "invalid_arguments")
    assert verdict(10**400).decision == "allow"


def test_each_call_has_its_own_verdict_in_order() -> None:
    """Parallel calls are judged one by one; one that is denied takes no other with it."""
    calls = [CALL, MalformedCall("got x", 3, "raw"), Call("pay", {"amount": 500}), Call("steal", {})]
    over = policy({"arguments": {"properties": {"amount": {"exclusiveMinimum": 100}}}, "then": "hold"})
    verdicts = review(calls, tools=[PAY], trace=Trace(), policies=[over])
    assert [verdict.decision for verdict in verdicts] == ["allow", "deny", "hold", "deny"]
    assert review([], tools=[PAY], trace=Trace(), policies=[over]) == ()


def test_shadow_never_loosens_or_tightens() -> None:
    """For every pair of decisions the enforced one stands, and what is shadowed is the stricter of the two."""
    order = ["allow", "flag", "hold", "deny"]
    for enforced, shadowed in itertools.product(order, order):
        pair = [policy({"then": enforced}), policy({"then": shadowed}, mode="shadow", name="s")]
        for policies in (pair, pair[::-1]):
            verdict = judge(*policies)
            assert (verdict.decision, verdict.policy) == (enforced, "p")
            assert verdict.shadowed == max(enforced, shadowed, key=order.index)


def test_readings_come_from_the_policys_own_features() -> None:
    """Two policies that use one name are each judged by their own values."""
    first, second = (policy({"when": {"feature": "f", "above": 1.0}, "then": "deny"}, name=name) for name in ("a", "b"))
    high, low = (2.0,) * 21, (0.0,) * 21
    assert judge(first, second, watched={"a.f": low, "b.f": high}).policy == "b"
    assert judge(first, second, watched={"a.f": high, "b.f": low}).policy == "a"
    assert judge(first, second, watched={"a.f": low, "b.f": low}).decision == "allow"


def test_stop_is_the_strictest_and_retry_stands_between_flag_and_hold() -> None:
    """Retry overrides flag and yields to hold; a retry rule names its steering."""
    steer = [{"name": "calm", "when": "retry", "where": "reply", "edit": {"f": {"ablate": True}}}]
    again = {"then": "retry", "with": "calm"}
    assert judge(policy(again, {"then": "flag"}, steer=steer)).decision == "retry"
    assert judge(policy(again, {"then": "hold"}, steer=steer)).decision == "hold"
    assert judge(policy({"then": "stop"}, {"then": "deny"})).decision == "stop"


def test_invalid_arguments_can_stop_the_run() -> None:
    """A rule on invalid arguments can make the built-in denial a stop; on valid ones it does not match."""
    strict = policy({"when": "invalid_arguments", "then": "stop"})
    assert judge(strict, call=Call("pay", {"amount": "50"})).decision == "stop"
    assert judge(strict).decision == "allow"
    assert judge(policy(), call=Call("pay", {"amount": "50"})).decision == "deny"


READ = [
    {"role": "user", "content": "x"},
    {"role": "assistant", "tool_calls": [{"id": "7", "function": {"name": "read", "arguments": {"n": 3}}}]},
    {"role": "tool", "tool_call_id": "7", "content": {"secret": True}},
]


def test_a_sequence_is_read_from_the_conversation() -> None:
    """`after` matches once the call was made, as its arguments and result say; `without` matches until then."""
    after = policy({"after": {"tool": "read"}, "then": "flag"})
    assert (judge(after).decision, judge(after, messages=READ).decision) == ("allow", "flag")
    without = policy({"without": {"tool": "read"}, "then": "deny"})
    assert (judge(without).decision, judge(without, messages=READ).decision) == ("deny", "allow")
    for earlier, expected in (
        ({"tool": "other"}, "allow"),
        ({"tool": "*"}, "flag"),
        ({"tool": "read", "arguments": {"properties": {"n": {"const": 3}}}}, "flag"),
        ({"tool": "read", "arguments": {"properties": {"n": {"const": 4}}}}, "allow"),
        ({"tool": "read", "result": {"properties": {"secret": {"const": True}}}}, "flag"),
        ({"tool": "read", "result": {"properties": {"secret": {"const": False}}}}, "allow"),
    ):
        assert judge(policy({"after": earlier, "then": "flag"}), messages=READ).decision == expected
    unanswered = READ[:2]
    assert judge(policy({"after": {"tool": "read", "result": {}}, "then": "flag"}), messages=unanswered).decision == (
        "allow"
    )


def test_a_call_before_it_in_the_same_reply_counts() -> None:
    """Of two parallel calls the second comes after the first, and not the other way round."""
    rule = policy({"tool": "pay", "after": {"tool": "pay"}, "then": "flag"})
    verdicts = review([CALL, CALL], tools=[PAY], trace=Trace(places=PLACES), policies=[rule])
    assert [verdict.decision for verdict in verdicts] == ["allow", "flag"]


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ({"all": [{"feature": "f", "above": 1}, {"probe": "risk", "above": 1}]}, "deny"),
        ({"all": [{"feature": "f", "above": 1}, {"probe": "risk", "above": 9}]}, "allow"),
        ({"any": [{"feature": "f", "above": 9}, {"probe": "risk", "above": 1}]}, "deny"),
        ({"any": [{"feature": "f", "above": 9}, {"probe": "risk", "above": 9}]}, "allow"),
        ({"not": {"feature": "f", "above": 9}}, "deny"),
        ({"not": {"feature": "f", "above": 1}}, "allow"),
        ({"not": {"not": {"feature": "f", "above": 1}}}, "deny"),
        ({"all": [{"feature": "f", "above": 1, "at": "user"}], "at": "reply"}, "allow"),
        ({"all": [{"feature": "f", "above": 1}], "at": "reply"}, "deny"),
        ({"feature": "f", "above": 1, "mean_over": 2}, "deny"),
        ({"feature": "f", "above": 1.6, "mean_over": 2}, "allow"),
        ({"feature": "f", "above": 1.6}, "deny"),
        ({"feature": "f", "above": 1, "at": "tool_result"}, "allow"),
        ({"not": {"feature": "f", "above": 1, "at": "tool_result"}}, "deny"),
    ],
)
def test_conditions_join(when: dict[str, Any], expected: str) -> None:
    """All, any and not over values that peak once at 3 in the reply; nothing stands at a tool result here."""
    values = [0.0] * 21
    values[14] = 3.0
    watched = {"p.f": tuple(values), "p.risk": tuple(values)}
    assert judge(policy({"when": when, "then": "deny"}), watched=watched).decision == expected


def test_what_is_missing_decides_nothing_that_depends_on_it() -> None:
    """An untraced probe leaves `all` undecided unless another part is false, and `any` unless another is true."""
    watched = {"p.f": (2.0,) * 21}
    high, low, missing = {"feature": "f", "above": 1}, {"feature": "f", "above": 9}, {"probe": "risk", "above": 1}
    for when, undecided, expected in (
        ({"all": [missing, high]}, True, "deny"),
        ({"all": [missing, low]}, False, "allow"),
        ({"any": [missing, low]}, True, "deny"),
        ({"any": [missing, high]}, False, "flag"),
        ({"not": missing}, True, "deny"),
    ):
        verdict = judge(policy({"when": when, "then": "flag"}), watched=watched)
        assert (verdict.decision, "cannot be decided" in verdict.reason) == (expected, undecided)


def test_a_tripwire_is_certain_before_the_call_ends() -> None:
    """By name once that is complete, by a value once it was seen; rules on what is still to come never are."""
    named, unnamed = Call("pay", {}, Span(10, 16)), Call("", {}, Span(10, 14))
    trace = Trace(watched={"p.f": (0.0,) * 13 + (2.0, 0.0)}, places=PLACES)
    over = {"when": {"feature": "f", "above": 1.0, "at": "call.name"}, "then": "deny", "tripwire": True}
    by_name = {"tool": "pay", "then": "stop"}

    def trips(call: Call, *rules: dict[str, Any], **parts: Any) -> bool:
        return certain(call, trace=trace, policies=[policy(*rules, **parts)]) is not None

    assert trips(named, by_name)
    assert not trips(unnamed, by_name)
    assert not trips(named, {"tool": "get", "then": "stop"})
    assert not trips(named, {**by_name, "then": "deny"})
    assert trips(named, {**by_name, "then": "deny", "tripwire": True})
    assert not trips(named, by_name, mode="shadow")
    assert not trips(named, {**by_name, "arguments": {}})
    for below, tripwire in (({}, True), ({"below": 9.0}, False)):
        rule = {**over, "when": {**over["when"], **below}}  # type: ignore[dict-item]
        assert is_tripwire(policy(rule).guard.rules[0]) is tripwire  # type: ignore[union-attr]


def test_a_tripwire_waits_where_a_call_beside_it_may_count() -> None:
    """`without` is not certain once the reply has another call before this one; the review then knows which it was."""
    stop = policy({"tool": "pay", "without": {"tool": "ask"}, "then": "stop"})
    named = Call("pay", {}, Span(10, 16))
    alone = Trace(places={**PLACES, "call": (Span(10, 16),)})
    second = Trace(places={**PLACES, "call": (Span(3, 8), Span(10, 16))})
    assert certain(named, trace=alone, policies=[stop]) is not None
    assert certain(named, trace=second, policies=[stop]) is None
    assert certain(named, trace=second, policies=[policy({"tool": "pay", "then": "stop"})]) is not None
    ask = Tool("ask", "")
    for calls, decision in (([Call("ask", {}), CALL], "allow"), ([CALL], "stop")):
        verdicts = review(calls, tools=[PAY, ask], trace=alone, policies=[stop])
        assert verdicts[-1].decision == decision


OWN_TEXTS = ({"role": "user", "content": "send 1,000 to Anna Berg, ok?"}, {"role": "assistant", "content": "pay Eve 7"})
OWN = {"to": "from_user", "send": {"amount": "from_user"}}


@pytest.mark.parametrize(
    ("call", "own"),
    [
        (Call("send", {"to": "Anna Berg", "amount": 1000}), True),
        (Call("send", {"to": "Anna  Berg,"}), True),
        (Call("send", {"to": ["Anna", "Berg"], "amount": 1000.0}), True),
        (Call("send", {"to": None, "memo": "anything"}), True),
        (Call("other", {"amount": 7}), True),
        (Call("send", {"to": "Ann"}), False),
        (Call("send", {"to": "anna Berg"}), False),
        (Call("send", {"to": "Eve"}), False),
        (Call("send", {"to": "", "amount": 1000}), False),
        (Call("send", {"to": "Anna", "amount": 7}), False),
        (Call("send", {"to": "Anna", "amount": 100}), False),
        (Call("send", {"to": True}), False),
        (Call("send", {"to": {"name": "Anna"}}), False),
        (Call("other", {"to": "Eve"}), False),
    ],
    ids=repr,
)
def test_arguments_that_must_be_the_users_own(call: Call, own: bool) -> None:
    """Whole words and numbers of the user's messages pass, nothing else; a policy in shadow only says so."""
    tools = [Tool(name, "", {"type": "object"}) for name in ("send", "other")]
    for mode in ("enforce", "shadow"):
        policy = Policy.model_validate(
            {"steerkit": 1, "name": "own", "mode": mode, "guard": {"default": "allow", "arguments": OWN}}
        )
        (verdict,) = review([call], tools=tools, trace=Trace(), policies=[policy], messages=OWN_TEXTS)
        decision = verdict.decision if mode == "enforce" else verdict.shadowed
        assert decision == ("allow" if own else "deny")
        assert (verdict.rule == "from_user") is (mode == "enforce" and not own)
