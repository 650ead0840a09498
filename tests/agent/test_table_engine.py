"""A turn, a stream, a batch and a loop on an engine without a model: runtime, guard, agent and audit need no other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steerkit.agent import Approval, Runtime
from steerkit.audit import Store, read_turn, verify
from steerkit.chat import CallClosed
from steerkit.engine import Engine
from steerkit.errors import LoopError, ModelError
from steerkit.policy import Policy
from steerkit.runtime import Request, Retried, replay, what_if
from steerkit.testing import planted_policy
from steerkit.types import MalformedCall, Turn
from tests.agent.scripted import END, box_tokenizer, calling, declared, events, ruled, user
from tests.engine.table import TableEngine

TOKENIZER = box_tokenizer()
CALL = TOKENIZER.convert_tokens_to_ids("<start_function_call>")
TOOLS = [declared("a"), declared("b")]


def on_table(*replies: str, policy: Any = (), path: Path | None = None, **values: Any) -> Runtime:
    engine: Engine = TableEngine(TOKENIZER, values, list(replies))
    return Runtime(engine, policy=policy, store=None if path is None else Store(path))


def watching(**rule: Any) -> Policy:
    """Denies calls at whose opening a feature is above 1."""
    when = {"feature": "f", "above": 1.0}
    rules = [{"name": "high", "when": when, "then": "deny", **rule}]
    return planted_policy("watching", {"f": (0, 3)}, guard={"default": "allow", "rules": rules})


def test_a_turn_is_parsed_judged_and_recorded(tmp_path: Path) -> None:
    """Calls, verdicts and a record that verifies, and says what decoded."""
    runtime = on_table(calling("a", x="1") + END, policy=ruled(a="hold"), path=tmp_path / "a.db")
    turn = runtime.run(user(), TOOLS)
    assert [(call.name, dict(call.arguments)) for call in turn.calls] == [("a", {"x": "1"})]  # type: ignore[union-attr]
    assert [verdict.decision for verdict in turn.verdicts] == ["hold"]
    store = runtime.store
    assert store is not None
    assert verify(store).records == 2  # the run's opening among them
    record = read_turn(store, store.get(str(turn.record_id))).record
    assert record.model.name == "table"
    assert (record.libraries, record.machine) == ({"table": "1"}, {"decoding": "a table"})


@pytest.mark.parametrize(("value", "decision"), [(2.0, "deny"), (0.5, "allow")])
def test_the_guard_reads_the_recording(value: float, decision: str) -> None:
    """Values come from the engine, whatever it computes them from; below the threshold is the control."""
    runtime = on_table(calling("a") + END, policy=watching(), **{"watching.f": {CALL: value}})
    turn = runtime.run(user(), TOOLS)
    assert [verdict.decision for verdict in turn.verdicts] == [decision]
    assert value in turn.trace.watched["watching.f"]


def test_a_tripwire_ends_a_row_early() -> None:
    """Rows are cut by sending their numbers; the other row goes on to its end."""
    policy = ruled(a="stop")
    both = [calling("a", x="long " * 9) + END, calling("b", x="1") + END]
    runtime = on_table(*both, policy=policy)
    cut, other = runtime.run_batch([Request(user(), TOOLS), Request(user(), TOOLS)])
    assert (cut.finish, other.finish) == ("tripwire", "tool_call")
    assert isinstance(cut.calls[0], MalformedCall)
    assert len(cut.reply_ids) < len(TOKENIZER.encode(both[0], add_special_tokens=False)) / 2


def test_a_retry_and_a_stream(tmp_path: Path) -> None:
    """Another attempt is another generation, under the rule that was named; both are recorded."""
    runtime = on_table(calling("a") + END, "sorry" + END, policy=ruled(a="retry"), path=tmp_path / "a.db")
    items = list(runtime.stream(user(), TOOLS))
    kinds = [type(item) for item in items]
    assert [kind for kind in kinds if kind in (CallClosed, Retried, Turn)] == [CallClosed, Retried, Turn]
    turn = items[-1]
    assert isinstance(turn, Turn)
    assert (turn.text, turn.calls, len(turn.attempts)) == ("sorry", (), 1)
    first, second = runtime.engine.given  # type: ignore[attr-defined]  # of the table
    assert first.wanted.policies != second.wanted.policies
    assert runtime.store is not None
    assert [kind for kind, *_ in events(runtime.store)] == ["turn", "turn"]


def test_a_loop_runs_tools_and_waits_for_people(tmp_path: Path) -> None:
    """Held calls, a resume and the answer, with a record of each."""
    ran: list[Any] = []
    said = (calling("a", x="1") + END, "done" + END)
    runtime = on_table(*said, policy=ruled(a="hold"), path=tmp_path / "a.db")
    execute = {"a": lambda **given: ran.append(given) or {"fine": True}, "b": print}
    run = runtime.loop(user(), TOOLS, execute=execute)
    assert run.status == "pending"
    assert run.pending is not None
    assert run.pending.origin.model == runtime.engine.provenance.model.fingerprint
    rest = runtime.resume(run.pending, Approval(True, by="ann"), tools=TOOLS, execute=execute)
    assert (rest.status, rest.text, ran) == ("answer", "done", [{"x": "1"}])
    assert json.loads(rest.messages[-2]["content"]) == {"fine": True}
    with pytest.raises(LoopError, match="resumed once"):
        runtime.resume(run.pending, True, tools=TOOLS, execute=execute)


def test_replay_and_what_if(tmp_path: Path) -> None:
    """A recorded turn again, and beside it the turn under other policies."""
    reply = calling("a") + END
    runtime = on_table(reply, reply, reply, reply, policy=ruled(a="allow"), path=tmp_path / "a.db")
    turn = runtime.run(user(), TOOLS)
    assert runtime.store is not None
    recorded = read_turn(runtime.store, runtime.store.get(str(turn.record_id)))
    assert replay(runtime, recorded).turn.reply_ids == turn.reply_ids
    other = what_if(runtime, recorded, [ruled(a="deny")])
    both = (other.first.turn, other.second.turn)
    assert [verdict.decision for one in both for verdict in one.verdicts] == ["allow", "deny"]
    assert [moment.at for moment in other.moments] == [("call opens",), ("name begins",)]
    assert [moment.probabilities for moment in other.moments] == [(1.0, 1.0), (0.0, 0.0)]  # the second is not forced


def test_what_the_engine_says_of_itself_is_heeded() -> None:
    """Its context bounds prompts; what only transformers has is refused by name."""
    runtime = on_table("fine" + END)
    assert runtime.run(user()).text == "fine"  # the control
    runtime.engine.context = 5  # type: ignore[misc]  # of the table
    with pytest.raises(ModelError, match="the model's context is 5"):
        runtime.run(user())
    with pytest.raises(ModelError, match="runs on TableEngine, expected transformers"):
        _ = runtime.loaded
