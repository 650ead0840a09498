"""The guard's decisions: one row each, read by policy, guard, loop, records and reports."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from steerkit.agent import exchange
from steerkit.audit import DECISIONS as RECORDED
from steerkit.decisions import DECISIONS, RELEASED, Decision, Default, Ruling, ending, releases, severity
from steerkit.guard import review
from steerkit.policy import explain, loads
from steerkit.report.text import verdict_text
from steerkit.types import Call, Tool, Trace, Turn, Verdict
from tests.agent.scripted import END, Script, calling, ruled, user

ALL: tuple[Any, ...] = get_args(Decision)
TOOLS = [Tool("a"), Tool("b")]


def test_each_decision_has_a_row_and_its_place() -> None:
    """The rows are the decisions, from lenient to strict; what a rule or a default may say is among them."""
    assert tuple(DECISIONS) == ALL == RECORDED
    assert [row.severity for row in DECISIONS.values()] == list(range(len(ALL)))
    assert set(get_args(Ruling)) == set(ALL) - {"none"}
    assert set(get_args(Default)) == set(ALL) - {"none", "retry"}
    assert RELEASED == ("none", "allow", "flag")
    assert all("{}" in row.does and row.becomes and row.style for row in DECISIONS.values())


@pytest.mark.parametrize("then", [one for one in get_args(Ruling) if one != "retry"])
def test_a_rule_and_a_default_may_say_each(then: Any) -> None:
    """A policy with it loads, is explained in the row's words, judges so, and is shown."""
    policy = loads(f"steerkit: 1\nname: p\nguard: {{default: {then}, rules: [{{name: r, tool: a, then: {then}}}]}}")
    row, said = DECISIONS[then], explain(policy)
    assert row.does.format("a call of a") in said
    assert f"A call that no rule matches {row.becomes}." in said
    verdicts = review([Call("a", {}), Call("b", {})], tools=TOOLS, trace=Trace(), policies=[policy])
    assert [(one.decision, one.rule) for one in verdicts] == [(then, "r"), (then, "default")]
    assert then.upper() in str(verdict_text(Verdict(then, "r", "", "p")))


@pytest.mark.parametrize("one", ALL)
@pytest.mark.parametrize("other", ALL)
def test_the_stricter_of_two_decides(one: Any, other: Any) -> None:
    """Of two rules that match one call, in either order."""
    if {"none", "retry"} & {one, other}:
        return
    rules = f"[{{name: r, tool: a, then: {one}}}, {{name: s, tool: a, then: {other}}}]"
    policy = loads(f"steerkit: 1\nname: p\nguard: {{default: allow, rules: {rules}}}")
    (verdict,) = review([Call("a", {})], tools=TOOLS, trace=Trace(), policies=[policy])
    assert verdict.decision == max((one, other), key=severity)


@pytest.mark.parametrize(
    ("decisions", "status", "released"),
    [
        (["allow", "flag"], None, [True, True]),
        (["allow", "hold"], None, [True, False]),
        (["allow", "deny"], None, [True, False]),
        (["allow", "stop"], "stopped", [True, False]),
        (["allow", "handoff"], "handoff", [False, False]),
        (["handoff", "stop"], "stopped", [False, False]),
        (["none", "handoff", "deny"], "handoff", [False, False, False]),
        ([], None, []),
    ],
)
def test_what_a_turn_releases_and_how_it_ends(decisions: list[Any], status: Any, released: list[bool]) -> None:
    """A handover releases nothing beside it; the strictest ending counts; a turn says the same as the table."""
    assert ending(decisions) == status
    assert [releases(one, decisions) for one in decisions] == released
    calls = tuple(Call(f"c{number}", {}) for number in range(len(decisions)))
    verdicts = tuple(Verdict(one, "r", "because", "p") for one in decisions)
    turn = Turn("", calls, verdicts, Trace(), (), (), "tool_call")
    assert [call in turn.released for call in calls] == released
    if status == "handoff":
        told = exchange(turn)
        assert all("not run: " in message["content"] for message in told[1:])
        assert "handed over to a larger model" in told[1]["content"] or decisions[0] == "handoff"


def test_a_run_ends_where_a_rule_hands_over() -> None:
    """Nothing of the turn is run, the conversation stands before it, and another model goes on from there."""
    script = Script(ruled(b="handoff")).say(calling("a", "b"), END)
    ran: list[str] = []
    tools = [{"name": name, "parameters": {"type": "object"}} for name in ("a", "b")]
    execute = {name: lambda name=name: ran.append(name) for name in ("a", "b")}
    run = script.loop(user(), tools, execute=execute)
    assert (run.status, ran, run.executions, run.pending) == ("handoff", [], (), None)
    assert run.messages == tuple(user())
    assert [one.decision for one in run.turns[-1].verdicts] == ["allow", "handoff"]
    larger = Script(ruled()).say(calling("a", "b"), END)  # the control: without the rule both are run
    assert larger.loop(run.messages, tools, execute=execute).status == "answer"
    assert ran == ["a", "b"]
