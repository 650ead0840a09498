"""What was said in a turn, as the GenAI conventions of OpenTelemetry write messages and calls."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from steerkit.audit.log.canonical import canonical
from steerkit.audit.log.schema import StoredRecord
from steerkit.errors import AuditError


def said(record: StoredRecord, turn: Mapping[str, Any]) -> dict[str, str]:
    """The content of a turn, as the conventions write it: JSON text."""
    parts: list[dict[str, Any]] = [{"type": "text", "content": turn["text"]}] if turn["text"] else []
    for id, call in zip(_call_ids(record, turn), turn["calls"], strict=True):
        if "name" in call:
            parts.append({"type": "tool_call", "id": id, "name": call["name"], "arguments": call["arguments"]})
        else:
            parts.append({"type": "text", "content": call["raw"]})
    return {
        "gen_ai.input.messages": as_json([_message(message) for message in turn["messages"]]),
        "gen_ai.output.messages": as_json([{"role": "assistant", "parts": parts, "finish_reason": turn["finish"]}]),
        "gen_ai.tool.definitions": as_json([{"type": "function", **tool} for tool in turn["tools"]]),
    }


def _call_ids(record: StoredRecord, turn: Mapping[str, Any]) -> Sequence[str]:
    """The ids of a turn's calls in their conversation; where a record does not say, the record's with a number."""
    found: Sequence[str] = turn.get("call_ids") or [f"{record.id}.{number}" for number in range(len(turn["calls"]))]
    return found


def tool_results(messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """The call's id and the result as JSON text of each tool message."""
    for message in messages:
        content = message.get("content")
        if message.get("role") == "tool" and "tool_call_id" in message and content is not None:
            yield message["tool_call_id"], content if isinstance(content, str) else as_json(content)


def digest_of(text: str) -> str | None:
    """As a record of an execution says of its result; None of a text that is no JSON."""
    try:
        return hashlib.sha256(canonical(json.loads(text))).hexdigest()
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


def as_json(value: Any) -> str:
    """A value as an attribute holds it."""
    return json.dumps(value)
