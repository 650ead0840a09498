"""A pending run goes on: in another process, once, and only as it was judged."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import steerkit
from steerkit.agent import Approval, Pending, Run, Runtime
from steerkit.agent.pending import Asked, Origin
from steerkit.audit import Store, redact, verify
from steerkit.errors import AuditError, LoopError
from steerkit.policy import fingerprint
from steerkit.tiny.demo_requests import CASES, policy_files
from steerkit.types import Call
from tests.agent.scripted import END, Script, calling, declared, events, names, ruled, user

HELD = {case.name: case for case in CASES}["held"]
ABC = [declared(name) for name in "abc"]
RULES = ruled(b="hold", c="deny")


class Waiting:
    """A run that waits: its script, its store and what was run."""

    def __init__(self, path: Path | None, policy: Any = RULES, seed: int = 0) -> None:
        self.store = None if path is None else Store(path)
        self.script = Script(policy, self.store, seed=seed)
        self.ran: list[tuple[str, Any]] = []
        self.tools = {name: self._one(name) for name in "abc"}

    def _one(self, name: str) -> Callable[..., Any]:
        def function(**arguments: Any) -> str:
            self.ran.append((name, arguments.get("x")))
            return "fine"

        return function

    def pending(self, *replies: str) -> Pending:
        """A turn that asks for an allowed, a held and a denied call, or what else is said."""
        run = self.script.say(*replies or (calling("a", "b", "c", x="1"),)).loop(user(), ABC, execute=self.tools)
        assert run.status == "pending"
        assert run.executions == ()
        assert run.pending is not None
        return run.pending

    def resume(self, pending: Pending, decisions: Any = True, **settings: Any) -> Run:
        """To its end: the model says no more than that."""
        runtime = self.script.say("end" + END)
        return runtime.resume(pending, decisions, **{"tools": ABC, "execute": self.tools, **settings})


@pytest.fixture
def waiting(tmp_path: Path) -> Waiting:
    return Waiting(tmp_path / "audit.db")


SECOND = """
import json, sys, steerkit
from steerkit.policy import fingerprint
from steerkit.agent import Approval, Pending
from steerkit.tiny.demo_requests import CASES, policy_files
held = {case.name: case for case in CASES}["held"]
store, path, opened = sys.argv[1:]
def unlock(door):
    open(opened, "a").write(door + "\\n")
    return {"status": "open"}
runtime = steerkit.load("tiny", policy=policy_files(), audit=store)
functions = {"unlock_door": unlock, "check_door": print, "play_music": print}
run = runtime.resume(Pending.load(path), Approval(True, by="ann"), tools=held.tools, execute=functions)
print(json.dumps({"status": run.status, "text": run.text, "messages": run.messages,
                  "executions": [one.status for one in run.executions]}))
"""


def test_a_run_goes_on_in_another_process(tmp_path: Path) -> None:
    """The box wants to open a door and waits; the process ends; another one opens it, once, and records who agreed."""
    functions = dict.fromkeys(("unlock_door", "check_door", "play_music"), print)
    here = steerkit.load("tiny", policy=policy_files(), audit=tmp_path / "audit.db")
    run = here.loop(HELD.messages, HELD.tools, execute=functions)
    assert (run.status, run.executions, run.messages) == ("pending", (), HELD.messages)
    assert run.pending is not None
    run.pending.save(tmp_path / "run.json")
    command = [sys.executable, "-c", SECOND, *(str(tmp_path / name) for name in ("audit.db", "run.json", "opened"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["status"], said["executions"]) == ("answer", ["ok"])
    assert [message["role"] for message in said["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert (tmp_path / "opened").read_text() == "south cellar\n"
    assert here.store is not None
    assert events(here.store) == [
        ("turn", "tool_call"),
        ("approval", "call_1", "approve", "ann"),
        ("execution", "call_1", "ok"),
        ("turn", "stop"),
    ]
    assert verify(here.store).records == 7  # two runs' openings and the end of the second among them
    pending = Pending.load(tmp_path / "run.json")
    with pytest.raises(LoopError, match=r"its calls were decided on by ann at 20.*; a turn is resumed once"):
        here.resume(pending, True, tools=HELD.tools, execute=functions)
    assert (tmp_path / "opened").read_text() == "south cellar\n"


@pytest.mark.parametrize("yes", [True, False])
def test_what_was_decided_is_carried_out(yes: bool, waiting: Waiting) -> None:
    """Allowed and approved calls run, denied and refused ones do not; all are told, and who decided is recorded."""
    run = waiting.resume(waiting.pending(), Approval(yes, by="ann", note="ask me again"))
    assert run.status == "answer"
    assert waiting.ran == [("a", "1"), *([("b", "1")] if yes else [])]
    assert [execution.status for execution in run.executions] == ["ok", "ok" if yes else "refused", "denied"]
    assert ("refused: ask me again" in str(run.messages)) is not yes
    assert waiting.store is not None
    approval = next(one.content for one in waiting.store.records() if one.content["kind"] == "approval")
    assert {key: approval[key] for key in ("call_id", "decision", "by", "note", "error")} == {
        "call_id": "call_2",
        "decision": "approve" if yes else "refuse",
        "by": "ann",
        "note": "ask me again",
        "error": None,
    }


def test_each_held_call_has_its_own_decision(waiting: Waiting) -> None:
    """By ids; one for all is for all."""
    pending = waiting.pending(calling("b", x="1")[: -len("<start_function_response>")] + calling("b", x="2"))
    assert [one.id for one in pending.held] == ["call_1", "call_2"]
    run = waiting.resume(pending, {"call_1": False, "call_2": Approval(True)})
    assert waiting.ran == [("b", "2")]
    assert [execution.status for execution in run.executions] == ["refused", "ok"]
    for_all = waiting.resume(waiting.pending(calling("b", "b", x="3")), True)
    assert [execution.status for execution in for_all.executions] == ["ok", "ok"]


def test_decisions_that_do_not_fit_decide_nothing(waiting: Waiting) -> None:
    """A missing, a strange or an unclear one is refused before anything is written; a clear one then works."""
    pending = waiting.pending()
    cases: list[tuple[Any, str]] = [
        ({}, r"decisions\['call_2'\]: got no decision, expected one for each of: call_2"),
        ({"call_2": True, "call_1": True}, r"decisions\['call_1'\]: got a decision for no held call"),
        ({"call_2": "yes"}, r"decisions\['call_2'\]: got str, expected True, False or an Approval"),
        (1, "got int, expected True, False or an Approval"),
        (None, "got NoneType"),
    ]
    for decisions, error in cases:
        with pytest.raises(LoopError, match=error):
            waiting.resume(pending, decisions)
    assert waiting.store is not None
    assert (waiting.ran, len(waiting.store)) == ([], 2)
    assert waiting.resume(pending).status == "answer"


def other(**changes: Any) -> Callable[[dict[str, Any]], None]:
    """Change the held call of a file."""
    return lambda data: data["calls"][1].update(changes)


EDITS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "argument": (other(arguments={"x": "2"}), "pending calls: got others than in record"),
    "added argument": (lambda data: data["calls"][0]["arguments"].update(y=1), "pending calls"),
    "type": (other(arguments={"x": 1}), "pending calls|does not fit its tool"),
    "name": (other(name="a"), "pending calls"),
    "reason": (other(reason="all is well"), "pending calls"),
    "rule": (other(rule="none"), "pending calls"),
    "denied to hold": (lambda data: data["calls"][2].update(decision="hold"), "pending calls"),
    "denied to allow": (lambda data: data["calls"][2].update(decision="allow"), "pending calls"),
    "dropped call": (lambda data: data["calls"].pop(), "pending calls"),
    "added call": (lambda data: data["calls"].append({**data["calls"][0], "id": "call_4"}), "pending calls"),
    "text": (lambda data: data.update(text="I was told to"), "pending text: got others than in record"),
    "message": (lambda data: data["messages"][0].update(content="pay"), "pending messages: got others than in record"),
    "added message": (lambda data: data["messages"].append({"role": "user", "content": "x"}), "pending messages"),
    "model": (lambda data: data.update(model="sha256:0"), "made with the model sha256:0"),
    "policies": (lambda data: data.update(policies=[]), "judged under no policies, but the policies now are ruled"),
    "no record": (lambda data: data.update(record_id=None), "got none, but this runtime has an audit store"),
    "record's number": (lambda data: data.update(record_id="1"), "got '1', which is no turn in"),
    "part of the record's id": (lambda data: data.update(record_id=data["record_id"][:20]), "which is no turn in"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_file_is_refused(name: str, waiting: Waiting, tmp_path: Path) -> None:
    """Whatever was edited, nothing is run and nothing is decided; the file as it was saved then resumes."""
    edit, error = EDITS[name]
    pending, path = waiting.pending(), tmp_path / "run.json"
    pending.save(path)
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))
    with pytest.raises(LoopError, match=error):
        waiting.resume(Pending.load(path))
    assert waiting.ran == []
    assert waiting.store is not None
    assert len(waiting.store) == 2
    pending.save(path)
    assert waiting.resume(Pending.load(path)).status == "answer"


def test_a_state_edited_in_memory_is_refused(waiting: Waiting) -> None:
    """Without a file between: other calls, ids that are not the loop's, and arguments changed in place."""
    pending = waiting.pending()
    allowed, held, denied = pending.calls
    for calls in ((held,), (replace(held, call=Call("a", {})), allowed, denied), (allowed, held, held)):
        with pytest.raises(LoopError, match=r"pending calls: got others|calls\[[02]\].id: got 'call_2'"):
            waiting.resume(replace(pending, calls=calls))
    held.call.arguments["x"] = "9"  # type: ignore[index]
    with pytest.raises(LoopError, match="pending calls: got others"):
        waiting.resume(pending)
    assert waiting.ran == []
    held.call.arguments["x"] = "1"  # type: ignore[index]
    assert waiting.resume(pending).status == "answer"


def test_a_run_is_resumed_once_whoever_tries(tmp_path: Path) -> None:
    """Of eight that resume at the same time one does it; each other is told who, and each call ran once."""
    first = Waiting(tmp_path / "audit.db")
    pending = first.pending()
    others = [Waiting(tmp_path / "audit.db") for _ in range(8)]
    results: list[str] = []

    def go(one: Waiting, number: int) -> None:
        try:
            results.append(one.resume(pending, Approval(True, f"person {number}")).status)
        except LoopError as error:
            results.append(str(error))

    threads = [threading.Thread(target=go, args=(one, number)) for number, one in enumerate(others)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count("answer") == 1
    assert sum("its calls were decided on by person" in one for one in results) == 7
    assert sorted(one for waiting in others for one in waiting.ran) == [("a", "1"), ("b", "1")]
    assert first.store is not None
    assert verify(first.store).records == 7  # the openings of two runs among them


def test_a_resumption_that_was_interrupted_is_not_tried_again(waiting: Waiting) -> None:
    """The tool may have done its work: it is recorded as interrupted, and a second try is refused."""

    def interrupted(**arguments: Any) -> None:
        waiting.ran.append(("b", arguments["x"]))
        raise KeyboardInterrupt

    pending = waiting.pending()
    with pytest.raises(KeyboardInterrupt):
        waiting.resume(pending, Approval(True, "ann"), execute={**waiting.tools, "b": interrupted})
    assert waiting.store is not None
    assert events(waiting.store)[-1] == ("execution", "call_2", "interrupted")
    with pytest.raises(LoopError, match="decided on by ann"):
        waiting.resume(pending)
    assert waiting.ran == [("a", "1"), ("b", "1")]


def test_another_model_or_other_policies_are_refused(tmp_path: Path) -> None:
    """Other weights, other rules, rules of the same name and none; the same ones by another object are the same."""
    path = tmp_path / "audit.db"
    pending = Waiting(path).pending()
    stranger = Waiting(path, seed=1)
    with pytest.raises(LoopError, match=r"made with the model sha256:.*, but this runtime's is sha256:"):
        stranger.resume(pending)
    for policy, now in ((ruled(b="hold"), "ruled"), ((), "no policies"), (ruled(b="allow", c="deny"), "ruled")):
        lenient = Waiting(path, policy)
        with pytest.raises(LoopError, match=f"judged under ruled .*, but the policies now are {now}"):
            lenient.resume(pending)
        assert lenient.ran == []
    with pytest.raises(LoopError, match="but the policies now are no policies"):
        Waiting(path).resume(pending, policy=())
    assert Waiting(path, ()).resume(pending, policy=ruled(b="hold", c="deny")).status == "answer"


def test_a_file_that_claims_other_policies_or_another_model_is_refused(tmp_path: Path) -> None:
    """Edited to name what is loaded now, it is still not what its record says; on the runtime of the run it goes on."""
    path = tmp_path / "audit.db"
    pending = Waiting(path).pending()
    for stranger, error in (
        (Waiting(path, ruled(c="deny")), "record .*: judged under ruled"),
        (Waiting(path, seed=1), "record .*: made with the model"),
    ):
        runtime = stranger.script.runtime
        policies = tuple((one.name, fingerprint(one)) for one in runtime.policies)
        with pytest.raises(LoopError, match=error):
            stranger.resume(replace(pending, origin=Origin(runtime.loaded.fingerprint, policies)))
        assert stranger.ran == []
    assert Waiting(path).resume(pending).status == "answer"


def test_other_tools_than_those_judged_are_refused(waiting: Waiting) -> None:
    """A tool that is gone, or whose schema the call does not fit any more; with the tools as given it goes on."""
    pending = waiting.pending()
    for tools, error in (
        (ABC[1:], "call_1: got a call of 'a', which is not among the tools: b, c"),
        (
            [ABC[0], declared("b", {"type": "object", "properties": {"x": {"type": "integer"}}}), ABC[2]],
            "call_2: got a call of 'b' that does not fit its tool: arguments.x: '1' is not of type 'integer'",
        ),
    ):
        here = {one["function"]["name"]: waiting.tools[one["function"]["name"]] for one in tools}
        with pytest.raises(LoopError, match=error):
            waiting.resume(pending, tools=tools, execute=here)
    assert waiting.ran == []
    assert waiting.resume(pending).status == "answer"


def test_the_store_and_the_record_belong_together(tmp_path: Path) -> None:
    """An audited state needs its own store, an unaudited one none: neither goes on where it cannot be checked."""
    audited, bare = Waiting(tmp_path / "audit.db"), Waiting(None)
    pending, loose = audited.pending(), bare.pending()
    assert loose.record_id is None
    with pytest.raises(
        LoopError, match=r"which is no turn in .*other\.db; expected the store of the run that is pending"
    ):
        Waiting(tmp_path / "other.db").resume(pending)
    with pytest.raises(LoopError, match="but this runtime has no audit store to check it with"):
        bare.resume(pending)
    with pytest.raises(LoopError, match="got none, but this runtime has an audit store"):
        audited.resume(loose)
    assert audited.ran == bare.ran == []
    assert bare.resume(loose).status == "answer"
    assert audited.resume(pending).status == "answer"


def test_a_store_that_cannot_write_decides_nothing(waiting: Waiting) -> None:
    """Neither run nor half decided: once it can be written again, the same state resumes."""
    pending = waiting.pending(calling("b", "b", x="1"))
    assert waiting.store is not None
    waiting.store.database.execute(
        "CREATE TRIGGER full BEFORE INSERT ON records WHEN NEW.sequence > 3 BEGIN SELECT RAISE(ABORT, 'full'); END"
    )
    with pytest.raises(AuditError, match="cannot be written: full"):
        waiting.resume(pending)
    assert (waiting.ran, len(waiting.store)) == ([], 2)
    waiting.store.database.execute("DROP TRIGGER full")
    assert waiting.resume(pending).status == "answer"
    assert len(waiting.ran) == 2


def test_a_held_call_of_a_retried_turn_resumes(tmp_path: Path) -> None:
    """The second attempt ran under a variant of the policy; the state is resumed under the policy itself."""
    waiting = Waiting(tmp_path / "audit.db", ruled(a="retry", b="hold"))
    pending = waiting.pending(calling("a"), calling("b", x="1"))
    assert waiting.store is not None
    _, first, second = (record.content for record in waiting.store.records())
    assert first["policies"] != second["policies"]
    assert waiting.resume(pending).status == "answer"
    assert waiting.ran == [("b", "1")]


def test_a_turn_that_was_stopped_is_not_resumed(tmp_path: Path) -> None:
    """A state made by hand for a turn whose run a rule ended: its held call stays unrun."""
    waiting = Waiting(tmp_path / "audit.db", ruled(b="hold", c="stop"))
    held = waiting.pending(calling("b", x="1"))
    run = waiting.script.say(calling("b", "c", x="1")).loop(user(), ABC, execute=waiting.tools)
    assert run.status == "stopped"
    (turn,) = run.turns
    calls = [call for call in turn.calls if isinstance(call, Call)]
    asked = tuple(
        Asked(f"call_{n}", call, verdict)
        for n, (call, verdict) in enumerate(zip(calls, turn.verdicts, strict=False), start=1)
    )
    assert names(asked) == ["b"]  # the stopped one was cut off
    forged = replace(held, calls=asked, record_id=turn.record_id)
    with pytest.raises(LoopError, match="of a turn that was given up; begin a new run"):
        waiting.resume(forged)
    assert waiting.ran == []
    assert waiting.resume(held).status == "answer"


def test_a_resumed_run_may_wait_again(waiting: Waiting) -> None:
    """Each turn that holds is decided on by itself, with ids that go on."""
    pending = waiting.pending(calling("b", x="1"))
    again = waiting.script.say(calling("b", x="2")).resume(pending, True, tools=ABC, execute=waiting.tools)
    assert again.status == "pending"
    assert again.pending is not None
    assert [one.id for one in again.pending.held] == ["call_2"]
    assert waiting.ran == [("b", "1")]
    assert waiting.resume(again.pending).status == "answer"
    assert waiting.ran == [("b", "1"), ("b", "2")]


def test_a_base_policy_is_part_of_what_was_judged(tmp_path: Path) -> None:
    """A state made under a base policy is not resumed on a runtime without it."""
    store = Store(tmp_path / "audit.db")
    script = Script()
    based = Runtime(script.runtime.loaded, script.runtime.saes, base=RULES, store=store)
    tools = Waiting(None).tools
    script.say(calling("b", x="1"))
    run = based.loop(user(), ABC, execute=tools)
    assert run.pending is not None
    bare = Runtime(script.runtime.loaded, script.runtime.saes, store=store)
    with pytest.raises(LoopError, match="the policies now are no policies"):
        bare.resume(run.pending, True, tools=ABC, execute=tools)
    script.say("end" + END)
    assert based.resume(run.pending, True, tools=ABC, execute=tools).status == "answer"


OTHER_TEXT = {**declared("b"), "function": {**declared("b")["function"], "description": "Does it at once."}}
DECLARATIONS: dict[str, dict[str, Any]] = {
    "another description": OTHER_TEXT,
    "another schema": declared("b", {"type": "object", "properties": {"x": {"type": "string", "description": "all"}}}),
    "one parameter more": declared("b", {"type": "object", "properties": {"x": {"type": "string"}, "y": {}}}),
    "a bound more": declared("b", {"type": "object", "properties": {"x": {"type": "string", "maxLength": 99}}}),
    "required": declared("b", {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}),
}


@pytest.mark.parametrize("audited", [True, False])
@pytest.mark.parametrize("form", ["value", "file", "file without tools"])
@pytest.mark.parametrize("name", DECLARATIONS)
def test_a_tool_that_is_declared_otherwise_is_not_run(name: str, form: str, audited: bool, tmp_path: Path) -> None:
    """The call fits both declarations, but another was approved; under the same one, however written, it runs."""
    waiting = Waiting(tmp_path / "audit.db" if audited else None)
    pending = waiting.pending()
    if form != "value":
        data = json.loads(json.dumps(pending.to_json()))
        if form == "file without tools":
            del data["tools"]
        pending = Pending.from_json(data)
    unknown = form == "file without tools" and not audited
    told = "tools: got none, as an older steerkit wrote it" if unknown else r"'b' \(call_2\) was declared otherwise"
    with pytest.raises(LoopError, match=told) as caught:
        waiting.resume(pending, tools=[ABC[0], DECLARATIONS[name], ABC[2]])
    assert "\n" not in str(caught.value)
    assert waiting.ran == []
    if unknown:
        return
    function = ABC[1]["function"]
    same = {"parameters": {"properties": {"x": {"type": "string"}}, "type": "object"}, **function}
    assert waiting.resume(pending, tools=[ABC[2], same, ABC[0]]).status == "answer"
    assert waiting.ran == [("a", "1"), ("b", "1")]


def test_only_calls_that_may_run_hold_their_tool_to_its_declaration(waiting: Waiting) -> None:
    """A denied call's tool, and one that was not called, may change; an allowed one's may not."""
    pending = waiting.pending()
    strange = {"description": "Other.", "parameters": {"type": "object", "properties": {}}}
    with pytest.raises(LoopError, match=r"'a' \(call_1\) was declared otherwise"):
        waiting.resume(pending, tools=[{**ABC[0]["function"], "description": "Other."}, *ABC[1:]])
    tools = [*ABC[:2], {"name": "c", **strange}, {"name": "d", **strange}]
    assert waiting.resume(pending, tools=tools, execute={**waiting.tools, "d": print}).status == "answer"


def test_a_file_that_claims_the_new_declaration_is_refused(waiting: Waiting, tmp_path: Path) -> None:
    """Its fingerprint edited to that of the tool given now, it is still not what the record holds."""
    pending, new = waiting.pending(), [ABC[0], OTHER_TEXT, ABC[2]]
    claimed = Waiting(tmp_path / "other.db").script.say(calling("b")).loop(user(), new, execute=waiting.tools)
    assert claimed.pending is not None
    data = {**pending.to_json(), "tools": claimed.pending.to_json()["tools"]}
    with pytest.raises(LoopError, match=r"record .*: 'b' \(call_2\) was declared otherwise"):
        waiting.resume(Pending.from_json(data), tools=new)
    assert waiting.ran == []


def test_a_redacted_record_holds_no_state_to_anything(waiting: Waiting) -> None:
    """Whatever of it was taken away is named; a trace that is gone does not matter."""
    pending = waiting.pending()
    assert waiting.store is not None
    assert pending.record_id is not None
    redact(waiting.store, waiting.store.get(pending.record_id), b"k" * 32, ["trace", "prompt_ids"])
    redact(waiting.store, waiting.store.get(pending.record_id), b"k" * 32, ["tools"])
    with pytest.raises(LoopError, match="its tools was redacted, so the pending state cannot be checked"):
        waiting.resume(pending)
    assert waiting.ran == []
