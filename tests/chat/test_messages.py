"""Histories: results paired with their calls, values the wire can carry, and which turn the model writes in."""

from __future__ import annotations

from typing import Any

import pytest

from steerkit.chat import render
from steerkit.errors import MessageError

USER = {"role": "user", "content": "x"}


def asks(*calls: tuple[str, str]) -> dict[str, Any]:
    """An assistant message with calls, each an id and a tool's name."""
    return {
        "role": "assistant",
        "tool_calls": [{"id": key, "function": {"name": name, "arguments": "{}"}} for key, name in calls],
    }


def answers(key: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": key, "content": content, **more}


def responses(tokenizer: Any, *messages: dict[str, Any]) -> list[str]:
    """What stands between the response tokens of a prompt."""
    pieces = render(tokenizer, messages).text.split("<start_function_response>response:")[1:]
    return [piece.split("<end_function_response>")[0] for piece in pieces]


def test_results_stand_in_the_order_of_their_calls(tokenizer: Any) -> None:
    """The wire has no ids, so a result that came back first must not be read as the first call's."""
    calls = asks(("a", "get"), ("b", "get"), ("c", "put"))
    found = responses(tokenizer, USER, calls, answers("c", "C"), answers("b", "B"), answers("a", "A"))
    assert found == ["get{value:<escape>A<escape>}", "get{value:<escape>B<escape>}", "put{value:<escape>C<escape>}"]


def test_results_without_an_id_stay_as_they_stand(tokenizer: Any) -> None:
    """Only ids tell which call a result answers; without them the caller's order counts."""
    named = [{"role": "tool", "name": "get", "content": text} for text in ("B", "A")]
    found = responses(tokenizer, USER, asks(("a", "get"), ("b", "get")), *named)
    assert found == ["get{value:<escape>B<escape>}", "get{value:<escape>A<escape>}"]


def test_ids_may_be_used_again_in_a_later_turn(tokenizer: Any) -> None:
    """A result answers the newest call of its id."""
    later = [{"role": "assistant", "content": "done"}, USER, asks(("a", "put")), answers("a", "B")]
    found = responses(tokenizer, USER, asks(("a", "get")), answers("a", "A"), *later)
    assert found == ["get{value:<escape>A<escape>}", "put{value:<escape>B<escape>}"]


def test_a_result_cannot_name_another_tool_than_its_call(tokenizer: Any) -> None:
    """An id and a name that disagree are refused, and so is an id of no call, whatever the name."""
    assert responses(tokenizer, USER, asks(("a", "get")), answers("a", "A", name="get"))
    with pytest.raises(MessageError, match=r"messages\[2\]\.name: got 'put', expected 'get'"):
        render(tokenizer, [USER, asks(("a", "get")), answers("a", "A", name="put")])
    with pytest.raises(MessageError, match=r"messages\[2\]\.tool_call_id: got 'z', expected the id of an earlier call"):
        render(tokenizer, [USER, asks(("a", "get")), answers("z", "A", name="get")])


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": Infinity}', '{"a": 1e999}', '{"a": ' + "[" * 100_000, "{oops"])
def test_text_that_is_no_json_is_a_value(tokenizer: Any, text: str) -> None:
    """What JSON has no word for, and the wire neither, stays the text it was."""
    (found,) = responses(tokenizer, USER, asks(("a", "get")), answers("a", text))
    assert found == f"get{{value:<escape>{text}<escape>}}"


def test_a_result_nested_too_deeply_is_refused(tokenizer: Any) -> None:
    """It is an error of the messages, not of Python's stack."""
    nested: Any = 1
    for _ in range(100_000):
        nested = [nested]
    for result in ({"name": "get", "response": {"a": nested}}, '{"a": ' + "[" * 900 + "]" * 900 + "}"):
        with pytest.raises(MessageError, match=r"messages(\[2\]\.content)?: "):
            render(tokenizer, [USER, asks(("a", "get")), {"role": "tool", "name": "get", "content": result}])


def test_the_model_goes_on_in_its_turn_after_a_result(tokenizer: Any) -> None:
    """After a result no turn is opened; after a user's message or an answer one is."""
    calls, result = asks(("a", "get")), answers("a", "A")
    assert render(tokenizer, [USER, calls, result]).open_model_turn
    assert render(tokenizer, [USER, calls, result]).text.count("<start_of_turn>model\n") == 1
    for ending in ([], [calls, result, USER], [calls, result, {"role": "assistant", "content": "ok"}, USER]):
        prompt = render(tokenizer, [USER, *ending])
        assert not prompt.open_model_turn
        assert prompt.text.endswith("<start_of_turn>model\n")


def test_a_refusal_names_the_message_its_role_and_the_token(tokenizer: Any) -> None:
    """Also where results were given in another order than they are rendered in."""
    calls = asks(("a", "get"), ("b", "get"))
    bad = [USER, calls, answers("b", "x<escape>"), answers("a", "A")]
    with pytest.raises(MessageError, match=r"messages\[2\] \(tool\).*the control token <escape> in text"):
        render(tokenizer, bad, untrusted="refuse")
