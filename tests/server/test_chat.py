"""Chat completions: openai's own client and types on a real socket."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from steerkit.audit import TurnRecord, read_content
from tests.server.serving import BALANCE, BOTH, BOTH_TOOLS, DOOR, PAY, PLAIN, TOOLS, Served

HISTORY: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
    *BALANCE,
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": "a", "type": "function", "function": {"name": "get_balance", "arguments": '{"account": "travel 38"}'}},
        {"id": "b", "type": "function", "function": {"name": "get_weather", "arguments": "{not json"}},
    ]},
    {"role": "tool", "tool_call_id": "a", "content": "1200 dollars"},
    {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "failed"}]},
]  # fmt: skip

STRICT = [{**one, "function": {**one["function"], "strict": True}} for one in TOOLS]


def ask(served: Served, messages: Any, tools: Any = TOOLS, model: str = "tiny", **more: Any) -> ChatCompletion:
    """A reply, which openai's types accept as they are."""
    found = served.client().chat.completions.with_raw_response.create(
        model=model, messages=messages, tools=tools, **more
    )
    ChatCompletion.model_validate_json(found.text, strict=True)
    done: ChatCompletion = found.parse()
    assert found.headers["x-steerkit-record"] == done.steerkit["record"]  # type: ignore[attr-defined]  # ours
    return done


def told(reply: Any) -> dict[str, Any]:
    """The `steerkit` object of a reply."""
    found: dict[str, Any] = reply.model_extra["steerkit"]
    return found


def stream(served: Served, messages: Any, tools: Any = TOOLS, **more: Any) -> list[ChatCompletionChunk]:
    """All chunks of a reply, each as openai's types have it."""
    chunks = list(
        served.client().chat.completions.create(model="tiny", messages=messages, tools=tools, stream=True, **more)
    )
    for chunk in chunks:
        ChatCompletionChunk.model_validate_json(chunk.model_dump_json(), strict=True)
    return chunks


def test_a_released_call_comes_with_its_record(served: Served) -> None:
    """The call, the tokens and the record are those of the runtime's own turn."""
    reply = ask(served, BALANCE, metadata={"ticket": "7"}, user="ann")
    alone = served.runtime.run(BALANCE, TOOLS)
    (choice,) = reply.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_balance", {"account": "travel 38"})
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (len(alone.prompt_ids), len(alone.reply_ids))
    record = read_content(served.store.get(told(reply)["record"]))
    assert isinstance(record, TurnRecord)
    assert record.reply_ids == alone.reply_ids
    assert record.metadata is not None
    assert {key: record.metadata[key] for key in ("ticket", "user", "endpoint")} == {
        "ticket": "7", "user": "ann", "endpoint": "/v1/chat/completions",
    }  # fmt: skip
    assert reply.id == f"chatcmpl-{record.metadata['request_id']}"
    assert reply.metadata == {"ticket": "7"}
    assert told(reply)["verdicts"][0]["decision"] == "allow"


def test_usage_says_what_the_prefix_cache_knew(served: Served) -> None:
    """Nothing of a prompt that begins in a new way, most of it when it comes again; so do Responses and streams."""
    asked: list[dict[str, Any]] = [{"role": "system", "content": "It is a new day."}, *BALANCE]
    first, again = (ask(served, asked).usage for _ in range(2))
    assert first is not None
    assert again is not None
    known = [one.prompt_tokens_details.cached_tokens for one in (first, again) if one.prompt_tokens_details is not None]
    assert known[0] == 0 < known[1] < again.prompt_tokens
    assert stream(served, asked, stream_options={"include_usage": True})[-1].usage == again
    tools = [{"type": "function", **one["function"]} for one in TOOLS]
    body = {"model": "tiny", "instructions": "It is a new day.", "input": BALANCE[0]["content"], "tools": tools}
    told = served.post("/v1/responses", body).json()["usage"]
    assert told["input_tokens_details"]["cached_tokens"] == known[1]


def test_a_stream_is_the_reply_in_pieces(served: Served) -> None:
    """Role first, a call whole after its verdict, the end with our object, the usage last."""
    chunks = stream(served, BALANCE, stream_options={"include_usage": True})
    assert chunks[0].choices[0].delta.role == "assistant"
    fragments = [call for chunk in chunks for one in chunk.choices for call in one.delta.tool_calls or ()]
    assert [(one.index, one.id, one.function and one.function.name) for one in fragments] == [
        (0, "call_1", "get_balance"), (0, None, None),
    ]  # fmt: skip
    assert fragments[1].function is not None
    assert json.loads(fragments[1].function.arguments or "") == {"account": "travel 38"}
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-1] == "tool_calls"
    assert told(chunks[-2])["record"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_text_is_streamed_as_it_comes(served: Served) -> None:
    """Several pieces, which come to the text of the whole reply."""
    chunks = stream(served, PLAIN)
    pieces = [one.delta.content for chunk in chunks for one in chunk.choices if one.delta.content]
    whole = ask(served, PLAIN).choices[0]
    assert len(pieces) > 2
    assert "".join(pieces) == whole.message.content
    assert whole.finish_reason == "stop"


def test_the_stream_helper_and_parse(served: Served) -> None:
    """openai's accumulating helper gives the same call as `parse`; a denied call makes `parse` raise."""
    client = served.client()
    with client.chat.completions.stream(model="tiny", messages=BALANCE, tools=TOOLS) as events:  # type: ignore[arg-type]
        kinds = [event.type for event in events]
        final = events.get_final_completion()
    assert "tool_calls.function.arguments.done" in kinds
    parsed = client.chat.completions.parse(model="tiny", messages=BALANCE, tools=STRICT)  # type: ignore[arg-type]
    calls = [one.choices[0].message.tool_calls for one in (final, parsed)]
    assert calls[0] is not None
    assert calls[1] is not None
    assert calls[0][0].function.arguments == calls[1][0].function.arguments
    with pytest.raises(openai.ContentFilterFinishReasonError):
        client.chat.completions.parse(model="tiny:deny-balance", messages=BALANCE, tools=STRICT)  # type: ignore[arg-type]


def test_two_calls_at_once(served: Served) -> None:
    """Each has an index and an id of its own."""
    chunks = stream(served, BOTH, BOTH_TOOLS)
    firsts = [
        call for chunk in chunks for one in chunk.choices for call in one.delta.tool_calls or () if call.id is not None
    ]
    assert [(one.index, one.id) for one in firsts] == [(0, "call_1"), (1, "call_2")]


def test_steering_is_of_the_request(served: Served) -> None:
    """Under `payments` the model turns away; with no policies it pays: by name of the model, by body, by header."""
    steered = ask(served, PAY)
    assert steered.choices[0].message.tool_calls is None
    assert {one["policy"] for one in told(steered)["edits"]} == {"payments"}
    header = {"extra_headers": {"x-steerkit-policy": "none"}}
    for more in ({"model": "tiny:none"}, {"extra_body": {"steerkit": {"policy": []}}}, header):
        free = ask(served, PAY, **more)  # type: ignore[arg-type]
        assert free.choices[0].message.tool_calls is not None
        assert told(free)["edits"] == []
    both = ask(served, PAY, model="tiny:payments+people")
    assert both.choices[0].message.tool_calls is None


def test_a_denied_call_never_leaves(served: Served) -> None:
    """Whole and streamed: no call, `content_filter`, the reason as refusal."""
    whole = ask(served, BALANCE, model="tiny:deny-balance").choices[0]
    assert (whole.finish_reason, whole.message.tool_calls) == ("content_filter", None)
    assert whole.message.refusal == "not run: a test says deny"
    chunks = stream(served, BALANCE, extra_body={"steerkit": {"policy": "deny-balance"}})
    deltas = [one.delta for chunk in chunks for one in chunk.choices]
    assert [one.refusal for one in deltas if one.refusal] == ["not run: a test says deny"]
    assert not any(one.tool_calls for one in deltas)
    assert chunks[-1].choices[0].finish_reason == "content_filter"


@pytest.mark.parametrize("streamed", [False, True])
def test_a_stopped_run_is_forbidden(served: Served, streamed: bool) -> None:
    """403 with a stable code, before a stream begins; the turn is on record."""
    with pytest.raises(openai.PermissionDeniedError) as caught:
        served.client().chat.completions.create(
            model="tiny:stop-balance",
            messages=BALANCE,  # type: ignore[arg-type]
            tools=TOOLS,  # type: ignore[arg-type]
            stream=streamed,
        )
    assert caught.value.code == "run_stopped"
    record = served.store.get(caught.value.response.headers["x-steerkit-record"])
    assert b"all-stop" in record.body


def test_a_handed_over_turn_says_so(served: Served) -> None:
    """Nothing of it runs."""
    reply = ask(served, BALANCE, model="tiny:handoff-balance")
    assert reply.choices[0].finish_reason == "content_filter"
    assert reply.choices[0].message.tool_calls is None
    assert told(reply)["status"] == "handoff"


@pytest.mark.parametrize("streamed", [False, True])
def test_a_held_call_is_named_and_kept(served: Served, streamed: bool) -> None:
    """Not among the calls; text and our object name what is decided on."""
    if streamed:
        chunks = stream(served, DOOR)
        text = "".join(one.delta.content or "" for chunk in chunks for one in chunk.choices)
        finish, said = chunks[-1].choices[0].finish_reason, told(chunks[-1])
        assert not any(one.delta.tool_calls for chunk in chunks for one in chunk.choices)
    else:
        reply = ask(served, DOOR)
        text, finish = reply.choices[0].message.content or "", reply.choices[0].finish_reason
        said = told(reply)
        assert reply.choices[0].message.tool_calls is None
    (held,) = said["held"]
    assert (finish, said["status"]) == ("stop", "held")
    assert held["id"] in text
    assert (held["name"], held["arguments"]) == ("unlock_door", {"door": "south cellar"})


def test_text_waits_under_a_policy_that_may_retry(served: Served) -> None:
    """Its text comes in one piece after the last attempt, which names the ones before; else it comes in several."""
    chosen = {"extra_body": {"steerkit": {"policy": "again"}}}
    chunks = stream(served, PLAIN, **chosen)
    assert len([one for chunk in chunks for one in chunk.choices if one.delta.content]) == 1
    again = told(stream(served, BALANCE, **chosen)[-1])
    assert len(again["attempts"]) == 1
    assert again["verdicts"][0]["decision"] == "deny"


def test_every_form_of_message_is_read(served: Served) -> None:
    """System and developer texts together, parts, null content, arguments that are no JSON."""
    reply = ask(served, HISTORY)
    assert reply.choices[0].finish_reason == "stop"
    record = read_content(served.store.get(told(reply)["record"]))
    assert isinstance(record, TurnRecord)
    assert record.messages[3]["tool_calls"][1]["function"]["arguments"] == {"unreadable": "{not json"}  # type: ignore[index]


def test_a_reply_goes_back_as_it_came(served: Served) -> None:
    """What the client dumps of a reply, our own keys and a refusal with it, is a message of the next request."""
    for model in ("tiny", "tiny:deny-balance"):
        message = ask(served, BALANCE, model=model).choices[0].message
        back = [message.model_dump()]
        back += [{"role": "tool", "tool_call_id": one.id, "content": "1200"} for one in message.tool_calls or ()]
        assert ask(served, [*BALANCE, *back, *PLAIN]).choices[0].finish_reason in ("stop", "tool_calls")


def test_tools_are_not_shown_under_none(served: Served) -> None:
    """`tool_choice: none` brings no call; the control without it does."""
    assert ask(served, BALANCE, tool_choice="none").choices[0].message.tool_calls is None
    assert ask(served, BALANCE, tool_choice="auto").choices[0].message.tool_calls is not None


def test_sampling_is_the_requests(served: Served) -> None:
    """Settings stand in the record; without a seed one is drawn and recorded."""
    sampled = ask(served, PLAIN, temperature=0.7, top_p=0.9, max_tokens=3, extra_body={"steerkit": {"top_k": 5}})
    record = read_content(served.store.get(told(sampled)["record"]))
    assert isinstance(record, TurnRecord)
    settings = record.sampling
    assert (settings.temperature, settings.top_p, settings.top_k, settings.max_new_tokens) == (0.7, 0.9, 5, 3)
    assert sampled.choices[0].finish_reason == "length"
    again = ask(
        served,
        PLAIN,
        temperature=0.7,
        top_p=0.9,
        max_tokens=3,
        seed=settings.seed,
        extra_body={"steerkit": {"top_k": 5}},
    )
    assert again.choices[0].message.content == sampled.choices[0].message.content
