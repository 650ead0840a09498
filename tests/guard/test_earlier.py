"""Calls that did not run: they satisfy no `without`, and still count for `after`."""

from __future__ import annotations

from typing import Any

import pytest

from steerkit.agent.calls import Approval, Execution
from steerkit.agent.exchange import messages_of as exchange
from steerkit.agent.exchange import not_run as _not_run
from steerkit.agent.pending import Asked
from steerkit.audit import TurnRecord, read_record
from steerkit.guard import rejudge, review
from steerkit.policy import Policy
from steerkit.types import Call, Messages, Tool, Trace, Verdict

LOOK = Tool("look", "", {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]})
TOOLS = (LOOK, Tool("drop", ""), Tool("mail", ""))
LOOKED, BLIND, DROP, MAIL = Call("look", {"at": "home"}), Call("look", {}), Call("drop", {}), Call("mail", {})


def policy(**rule: Any) -> Policy:
    rules = [
        {"name": "look-first", "tool": "drop", "without": {"tool": "look"}, "then": "hold"},
        {"name": "no-mail", "tool": "mail", "after": {"tool": "look"}, "then": "deny"},
        *([{"name": "own", "tool": "look", **rule}] if rule else []),
    ]
    return Policy.model_validate({"steerkit": 1, "name": "p", "guard": {"default": "allow", "rules": rules}})


def decided(*calls: Call, messages: Messages = (), by: Policy | None = None) -> list[str]:
    verdicts = review(calls, tools=TOOLS, trace=Trace(), policies=[by or policy()], messages=messages)
    return [verdict.decision for verdict in verdicts]


def earlier(result: Any, *, id: str | None = "c1") -> Messages:
    """A conversation with a call of `look`, and what it was answered with; None for no answer."""
    call = {"id": id, "type": "function", "function": {"name": "look", "arguments": {"at": "home"}}}
    told: list[dict[str, Any]] = [{"role": "user", "content": "please"}, {"role": "assistant", "tool_calls": [call]}]
    return told if result is None else [*told, {"role": "tool", "tool_call_id": id, "content": result}]


def test_only_a_call_that_may_run_satisfies_without_in_its_reply() -> None:
    """Allowed and flagged ones do; denied, held, retried and stopped ones, and those of no schema, do not."""
    assert decided(LOOKED, DROP) == ["allow", "allow"]
    assert decided(DROP, LOOKED) == ["hold", "allow"]
    assert decided(BLIND, DROP) == ["deny", "hold"]
    assert decided(BLIND, LOOKED, DROP) == ["deny", "allow", "allow"]
    for then, after in (("flag", "allow"), ("hold", "hold"), ("deny", "hold"), ("stop", "hold")):
        assert decided(LOOKED, DROP, by=policy(then=then)) == [then, after]
    assert decided(Call("look", {"at": "home", "more": 1}), DROP) == ["deny", "hold"]


def test_what_the_loop_writes_of_calls_that_did_not_run_is_known() -> None:
    """Denied ones, and those that a person refused, with and without a note; and of one that ran."""
    asked = Asked("c1", LOOKED, Verdict("hold", "r", "a person must agree"))
    for execution, decision in (
        (_not_run(asked, None), "hold"),
        (_not_run(asked, Approval(False)), "hold"),
        (_not_run(asked, Approval(False, note="no")), "hold"),
        (Execution("c1", LOOKED, "ok", {"files": []}), "allow"),
    ):
        told = [{"role": "user", "content": "please"}, *exchange("", [execution])]
        assert decided(DROP, messages=told) == [decision]


RESULTS: list[tuple[Any, str]] = [
    ('{"files": []}', "allow"),
    ("done", "allow"),
    ('{"error": "no such folder"}', "allow"),
    ('{"error": "it was not run"}', "allow"),
    ('{"error": "not run: nobody looked"}', "hold"),
    ('{"error": "not run: reason; refused: no"}', "hold"),
    ({"error": "not run: x"}, "hold"),
    ("not run: x", "hold"),
    (" Not run.", "hold"),
    ('{"error": "not run: x", "more": 1}', "hold"),
    (None, "hold"),
]


@pytest.mark.parametrize(("result", "decision"), RESULTS, ids=lambda part: str(part)[:40])
def test_only_a_call_that_ran_satisfies_without_in_later_turns(result: Any, decision: str) -> None:
    """A result means that it ran; one that says `not run`, and none at all, mean that it did not."""
    assert decided(DROP, messages=earlier(result)) == [decision]


def test_after_counts_calls_that_did_not_run() -> None:
    """It asks what the model tried, not what became of it."""
    assert decided(BLIND, MAIL) == ["deny", "deny"]
    assert decided(MAIL, messages=earlier('{"error": "not run: x"}')) == ["deny"]
    assert decided(MAIL) == ["allow"]


def test_a_second_call_that_ran_makes_up_for_one_that_did_not() -> None:
    """Denied once and allowed then, it ran."""
    told = [*earlier('{"error": "not run: x"}'), *earlier('{"files": []}', id="c2")[1:]]
    assert decided(DROP, messages=told) == ["allow"]


def record(calls: list[Call], messages: Messages, **more: Any) -> TurnRecord:
    """A turn's record, as far as verdicts are made from it."""
    said = [{"name": call.name, "arguments": dict(call.arguments), "span": [0, 0]} for call in calls]
    tools = [{"name": one.name, "description": "", "parameters": one.parameters} for one in TOOLS]
    verdict = {"decision": "none", "rule": "r", "policy": "", "reason": "", "readings": [], "shadowed": None}
    about = {"tools": tools, "messages": list(messages), "finish": "stop", "attempt": 0}
    found = read_record({"kind": "turn", "calls": said, "verdicts": [verdict] * len(said), **about, **more})
    assert isinstance(found, TurnRecord)
    return found


def test_records_are_judged_again_as_they_were_judged() -> None:
    """With `judging` as today; a record of before, which does not say it, by what `without` meant then."""
    again = {
        judging: [
            verdict.decision
            for calls, messages in (([BLIND, DROP], ()), ([DROP], earlier('{"error": "not run: x"}')))
            for verdict in rejudge(record(calls, messages, **more), [policy()], Trace())
        ]
        for judging, more in (("now", {"judging": 2}), ("then", {}))
    }
    assert again == {"now": ["deny", "hold", "hold"], "then": ["deny", "allow", "allow"]}


UNDECLARED = [
    ((), "deny", "undeclared_arguments"),
    ((None,), "deny", "undeclared_arguments"),
    (("allow",), "allow", "default"),
    (("flag",), "flag", "undeclared_arguments"),
    (("deny",), "deny", "undeclared_arguments"),
    (("allow", "flag"), "flag", "undeclared_arguments"),
    (("allow", None), "deny", "undeclared_arguments"),
]


@pytest.mark.parametrize(("said", "decision", "rule"), UNDECLARED)
def test_undeclared_arguments_are_denied_unless_policies_agree(said: Any, decision: str, rule: str) -> None:
    """The strictest of what the policies say, deny where one says nothing; a declared argument is let through."""
    policies = [
        Policy.model_validate(
            {"steerkit": 1, "name": f"p{n}", "guard": {"default": "allow", "undeclared_arguments": one}}
        )
        for n, one in enumerate(said)
    ]
    for arguments, expected in (({"at": "a", "b": 1}, (decision, rule)), ({"at": "a"}, None)):
        (verdict,) = review([Call("look", arguments)], tools=TOOLS, trace=Trace(), policies=policies)
        assert (verdict.decision, verdict.rule) == (expected or (("allow", "default") if said else ("none", "none")))


def test_a_rule_on_invalid_arguments_sees_denied_undeclared_ones() -> None:
    """What is denied as undeclared is invalid; what a policy lets through is not."""
    rule = {"name": "r", "when": "invalid_arguments", "then": "stop"}
    for said, decision in ((None, "stop"), ("flag", "flag"), ("allow", "allow")):
        guard = {"default": "allow", "rules": [rule], "undeclared_arguments": said}
        one = Policy.model_validate({"steerkit": 1, "name": "p", "guard": guard})
        (verdict,) = review([Call("look", {"at": "a", "b": 1})], tools=TOOLS, trace=Trace(), policies=[one])
        assert verdict.decision == decision
