"""Messages and calls of a turn, as the GenAI conventions of OpenTelemetry write them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from steerkit.audit.log.canonical import digest
from steerkit.audit.log.stored_record import StoredRecord
from steerkit.audit.schema import TurnRecord, as_json
from steerkit.errors import AuditError
from steerkit.types import Call, Message


def said(stored: StoredRecord, turn: TurnRecord) -> dict[str, str]:
    """The content of a turn, as the conventions write it: JSON text."""
    parts: list[dict[str, Any]] = [{"type": "text", "content": turn.text}] if turn.text else []
    ids = turn.call_ids or [f"{stored.id}.{number}" for number in range(len(turn.calls))]
    for id, call in zip(ids, turn.calls, strict=True):
        if isinstance(call, Call):
            parts.append({"type": "tool_call", "id": id, "name": call.name, "arguments": call.arguments})
        else:
            parts.append({"type": "text", "content": call.raw})
    return {
        "gen_ai.input.messages": json_text([_message(message) for message in turn.messages]),
        "gen_ai.output.messages": json_text([{"role": "assistant", "parts": parts, "finish_reason": turn.finish}]),
        "gen_ai.tool.definitions": json_text([{"type": "function", **as_json(tool)} for tool in turn.tools]),
    }


def tool_results(messages: Sequence[Message]) -> Iterator[tuple[str, str]]:
    """The call's id and the result as JSON text of each tool message."""
    for message in messages:
        content = message.get("content")
        if message.get("role") == "tool" and "tool_call_id" in message and content is not None:
            yield message["tool_call_id"], content if isinstance(content, str) else json_text(content)


def digest_of(text: str) -> str | None:
    """The hash that an execution's record has of this result; None of a text that is no JSON."""
    try:
        return digest(json.loads(text))
    except (ValueError, AuditError):
        return None


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message in parts."""
    content, parts = message.get("content"), []
    if message.get("role") == "tool":
        named = {"id": message["tool_call_id"]} if "tool_call_id" in message else {}
        return {"role": "tool", "parts": [{"type": "tool_call_response", **named, "response": content}]}
    if content:
        parts.append({"type": "text", "content": content})
    for call in _calls(message):
        function = call.get("function", call)
        known = {key: function[key] for key in ("name", "arguments") if key in function}
        parts.append({"type": "tool_call", **({"id": call["id"]} if "id" in call else {}), **known})
    return {"role": message.get("role"), "parts": parts}


def _calls(message: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    calls: Sequence[Mapping[str, Any]] = message.get("tool_calls") or ()
    return calls


def json_text(value: Any) -> str:
    """A value as JSON text, which attributes hold."""
    return json.dumps(value)
