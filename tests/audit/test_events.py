"""What is written down of a call after its turn: approvals and executions, in the chain and on the terminal."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from steerkit.audit import (
    ApprovalRecord,
    Context,
    ExecutionRecord,
    ModelIdentity,
    SamplingSettings,
    Store,
    StoredRecord,
    append_turn,
    approvals_of,
    canonical,
    digest,
    verify,
)
from steerkit.cli.main import app
from steerkit.errors import AuditError, TamperError
from steerkit.types import Call, Trace, Turn, Verdict

CALL = Call("unlock_door", {"door": "south"})
CONTEXT = Context([{"role": "user", "content": "open"}], [], ModelIdentity("m"), None, [], True, SamplingSettings(), {})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "audit.db")


def turn(store: Store) -> StoredRecord:
    """The record of a turn with one held call."""
    made = Turn("", (CALL,), (Verdict("hold", "r", "ask", "p"),), Trace(), (1,), (2,), "tool_call")
    return store.get(str(append_turn(store, made, CONTEXT).record_id))


def approve(store: Store, of: str | None, *, approved: bool = True, error: str | None = None) -> StoredRecord:
    about: dict[str, Any] = {"turn": of, "call_id": "call_1", "call": CALL, "by": "ann", "note": "at noon"}
    return store.append(ApprovalRecord(**about, decision="approve" if approved else "refuse", error=error))


def execute(store: Store, of: str | None, status: str = "ok", result: object = None) -> StoredRecord:
    kept = None if result is None else digest(result)
    return store.append(ExecutionRecord(turn=of, call_id="call_1", call=CALL, status=status, result=kept, seconds=0.25))


def test_an_approval_says_who_decided_what_and_why(store: Store) -> None:
    """The call, the person, the note and how asking failed stand in one record of the chain."""
    first = turn(store)
    content = approve(store, first.id).content
    assert content == {
        "format": 2,
        "kind": "approval",
        "turn": first.id,
        "call_id": "call_1",
        "call": {"name": "unlock_door", "arguments": {"door": "south"}},
        "decision": "approve",
        "by": "ann",
        "note": "at noon",
        "error": None,
    }
    refused = approve(store, first.id, approved=False, error="nobody answered").content
    assert (refused["decision"], refused["error"]) == ("refuse", "nobody answered")
    assert verify(store).records == 3


def test_an_execution_says_how_it_went_and_proves_the_result(store: Store) -> None:
    """Of the result the hash is kept: whoever has the result can show that it is the one; without one it is None."""
    first = turn(store)
    result = {"status": "open", "n": 2**60}
    content = execute(store, first.id, result=result).content
    assert content["result"] == hashlib.sha256(canonical(result)).hexdigest()
    assert content["result"] != hashlib.sha256(canonical({"status": "shut"})).hexdigest()
    assert (content["kind"], content["turn"], content["status"], content["seconds"]) == (
        "execution",
        first.id,
        "ok",
        0.25,
    )
    assert execute(store, first.id, "interrupted").content["result"] is None
    assert verify(store).records == 3


def test_the_approvals_of_a_turn_are_those_of_no_other(store: Store) -> None:
    """Executions, other turns' approvals and records that only mention its id are left out."""
    first, second = turn(store), turn(store)
    assert approvals_of(store, first) == []
    mine = approve(store, first.id)
    approve(store, second.id)
    execute(store, first.id, result={"value": first.id})
    call = Call("f", {"x": first.id})
    other = ApprovalRecord(turn=second.id, call_id="c", call=call, decision="approve", by="", note="", error=None)
    store.append(other)
    assert [stored for stored, _ in approvals_of(store, first)] == [mine]
    assert len(approvals_of(store, second)) == 2


@pytest.mark.parametrize("field", ["by", "decision", "arguments"])
def test_a_changed_event_fails_verification(field: str, store: Store, tmp_path: Path) -> None:
    """Who agreed, to what and to which call cannot be rewritten; untouched the store verifies."""
    approve(store, turn(store).id)
    assert verify(store).records == 2
    body = store.get("2").content
    if field == "arguments":
        body["call"]["arguments"]["door"] = "north"
    else:
        body[field] = "other"
    store.database.execute("UPDATE records SET body = ? WHERE sequence = 2", (canonical(body),))
    with pytest.raises(TamperError, match=r"record 2 .* its content does not match its hash"):
        verify(store)


def test_approvals_are_kept_whole_or_not_at_all(store: Store) -> None:
    """What is appended inside `exclusive` is gone if its end is not reached, and the chain goes on without it."""
    first = turn(store)

    def both() -> None:
        with store.exclusive():
            approve(store, first.id)
            raise AuditError("no more")

    with pytest.raises(AuditError, match="no more"):
        both()
    assert len(store) == 1
    with store.exclusive():
        approve(store, first.id)
        approve(store, first.id)
    assert verify(store).records == 3


def test_what_json_cannot_carry_is_refused(store: Store) -> None:
    """A result that is no JSON is not written; one that is, is."""
    with pytest.raises(AuditError, match="a record holds what JSON cannot carry"):
        execute(store, None, result={"value": float("nan")})
    assert len(store) == 0
    execute(store, None, result={"value": 1.5})
    assert len(store) == 1


def test_the_command_line_shows_events(store: Store) -> None:
    """`list` and `show` name the person, the call and how it went, beside the turns as ever."""
    first = turn(store)
    approve(store, first.id)
    approve(store, first.id, approved=False, error="approve raised TimeoutError")
    execute(store, first.id, "timeout", {"error": "timed out after 30 s"})

    def said(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["audit", *arguments, "--store", str(store.path)])
        assert done.exit_code == 0, done.output
        return done.output

    lines = said("list").splitlines()
    assert [line.split()[3] for line in lines] == ["run:timeout", "refused", "approved", "hold"]
    assert lines[2].endswith('unlock_door(door="south")  by ann: at noon')
    assert "approve raised TimeoutError" in lines[1]
    assert f"turn     {first.id}  call_1" in said("show", "2")
    assert "approved by ann" in said("show", "2")
    assert "error    approve raised TimeoutError" in said("show", "3")
    assert "run      timeout in 0.25 s" in said("show", "4")
    parsed = [json.loads(line) for line in said("list", "--json").splitlines()]
    assert [one["kind"] for one in parsed] == ["execution", "approval", "approval", "turn"]
    assert parsed[2]["by"] == "ann"
    assert json.loads(said("show", "4", "--json"))["body"]["status"] == "timeout"
    assert "ok: 4 records" in said("verify")
