"""Replies of a form that a request asks for: calls that must be made, one at a time, JSON of a schema, stops."""

from __future__ import annotations

from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from tests.server.serving import BALANCE, BOTH, BOTH_TOOLS, PAY, PLAIN, TOOLS, Served
from tests.server.test_chat import STRICT, ask, told
from tests.server.test_responses import FLAT
from tests.server.test_responses import ask as ask_response

FREE: dict[str, Any] = {"extra_body": {"steerkit": {"policy": "none"}}}
NAMED = {"type": "function", "function": {"name": "get_weather"}}
ALLOWED = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}}


class City(BaseModel):
    """What a reply is to say."""

    city: Literal["Oslo", "Rome"]
    warm: bool


def called(reply: Any) -> list[str]:
    return [one.function.name for one in reply.choices[0].message.tool_calls or ()]


def test_a_call_is_made_where_it_must_be(served: Served) -> None:
    """Without a choice the model answers, and with one it calls: any tool, or that one."""
    assert called(ask(served, PLAIN, **FREE)) == []
    assert len(called(ask(served, PLAIN, tool_choice="required", **FREE))) >= 1
    for choice in (NAMED, ALLOWED):
        reply = ask(served, PLAIN, tool_choice=choice, **FREE)
        assert called(reply)[0] == "get_weather"
        assert told(reply)["forced_by_grammar"]["grammar"].startswith("sha256:")
    assert called(ask(served, BALANCE, tool_choice="none", **FREE)) == []
    flat = ask_response(served, PLAIN, tool_choice={"type": "function", "name": "get_weather"}, **FREE)
    assert flat.output[0].name == "get_weather"  # type: ignore[union-attr]


def test_steering_wins_over_required(served: Served) -> None:
    """Where `payments` turns the model away there is no call, and the reply says why; without it there is one."""
    reply = ask(served, PAY, tool_choice="required")
    assert called(reply) == []
    assert "steering turned the model away" in told(reply)["forced_by_grammar"]["turned_away"]
    assert called(ask(served, PAY, tool_choice="required", **FREE)) == ["transfer_money"]


def test_one_call_at_a_time(served: Served) -> None:
    """`parallel_tool_calls: false` ends the reply after the first of two."""
    assert len(called(ask(served, BOTH, BOTH_TOOLS, **FREE))) == 2
    assert len(called(ask(served, BOTH, BOTH_TOOLS, parallel_tool_calls=False, **FREE))) == 1


def test_strict_tools_are_held_to_their_schema(served: Served) -> None:
    """The call is the model's own, and the record says what the grammar decided."""
    free, strict = ask(served, BALANCE), ask(served, BALANCE, STRICT)
    arguments = [one.choices[0].message.tool_calls[0].function.arguments for one in (free, strict)]  # type: ignore[index, union-attr]
    assert arguments[0] == arguments[1]
    assert told(free)["forced_by_grammar"] is None
    assert told(strict)["forced_by_grammar"]["forced"] > 0


def test_text_is_json_of_a_schema(served: Served) -> None:
    """openai's `parse` gives the object, by either endpoint."""
    client = served.client()
    settings: dict[str, Any] = {"model": "tiny:none", "temperature": 0.0}
    chat = client.chat.completions.parse(messages=PLAIN, response_format=City, max_tokens=60, **settings)  # type: ignore[arg-type]
    assert isinstance(chat.choices[0].message.parsed, City)
    found = client.responses.parse(input=PLAIN, text_format=City, max_output_tokens=60, **settings)  # type: ignore[arg-type]
    assert isinstance(found.output_parsed, City)


def test_a_text_ends_the_reply(served: Served) -> None:
    """Before the stop, whole and streamed."""
    whole = ask(served, PLAIN, stop=[" no tool"]).choices[0]
    assert (whole.message.content, whole.finish_reason) == ("Sorry, I have", "stop")
    chunks = served.client().chat.completions.create(
        model="tiny",
        messages=PLAIN,
        tools=TOOLS,
        stop=" no tool",
        stream=True,  # type: ignore[arg-type]
    )
    assert "".join(one.choices[0].delta.content or "" for one in chunks) == "Sorry, I have"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tool_choice", "sometimes"),
        ("tool_choice", {"type": "custom"}),
        ("stop", [""]),
        ("response_format", {"type": "yaml"}),
        ("response_format", {"type": "json_schema", "json_schema": {"schema": {"type": "nothing"}}}),
    ],
)
def test_a_form_that_cannot_be_is_named(served: Served, field: str, value: Any) -> None:
    """Status 400 with the field."""
    with pytest.raises(openai.BadRequestError) as caught:
        ask(served, PLAIN, **{field: value})
    assert (caught.value.param or "").partition(".")[0] == field


def test_strict_is_the_default_of_agents(served: Served) -> None:
    """openai-agents sends strict tools: the same call comes by Responses."""
    (call,) = ask_response(served, BALANCE, tools=FLAT).output
    assert call.name == "get_balance"  # type: ignore[union-attr]
