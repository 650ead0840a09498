"""Responses: openai's own client and types on a real socket, and conversations that go on from the record."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from steerkit.audit import Query, TurnRecord, find, read_content
from steerkit.server.responses_request import REFUSED
from tests.server.serving import BALANCE, DOOR, PLAIN, TOOLS, Served

FLAT = [{"type": "function", "strict": True, **one["function"]} for one in TOOLS]
APPROVALS = [{"type": "mcp", "server_label": "steerkit", "server_url": "http://steerkit", "require_approval": "always"}]
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
PATH = "/v1/responses"


def ask(served: Served, given: Any, **more: Any) -> Response:
    """A Response, which openai's types accept as it is."""
    settings = {"model": "tiny", "tools": FLAT, **more}
    found = served.client().responses.with_raw_response.create(input=given, **settings)
    Response.model_validate_json(found.text, strict=True)
    return found.parse()


def events(served: Served, given: Any, **more: Any) -> list[Any]:
    """All events, each as openai's types have it, numbered in order; the last has the whole Response."""
    settings = {"model": "tiny", "tools": FLAT, **more}
    found = list(served.client().responses.create(input=given, stream=True, **settings))
    for event in found:
        EVENT.validate_json(event.model_dump_json(), strict=True)
    assert [event.sequence_number for event in found] == list(range(len(found)))
    return found


def kinds(found: list[Any]) -> list[str]:
    """Kinds of events, equal ones in a row once."""
    names = [event.type.removeprefix("response.") for event in found]
    return [name for number, name in enumerate(names) if names[number - 1 : number] != [name]]


def records(served: Served) -> int:
    return sum(isinstance(read_content(one), TurnRecord) for one in served.store.records())


def test_a_call_and_its_result(served: Served) -> None:
    """The call with its id; its result with the id of the Response goes on in the same conversation."""
    first = ask(served, BALANCE[0]["content"], instructions="Be brief.")
    (call,) = first.output
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments)) == ("get_balance", {"account": "travel 38"})
    assert first.status == "completed"
    result = {"type": "function_call_output", "call_id": call.call_id, "output": '{"balance": 1200}'}
    second = ask(served, [result], previous_response_id=first.id)
    assert second.output_text == "The balance of travel 38 is 1200."
    turns = [read_content(served.store.get(one.model_extra["steerkit"]["record"])) for one in (first, second)]  # type: ignore[index]
    assert all(isinstance(one, TurnRecord) for one in turns)
    assert turns[0].conversation == turns[1].conversation  # type: ignore[union-attr]
    roles = [[message["role"] for message in one.messages] for one in turns]  # type: ignore[union-attr]
    assert roles == [["developer", "user"], ["user", "assistant", "tool"]]  # instructions are of one request
    echoed = [*BALANCE, *[one.model_dump() for one in first.output], result]
    assert ask(served, echoed).output_text == second.output_text


def test_events_come_in_their_order(served: Served) -> None:
    """Of text and of a call; deltas come to what is done."""
    text = events(served, PLAIN)
    assert kinds(text) == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.done",
        "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    said = "".join(event.delta for event in text if event.type == "response.output_text.delta")
    assert said == text[-1].response.output_text == "Sorry, I have no tool for that."
    assert len([event for event in text if event.type == "response.output_text.delta"]) > 2
    call = events(served, BALANCE)
    assert kinds(call) == [
        "created", "in_progress", "output_item.added", "function_call_arguments.delta",
        "function_call_arguments.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert call[-1].response.model_extra["steerkit"]["status"] == "calls"


def test_the_stream_helper_and_parse(served: Served) -> None:
    """openai's accumulating helper and `parse` end with the same text."""
    client = served.client()
    with client.responses.stream(model="tiny", input=PLAIN) as found:  # type: ignore[arg-type]
        for _ in found:
            pass
        final = found.get_final_response()
    assert final.output_text == client.responses.parse(model="tiny", input=PLAIN).output_text  # type: ignore[arg-type]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_denied_call_is_a_refusal(served: Served, streamed: bool) -> None:
    """Incomplete by content filter, no call; a stopped run is 403."""
    chosen: dict[str, Any] = {"extra_body": {"steerkit": {"policy": "deny-balance"}}}
    if streamed:
        found = events(served, BALANCE, **chosen)
        assert kinds(found)[-6:] == [
            "content_part.added", "refusal.delta", "refusal.done", "content_part.done", "output_item.done",
            "incomplete",
        ]  # fmt: skip
        reply = found[-1].response
    else:
        reply = ask(served, BALANCE, **chosen)
    assert reply.incomplete_details.reason == "content_filter"
    assert [part.type for item in reply.output for part in item.content] == ["refusal"]
    with pytest.raises(openai.PermissionDeniedError):
        ask(served, BALANCE, extra_body={"steerkit": {"policy": "stop-balance"}}, stream=streamed)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_held_call_asks_for_approval_and_is_released_once_approved(served: Served, streamed: bool) -> None:
    """The standard item; its answer releases that call without another generation; its result goes on."""
    tools: dict[str, Any] = {"tools": [*FLAT, *APPROVALS]}
    first = events(served, DOOR, **tools)[-1].response if streamed else ask(served, DOOR, **tools)
    (asked,) = first.output
    assert (asked.type, asked.name, json.loads(asked.arguments)) == (
        "mcp_approval_request", "unlock_door", {"door": "south cellar"},
    )  # fmt: skip
    count = records(served)
    answer = [{"type": "mcp_approval_response", "approval_request_id": asked.id, "approve": True, "reason": "I see it"}]
    more = {"previous_response_id": first.id}
    second = events(served, answer, **more)[-1].response if streamed else ask(served, answer, **more)
    assert records(served) == count
    (call,) = second.output
    assert (call.type, call.name, json.loads(call.arguments)) == (
        "function_call", "unlock_door", {"door": "south cellar"},
    )  # fmt: skip
    result = {"type": "function_call_output", "call_id": call.call_id, "output": '{"status": "open"}'}
    third = ask(served, [result], previous_response_id=second.id)
    assert third.output_text.startswith("Done")
    with pytest.raises(openai.ConflictError):
        ask(served, [{**answer[0], "approve": False}], **more)
    echoed = [*DOOR, asked.model_dump(), *answer, call.model_dump(), result]
    assert ask(served, echoed).output_text == third.output_text


@pytest.mark.parametrize("streamed", [False, True])
def test_a_client_that_answers_no_approvals_reads_of_them(served: Served, streamed: bool) -> None:
    """Its text names what waits, as such items would break it; a decision made elsewhere releases the call."""
    reply = events(served, DOOR)[-1].response if streamed else ask(served, DOOR)
    (held,) = reply.model_extra["steerkit"]["held"]
    assert held["id"] in reply.output_text
    assert [item.type for item in reply.output] == ["message"]
    answer = {"type": "mcp_approval_response", "approval_request_id": held["id"], "approve": True}
    served.post(f"/v1/steerkit/approvals/{held['id']}", {"approve": True, "by": "ann"})
    assert ask(served, [answer], previous_response_id=reply.id).output[0].type == "function_call"


def test_a_refused_call_is_told_to_the_model(served: Served) -> None:
    """With the reason, by either way of going on."""
    first = ask(served, DOOR, tools=[*FLAT, *APPROVALS])
    answer = {
        "type": "mcp_approval_response", "approval_request_id": first.output[0].id, "approve": False,
        "reason": "not now",
    }  # fmt: skip
    second = ask(served, [answer], previous_response_id=first.id)
    echoed = ask(served, [*DOOR, first.output[0].model_dump(), answer])
    for reply in (second, echoed):
        record = read_content(served.store.get(reply.model_extra["steerkit"]["record"]))  # type: ignore[index]
        assert isinstance(record, TurnRecord)
        assert "refused: not now" in str(record.messages[-1]["content"])


def test_what_cannot_go_on_is_refused(served: Served) -> None:
    """An unknown Response, one that was not to be stored, a result that is missing or of no call."""
    first = ask(served, BALANCE, store=False)
    stored = ask(served, BALANCE)
    result = {"type": "function_call_output", "call_id": "call_1", "output": "1200"}
    for previous, given, status in (
        ("resp_nothing.x", [result], 404),
        (first.id, [result], 404),
        (stored.id, [{"role": "user", "content": "and?"}], 400),
        (None, [{"type": "item_reference", "id": "x"}], 400),
        (None, [result], 400),
    ):
        body = {"model": "tiny", "input": given, "previous_response_id": previous}
        assert served.post(PATH, body).status_code == status
    assert ask(served, [result], previous_response_id=stored.id).status == "completed"


@pytest.mark.parametrize("field", REFUSED)
def test_what_is_not_served_is_refused(served: Served, field: str) -> None:
    """Every field of the table; its neutral value is fine."""
    wrong = served.post(PATH, {"model": "tiny", "input": "x", field: {"some": "thing"}})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, field)
    good = {"model": "tiny", "input": "x", "max_output_tokens": 1, field: REFUSED[field].neutral[-1]}
    assert served.post(PATH, good).json()["status"] in ("completed", "incomplete")


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("input", [], "input"),
        ("input", [{"role": "user", "content": "x"}] * 2001, "input"),
        ("input", [{"role": "robot", "content": "x"}], "input[0].role"),
        ("input", [{"role": "user", "content": [{"type": "input_image"}]}], "input[0].content[0]"),
        ("input", [{"role": "user", "content": "x", "name": "ann"}], "input[0].name"),
        ("tools", [{"type": "web_search"}], "tools[0]"),
        ("tools", [{"type": "function", "name": "f", "parametres": {}}], "tools[0].parametres"),
        ("include", ["message.output_text.logprobs"], "include"),
        ("stream_options", {"include_obfuscation": True}, "stream_options.include_obfuscation"),
        ("text", {"verbosity": "low"}, "text.verbosity"),
        ("text", {"format": {"type": "yaml"}}, "response_format"),
        ("tool_choice", "required", "tool_choice"),
        ("max_output_tokens", 0, "max_output_tokens"),
        ("steerkit", {"conversation": "mine"}, "steerkit.conversation"),
        ("moderation", {"model": "m"}, "moderation"),
    ],
)
def test_a_wrong_field_is_named(served: Served, field: str, value: Any, param: str) -> None:
    """Status 400, and `param`; one that nobody here knows is told like one that is not served."""
    wrong = served.post(PATH, {"model": "tiny", "input": "x", field: value})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, param)


def test_records_of_one_conversation_are_found(served: Served) -> None:
    """By the id that stands in the Response's own."""
    reply = ask(served, PLAIN)
    conversation = reply.id.removeprefix("resp_").partition(".")[0]
    assert len(list(find(served.store, Query(conversation=conversation)))) == 1
