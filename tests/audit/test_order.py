"""The order of keys that a prompt was written in: a record keeps it, so that the prompt can be written again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.agent import Runtime
from steerkit.audit import (
    ASKER,
    ENDPOINT,
    Approvals,
    Context,
    Store,
    append_turn,
    canonical,
    compare,
    parse_canonical,
    read_turn,
    text_in_order,
    verify,
)
from steerkit.audit.log.canonical import InOrder, in_order, plain_objects
from steerkit.audit.records.held import approval_id
from steerkit.chat import render
from steerkit.runtime import Request, replay
from steerkit.types import Call, Span, Tool, Trace, Turn, Verdict
from tests.audit.test_records import MODEL, SAMPLING
from tests.chat.families import FAMILIES, family

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"to": {"type": "string", "description": "Who"}, "amount": {"type": "integer", "description": "Sum"}},
    "required": ["to"],
}
TOOL = Tool("pay", "Pays.", SCHEMA)
ARGUMENTS = {"to": "Ann", "amount": 3, "more": {"z": [{"b": 1, "a": 2}], "é": 1, "d": {}}}
RESULT = {"status": "sent", "at": {"hour": 7, "day": 1}}
MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": "pay Ann"},
    {
        "role": "assistant",
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "pay", "arguments": ARGUMENTS}}],
    },
    {"role": "tool", "tool_call_id": "1", "content": RESULT},
    {"role": "user", "content": [{"type": "text", "text": "thanks"}]},
]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"a": 1, "b": 2}, '{"a":1,"b":2}'),
        ({"b": 1, "a": 2}, '{"$object":[["b",1],["a",2]]}'),
        ({"a": [{"c": 1, "b": 2.0}]}, '{"a":[{"$object":[["c",1],["b",2]]}]}'),
        (
            {"\ue000": 1, "\U0001f600": 2**60},
            '{"$object":[["\ue000",1],["\U0001f600",{"$integer":"0x1000000000000000"}]]}',
        ),
        ({"$text": 1, "a": 2}, '{"$object":[["$text",1],["a",2]]}'),
    ],
)
def test_an_order_is_written_where_it_is_another(value: Any, written: str) -> None:
    """Pairs where canonical JSON has another order; read they are the value again, and written the same bytes."""
    data = canonical(in_order(value))
    assert data.decode() == written
    read = parse_canonical(data)
    assert repr(plain_objects(read)) == repr(value).replace(".0", "")
    assert canonical(read) == data
    assert (canonical(value) == data) is ("$object" not in written or "$text" in written)


objects = st.recursive(
    st.integers() | st.text() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
)


@given(objects)
def test_any_order_comes_back(value: Any) -> None:
    """Of all values; plain canonical JSON, the control, is one form for all orders."""
    data = canonical(in_order(value))
    read = parse_canonical(data)
    assert repr(plain_objects(read)) == repr(value)
    assert canonical(read) == data
    assert canonical(plain_objects(read)) == canonical(value)
    assert plain_objects(InOrder(a=1)) == {"a": 1}


def stored(path: Path) -> Store:
    """A store with one turn."""
    store = Store(path)
    turn = Turn("welcome", (), (), Trace(), (1,), (2,), "stop")
    append_turn(store, turn, Context(MESSAGES, [TOOL], MODEL, None, [], False, SAMPLING, {}, 0.0, {}, {}, None, {}))
    return store


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prompt_is_written_again_from_its_record(name: str, tmp_path: Path) -> None:
    """Tools, arguments and results of every family stand in the recorded prompt's order; sorted, the control, some
    stand otherwise. The store verifies."""
    store, tokenizer = stored(tmp_path / "a.db"), family(name)
    record = read_turn(store, store.get("1")).record
    assert verify(store).records
    prompt = render(tokenizer, MESSAGES, [TOOL])
    again = render(tokenizer, record.messages, record.tools)
    assert again.text == prompt.text
    by_key = parse_canonical(canonical([MESSAGES, SCHEMA]))
    assert render(tokenizer, by_key[0], [Tool("pay", "Pays.", by_key[1])]).text != prompt.text or name == "gemma4"


def test_a_held_call_waits_as_it_was_written(tmp_path: Path) -> None:
    """Whoever approves it later, and whoever runs it then, has the model's order; canonical JSON, the control, another.
    Its id is of what it says in any order."""
    store, call = Store(tmp_path / "a.db"), Call("pay", ARGUMENTS, Span(0, 2))
    held = Verdict("hold", "ask", "careful", "money moves")
    turn = Turn("", (call,), (held,), Trace(), (1,), (2,), "tool_call", call_ids=("call_1",))
    about = {ENDPOINT: "chat", ASKER: "ann"}
    asked = Context(MESSAGES, [TOOL], MODEL, None, [], True, SAMPLING, {}, 0.0, {}, {}, None, about)
    made = append_turn(store, turn, asked)
    again = Store(tmp_path / "a.db")
    (waiting,) = Approvals(again).pending("ann")
    assert text_in_order(waiting.call.arguments) == text_in_order(ARGUMENTS)
    by_key = Call("pay", parse_canonical(canonical(ARGUMENTS)))
    assert text_in_order(by_key.arguments) != text_in_order(ARGUMENTS)
    assert waiting.id == approval_id(str(made.record_id), waiting.call_id, by_key)
    assert verify(again).records


def test_a_turn_after_a_call_is_replayed(box: Runtime) -> None:
    """A conversation whose calls name their arguments in another order than the alphabet's."""
    asked = {"name": "transfer_money", "arguments": {"to": "Ann", "amount": 3}}
    messages = [
        {"role": "user", "content": "pay Ann 3 dollars"},
        {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": asked}]},
        {"role": "tool", "tool_call_id": "1", "content": {"status": "sent", "amount": 3}},
    ]
    tool = {"type": "function", "function": {"name": "transfer_money", "description": "Pays.", "parameters": SCHEMA}}
    assert box.store is not None
    turn = box.run_batch([Request(messages, [tool], ())])[0]
    recorded = read_turn(box.store, box.store.get(str(turn.record_id)))
    made = replay(box, recorded)
    assert compare(recorded, made.record, made.turn.trace).difference is None


def test_arguments_are_told_in_their_order() -> None:
    """Text of a call reads as the model wrote it; what a terminal or UTF-8 cannot carry is escaped."""
    table = {
        '{"to":"Ann","amount":3}': {"to": "Ann", "amount": 3},
        '{"b":"é","a":[1.5,null]}': {"b": "é", "a": [1.5, None]},
        '{"n":1152921504606846976}': {"n": 2**60},
        '{"t":"\\ud800"}': {"t": "\ud800"},
        '{"t":"\\u202e"}': {"t": "\u202e"},
    }
    for text, arguments in table.items():
        assert text_in_order(arguments) == text
