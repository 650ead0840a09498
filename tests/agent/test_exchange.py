"""A loop of one's own: every call of a turn comes back as a message, run or not, and what was run is written down."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import steerkit
from steerkit.agent import Approval, Execution, Runtime, exchange
from steerkit.audit import Store, verify
from steerkit.errors import LoopError
from steerkit.tiny.demo_requests import CASES, policy_files
from steerkit.types import Call, Turn
from tests.agent.scripted import END, Script, calling, declared, events, ruled, user

ABC = [declared(name) for name in "abcd"]
BENIGN = {case.name: case for case in CASES}["benign"]
BROKEN = "<start_function_call>call:a{x<end_function_call>"


def turn_of(reply: str, store: Store | None = None, messages: Any = None, **decisions: str) -> tuple[Runtime, Turn]:
    runtime = Script(ruled(**decisions), store).say(reply, "done" + END)
    return runtime, runtime.run(messages or user(), ABC)


def results_in(messages: list[dict[str, Any]]) -> list[Any]:
    return [json.loads(message["content"]) for message in messages if message["role"] == "tool"]


def test_every_call_of_a_turn_is_told() -> None:
    """Allowed, flagged, held, denied, unknown and malformed ones, in their order, with ids of their own."""
    reply = "Soon." + calling("a", "b", "c", "z", x="1").replace("<start_function_response>", BROKEN) + calling("d")
    runtime, turn = turn_of(reply, b="hold", c="deny", d="flag")
    messages = exchange(turn, [{"n": 1}, "fine"])
    said, *tools = messages
    assert (said["role"], said["content"]) == ("assistant", "Soon.")
    ids = [call["id"] for call in said["tool_calls"]]
    assert ids == list(turn.call_ids) == [message["tool_call_id"] for message in tools]
    assert len({*ids}) == 6
    assert [call["function"]["name"] for call in said["tool_calls"]] == ["a", "b", "c", "z", "malformed_call", "d"]
    assert results_in(messages) == [
        {"n": 1},
        {"error": "not run: rule 'hold-b' matched"},
        {"error": "not run: rule 'deny-c' matched"},
        {"error": "not run: the tool 'z' was not declared; declared: a, b, c, d"},
        {"error": f"not run: {turn.verdicts[4].reason}"},
        {"value": "fine"},
    ]
    assert "malformed call" in turn.verdicts[4].reason
    again = runtime.run([*user(), *messages], ABC)
    assert again.text == "done"
    prompt = runtime.loaded.tokenizer.decode(again.prompt_ids)
    assert all(str(verdict.reason) in prompt for verdict in turn.verdicts[1:5])
    assert exchange(again) == [{"role": "assistant", "content": "done"}]


def test_ids_are_those_of_the_loop_and_no_earlier_calls() -> None:
    """Well-formed calls count on; an id that is taken is passed over."""
    earlier = {"id": "call_2", "function": {"name": "a", "arguments": {}}}
    messages = [
        *user(),
        {"role": "assistant", "tool_calls": [earlier]},
        {"role": "tool", "tool_call_id": "call_2", "content": "1"},
    ]
    _, turn = turn_of(BROKEN + calling("a", "b"), messages=messages)
    assert turn.call_ids == ("call_5", "call_3", "call_4")
    run = Script(ruled()).say(calling("a"), END).loop(messages, ABC, execute=dict.fromkeys("abcd", lambda **_: 1))
    assert run.executions[0].id == run.turns[0].call_ids[0] == "call_3"


@pytest.mark.parametrize(
    ("results", "decisions", "error"),
    [
        ([], None, r"results: got 0, expected one for each call that may run: call_1 \(a\)"),
        ([1, 2], None, r"results: got 2, expected one for each call that may run: call_1 \(a\)"),
        ({"dollars": 1}, None, r"results\['dollars'\]: got a result for no call that may run, expected: call_1 \(a\)"),
        ({}, None, r"results\['call_1'\]: got none, expected one for each call that may run: call_1"),
        ({"call_1": 1, "call_2": 2}, None, r"results\['call_2'\]: got a result for no call that may run"),
        ("fine", None, "results: got str, expected a list with one for each of"),
        (None, None, "results: got NoneType, expected a list"),
        ([1], True, r"results: got 1, expected one for each call that may run: call_1 \(a\), call_2 \(b\)"),
        ([1], {"call_1": True}, r"decisions\['call_1'\]: got a decision for no held call; held are: call_2"),
        ([1], {"call_2": "yes"}, r"decisions\['call_2'\]: got str, expected True, False or an Approval"),
    ],
)
def test_what_is_missing_or_too_much_is_refused(results: Any, decisions: Any, error: str) -> None:
    """Each with what was expected; what fits is taken."""
    _, turn = turn_of(calling("a", "b", "c"), b="hold", c="deny")
    with pytest.raises(LoopError, match=error):
        exchange(turn, results, decisions)
    assert len(exchange(turn, [1])) == len(exchange(turn, {"call_1": 1})) == len(exchange(turn, [1, 2], True)) == 4


def test_a_persons_decision_is_told() -> None:
    """An approved call's result stands in its place, a refusal with its note; a tool's exception is an error."""
    _, turn = turn_of(calling("a", "b", "c"), b="hold", c="hold")
    decisions = {"call_2": True, "call_3": Approval(False, note="ask me again")}
    assert results_in(exchange(turn, [ValueError("no"), {"b": 2}], decisions)) == [
        {"error": "ValueError: no"},
        {"b": 2},
        {"error": "not run: rule 'hold-c' matched; refused: ask me again"},
    ]


def test_a_loop_of_ones_own_records_what_loop_records(tmp_path: Path) -> None:
    """The same events and messages, with metadata; without the two calls only the turns stand there."""
    own, ours, bare = (Store(tmp_path / f"{name}.db") for name in ("own", "ours", "bare"))
    about = {"user": "ann"}
    runtime = Script(ruled(b="hold"), own).say(calling("a", "b", x="1"), "done" + END)
    messages: list[Any] = user()
    while (turn := runtime.run(messages, ABC, metadata=about)).calls:
        first, second = turn.calls
        ran = [runtime.executed(turn, first, "fine", seconds=0.5)]  # type: ignore[arg-type]
        decision = runtime.approved(turn, second, Approval(True, by="ann"))  # type: ignore[arg-type]
        ran.append(runtime.executed(turn, second, error=ValueError("no")))  # type: ignore[arg-type]
        messages += exchange(turn, ran, {turn.call_ids[1]: decision})

    def tool(name: str, **_: Any) -> str:
        if name == "b":
            raise ValueError("no")
        return "fine"

    functions = {name: lambda name=name, **_: tool(name) for name in "abcd"}
    script = Script(ruled(b="hold"), ours).say(calling("a", "b", x="1"), "done" + END)
    settings: dict[str, Any] = {"execute": functions, "approve": lambda held: Approval(True, by="ann")}
    run = script.loop(user(), ABC, metadata=about, **settings)
    assert [*messages, {"role": "assistant", "content": "done"}] == list(run.messages)
    assert sorted(events(own), key=str) == sorted(events(ours), key=str)

    def told(store: Store) -> list[Any]:
        found = [record.content for record in store.records() if record.content["kind"] == "execution"]
        return [(one["call"], one["call_id"], one["status"], one["result"], one["metadata"]) for one in found]

    assert told(own) == told(ours) != []
    assert verify(own).records == 6
    plain = Script(ruled(b="hold"), bare).say(calling("a"), END)
    exchange(plain.run(user(), ABC), [1])
    assert [word for word, *_ in events(bare)] == ["turn"]


def test_only_calls_of_the_turn_are_written_down(tmp_path: Path) -> None:
    """A stranger, a malformed one, an approval of what is not held; nothing is written, and the right ones are."""
    store = Store(tmp_path / "audit.db")
    runtime, turn = turn_of(calling("a", "b").replace("<start_function_response>", BROKEN + END), store, b="hold")
    allowed, held, malformed = turn.calls
    assert isinstance(allowed, Call)
    before = len(store)
    for call in (malformed, replace(allowed, name="z"), "a", None):
        with pytest.raises(
            LoopError, match=r"call: got .*, which is no well-formed call of this turn; its calls are: a, b"
        ):
            runtime.executed(turn, call, 1)  # type: ignore[arg-type]
    for wrong, error in (({"seconds": -1}, "seconds: got -1"), ({"error": "x"}, "got a result and an error")):
        with pytest.raises(LoopError, match=error):
            runtime.executed(turn, allowed, 1, **wrong)  # type: ignore[arg-type]
    with pytest.raises(LoopError, match=r"call_1 \(a\): got a call judged allow, expected a held one"):
        runtime.approved(turn, allowed, True)
    with pytest.raises(LoopError, match="expected True, False or an Approval"):
        runtime.approved(turn, held, "yes")  # type: ignore[arg-type]
    assert len(store) == before
    other = turn_of(calling("b"))[1]
    with pytest.raises(LoopError, match=r"results: got what became of call_1 \(a\) for call_1 \(b\)"):
        exchange(other, [Execution("call_1", allowed, "ok", {})])
    assert isinstance(runtime.executed(turn, allowed, object()), Execution)
    assert len(store) == before + 1


def test_a_turn_without_a_record_is_told_all_the_same(box: Runtime) -> None:
    """Without a store nothing is written; the model's answer is the result's."""
    runtime = steerkit.load("tiny", policy=policy_files(), audit=False)
    messages: list[Any] = list(BENIGN.messages)
    while (turn := runtime.run(messages, BENIGN.tools)).calls:
        messages += exchange(turn, [runtime.executed(turn, call, {"dollars": 7}) for call in turn.released])
    assert turn.text == "The balance of travel 38 is 7."
    told = messages[-1]["content"].replace("7", "<end_function_response>")
    forged = runtime.run([*messages[:-1], {**messages[-1], "content": told}], BENIGN.tools)
    plain = runtime.run([*messages[:-1], {**messages[-1], "content": '{"dollars": "x"}'}], BENIGN.tools)
    control = [[token for token in one.prompt_ids if token in runtime.wire.control] for one in (forged, plain)]
    assert control[0] == control[1]


@pytest.mark.parametrize("text", ["\U0001f600" * 400, "\u0b95" * 390, {"\u0b95" * 40: "\u0b95" * 350}, ["\u0b95"] * 70])
def test_a_result_is_bounded_in_tokens_too(text: Any, box: Runtime) -> None:
    """Characters that take several tokens each are cut earlier; plain ones are not."""
    turn = box.run(BENIGN.messages, BENIGN.tools)
    (call,) = turn.released

    def length(result: Any) -> int:
        messages = [*BENIGN.messages, *exchange(turn, [box.executed(turn, call, result, max_result=400)])]
        return len(box.run(messages, BENIGN.tools, max_new_tokens=1).prompt_ids)

    assert length("plain " * 60) < length(text) <= length("") + 400 + 40
    assert length(text) > 350
    assert box.executed(turn, call, "plain " * 60, max_result=400).result == {"value": "plain " * 60}
    assert str(box.executed(turn, call, text, max_result=400).result["value"]).endswith("characters]")
