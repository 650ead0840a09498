"""The agent loop's state machine by itself: no model and no tool, only what it asks for and what it is told."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.agent.loop import Approval, Approve, Execute, Execution, Generate, Loop, Run, Steps
from steerkit.agent.pending import Origin
from steerkit.decisions import Decision
from steerkit.errors import LoopError, MessageError
from steerkit.types import Call, MalformedCall, Trace, Turn, Verdict

ORIGIN = Origin("sha256:m", (("p", "sha256:p"),))
RELEASED = ("allow", "flag", "none")
DECISIONS = get_args(Decision)
START = [{"role": "user", "content": "go"}]


def turn(*decisions: str, text: str = "", finish: str = "stop") -> Turn:
    """A turn with a call per decision, each with arguments of its own; `malformed` stands for no call at all."""
    calls = [
        MalformedCall("broken", 0, "…") if one == "malformed" else Call(f"tool_{number}", {"n": [number]})
        for number, one in enumerate(decisions)
    ]
    verdicts = [
        Verdict("deny" if one == "malformed" else one, "r", f"because {one}")  # type: ignore[arg-type]
        for one in decisions
    ]
    return Turn(text, tuple(calls), tuple(verdicts), Trace(), (1,), (2,), finish, record_id=f"record of {decisions}")


class Driven:
    """Answers a state machine, and remembers what it was asked."""

    def __init__(
        self, steps: Steps, turns: list[Turn], approve: Callable[[Any], bool] | None = None, max_steps: int = 100
    ) -> None:
        self.asked: list[Any] = []
        left, answer = list(turns), None
        for _ in range(max_steps):
            try:
                step: Any = steps.send(answer)
            except StopIteration as done:
                self.run: Run = done.value
                return
            self.asked.append(step)
            match step:
                case Generate():
                    answer = left.pop(0)
                case Approve(held):
                    answer = ORIGIN if approve is None else [Approval(approve(one)) for one in held]
                case Execute(asked):
                    answer = [Execution(one.id, one.call, "ok", {"value": one.call.name}) for one in asked]
        raise AssertionError("it does not end")

    def of(self, kind: type) -> list[Any]:
        """Those of one kind."""
        return [step for step in self.asked if isinstance(step, kind)]

    @property
    def executed(self) -> list[str]:
        """Ids of calls whose execution was asked for."""
        return [one.id for step in self.of(Execute) for one in step.asked]


def drive(*turns: Turn, approve: Callable[[Any], bool] | None = None, max_turns: int = 10) -> Driven:
    return Driven(Loop(START, max_turns).steps(), list(turns), approve)


def test_calls_and_results_alternate_until_an_answer() -> None:
    """Released calls are executed, their results fed back in order, and the answer ends the run."""
    done = drive(turn("allow", "flag", text="wait"), turn("none"), turn(text="done"))
    assert [type(step) for step in done.asked] == [Generate, Execute, Generate, Execute, Generate]
    assert (done.run.status, done.run.text, len(done.run.turns)) == ("answer", "done", 3)
    _, asked, first, second, *_ = done.run.messages
    assert asked["content"] == "wait"
    assert [call["id"] for call in asked["tool_calls"]] == ["call_1", "call_2"]
    assert [(one["tool_call_id"], one["content"]) for one in (first, second)] == [
        ("call_1", '{"value": "tool_0"}'),
        ("call_2", '{"value": "tool_1"}'),
    ]
    assert done.run.messages[-1] == {"role": "assistant", "content": "done"}
    assert done.of(Generate)[1].messages == done.run.messages[:4]
    assert drive(turn(text="done")).executed == []


@pytest.mark.parametrize(
    ("last", "status"),
    [
        (turn(text="hello"), "answer"),
        (turn(), "answer"),
        (turn("hold", "allow"), "pending"),
        (turn("stop", "allow"), "stopped"),
        (turn("hold", "stop"), "stopped"),
        (turn("allow", "handoff"), "handoff"),
        (turn("hold", "handoff"), "handoff"),
        (turn("handoff", "stop"), "stopped"),
        (turn("malformed"), "malformed"),
        (turn(text="so", finish="fabricated"), "fabricated"),
        (turn(text="half an answ", finish="length"), "length"),
    ],
)
def test_each_end_has_its_name_and_leaves_nothing_half_done(last: Turn, status: str) -> None:
    """A turn that ends the run executes nothing, and only an answer joins the conversation; the control goes on."""
    done = drive(turn("allow"), last)
    assert done.run.status == status
    assert done.executed == ["call_1"]
    said = [last.text] if status == "answer" and last.text else []
    assert [message["content"] for message in done.run.messages[3:]] == said
    assert done.run.text == last.text
    assert (done.run.pending is not None) == (status == "pending")
    assert drive(turn("allow"), turn("allow"), turn()).executed == ["call_1", "call_2"]


def test_turns_are_bounded() -> None:
    """After the last turn its calls are still carried out, so that the conversation is whole; then it ends."""
    for most in (1, 3):
        done = drive(*[turn("allow")] * 5, max_turns=most)
        assert done.run.status == "max_turns"
        assert len(done.of(Generate)) == len(done.executed) == most
        assert done.run.messages[-1]["tool_call_id"] == f"call_{most}"
    assert drive(turn("allow"), turn("allow"), turn(text="now"), max_turns=3).run.status == "answer"


def test_what_was_not_run_is_told_with_its_reason() -> None:
    """Denials say the rule's reason, refusals also the person's note; an allowed call beside them says its result."""
    steps = Loop(START, 10).steps()
    steps.send(None)
    steps.send(turn("deny", "hold", "hold", "allow", "retry"))
    ask = steps.send([Approval(False, "ann", "too late at night"), Approval(False)])
    assert isinstance(ask, Execute)
    assert [one.call.name for one in ask.asked] == ["tool_3"]
    after = steps.send([Execution(ask.asked[0].id, ask.asked[0].call, "ok", {"value": 1})])
    assert isinstance(after, Generate)
    assert [message["content"] for message in after.messages[2:]] == [
        '{"error": "not run: because deny"}',
        '{"error": "not run: because hold; refused: too late at night"}',
        '{"error": "not run: because hold; refused"}',
        '{"value": 1}',
        '{"error": "not run: because retry"}',
    ]


some_turns = st.lists(
    st.builds(
        lambda decisions, finish: turn(*decisions, finish=finish),
        st.lists(st.sampled_from([*DECISIONS, "malformed"]), max_size=5),
        st.sampled_from(["stop", "tool_call", "fabricated", "tripwire", "length"]),
    ),
    max_size=6,
)


def may_run(one: Turn, approve: Callable[[int], bool]) -> list[str]:
    """By the rules in words: nothing of a turn that is stopped, handed over or fabricated; else what is released or
    approved."""
    decisions = [verdict.decision for verdict in one.verdicts]
    if {"stop", "handoff"} & {*decisions} or one.finish == "fabricated":
        return []
    calls = zip(one.calls, decisions, strict=True)
    return [
        call.name
        for number, (call, decision) in enumerate(calls)
        if isinstance(call, Call) and (decision in RELEASED or (decision == "hold" and approve(number)))
    ]


@given(turns=some_turns, approved=st.none() | st.frozensets(st.integers(0, 4)))
def test_nothing_runs_that_was_not_released_and_nothing_runs_twice(
    turns: list[Turn], approved: frozenset[int] | None
) -> None:
    """Whatever the verdicts: exactly the released and approved calls run, once; with nobody to ask a hold stops all."""
    asked_about = None if approved is None else (lambda held: int(held.call.name[5:]) in approved)
    done = drive(*turns, turn(text="end"), approve=asked_about, max_turns=9)
    expected: list[str] = []
    for one in done.run.turns:
        if approved is None and done.run.status == "pending" and one is done.run.turns[-1]:
            break
        expected += may_run(one, lambda number: approved is not None and number in approved)
    assert [one.call.name for step in done.of(Execute) for one in step.asked] == expected
    assert len(set(done.executed)) == len(done.executed)
    held = [one.verdict.decision for step in done.of(Approve) for one in step.held]
    assert set(held) <= {"hold"}
    ids = [call["id"] for message in done.run.messages for call in message.get("tool_calls", ())]
    assert ids == [one.id for one in done.run.executions]
    assert len(set(ids)) == len(ids)
    for before, after in pairwise(done.of(Generate)):
        assert after.messages[: len(before.messages)] == before.messages


@given(decisions=st.lists(st.sampled_from(DECISIONS), min_size=1, max_size=5), data=st.data())
def test_a_resumed_run_carries_out_what_was_decided(decisions: list[str], data: st.DataObject) -> None:
    """What is left of a pending turn runs as it would have with somebody to ask, and before anything is generated."""
    first = turn(*decisions, "hold")
    paused = drive(first)
    if {"stop", "handoff"} & {*decisions}:
        assert paused.run.pending is None
        return
    assert paused.executed == []
    pending = paused.run.pending
    assert pending is not None
    approvals = {one.id: Approval(data.draw(st.booleans())) for one in pending.held}
    rest = Driven(Loop(pending.messages, 5).resumed(pending, approvals), [turn(text="end")])
    asked = drive(first, turn(text="end"), approve=lambda held: approvals[held.id].approved)
    assert rest.executed == asked.executed
    assert rest.run.messages == asked.run.messages
    assert rest.run.executions == asked.run.executions


def test_what_the_machine_gives_out_is_no_window_into_it() -> None:
    """Changing messages that were handed out, or those that were handed in, changes nothing inside."""
    given_in: list[Any] = [{"role": "user", "content": "go", "list": [1]}]
    steps = Loop(given_in, 3).steps()
    out: Any = steps.send(None)
    given_in[0]["list"].append(2)
    out.messages[0]["list"].append(3)
    again: Any = steps.send(turn("deny"))
    assert again.messages[0]["list"] == [1]
    assert len(again.messages) == 3


def test_ids_go_on_from_those_of_the_conversation() -> None:
    """New ids count on and leave out those that are taken; a fresh conversation begins at 1."""
    old = [
        *START,
        {"role": "assistant", "tool_calls": [{"id": "call_3", "function": {"name": "a", "arguments": {}}}] * 2},
    ]
    done = Driven(Loop(old, 2).steps(), [turn("deny", "deny"), turn()])
    assert [one.id for one in done.run.executions] == ["call_4", "call_5"]
    assert [one.id for one in drive(turn("deny"), turn()).run.executions] == ["call_1"]


def test_messages_that_are_no_json_are_named() -> None:
    """A set, NaN, half a conversation and a loop in itself are refused before anything is asked; plain ones are not."""
    circle: list[Any] = []
    circle.append(circle)
    cases: list[tuple[Any, str]] = [
        ([], "expected a list of at least one"),
        ("hi", "expected a list of at least one"),
        ([1], r"messages\[0\]: got int, expected a mapping"),
        ([{"role": "user", "content": {1}}], r"messages\[0\].content: got set, expected a JSON value"),
        ([{"a": [float("nan")]}], r"messages\[0\].a\[0\]: got nan"),
        ([{"a": circle}], "nested too deeply"),
    ]
    for messages, error in cases:
        with pytest.raises(MessageError, match=error):
            Loop(messages, 1)
    Loop([{"role": "user", "content": ({"text": "x"},), "extra": 1.5}], 1)


def test_an_approval_is_a_clear_yes_or_no() -> None:
    """Anything that is only true-ish, or text that no record and no prompt can carry, is refused."""
    for wrong in (1, "yes", None):
        with pytest.raises(LoopError, match=r"Approval\.approved: got .*, expected True or False"):
            Approval(wrong)  # type: ignore[arg-type]
    with pytest.raises(LoopError, match=r"Approval\.by: got int, expected text"):
        Approval(True, by=7)  # type: ignore[arg-type]
    with pytest.raises(LoopError, match=r"Approval\.note: got half a character"):
        Approval(True, note="\ud800")
    assert Approval(True, "ann", "fine").approved
