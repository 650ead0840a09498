"""Items of a conversation of openai-agents in the form that steerkit takes, and a turn as its items."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from agents.models.chatcmpl_converter import Converter
from openai.types.chat import ChatCompletionMessage
from openai.types.responses import ResponseFunctionToolCall
from openai.types.responses.response_output_item import McpApprovalRequest

from steerkit.audit import Approvals, HeldEntry, held_calls, text_in_order
from steerkit.errors import ApprovalError
from steerkit.integrations.outcome import released, why_not
from steerkit.types import Call, Turn

LABEL: Final = "steerkit"
"""Label of the server that held calls ask for approval under."""
_ANSWER: Final = "mcp_approval_response"


def decided(items: Iterable[Mapping[str, Any]], approvals: Approvals | None) -> list[HeldEntry]:
    """The held calls that items answer, each decided: now, or before by whoever else might.

    Raises:
        ApprovalError: no such call, another decision than the one that was made, or one that came too late.
    """
    found = []
    for item in items:
        if item.get("type") != _ANSWER:
            continue
        if approvals is None:
            raise ApprovalError("nothing is recorded here, so nothing can be approved; load steerkit with a store")
        entry = approvals.get(item["approval_request_id"])
        if entry.state != ("approved" if item["approve"] else "refused"):
            entry = approvals.decide(entry.id, approve=item["approve"], note=item.get("reason") or "")
        found.append(entry)
    return found


def to_run(items: Sequence[Mapping[str, Any]], entries: Sequence[HeldEntry]) -> list[HeldEntry]:
    """The approved calls that were not given out yet."""
    known = {item.get("call_id") for item in items}
    return [one for one in entries if one.state == "approved" and one.call_id not in known]


def messages_of(instructions: str | None, items: Any, entries: Sequence[HeldEntry]) -> list[Any]:
    """The conversation; of a refused call the model is told."""
    by_id, plain = {one.id: one for one in entries}, list[Any]()
    for item in [{"role": "user", "content": items}] if isinstance(items, str) else items:
        entry = by_id.get(str(item.get("approval_request_id")))
        if item.get("type") == _ANSWER and entry is not None and entry.state == "refused":
            plain += [call_of(entry.call_id, entry.call).model_dump(), _output(entry)]
        elif item.get("type") not in (_ANSWER, "mcp_approval_request"):
            plain.append(item)
    before = [{"role": "developer", "content": instructions}] if instructions else []
    return [*before, *Converter.items_to_messages(plain)]


def items_of(turn: Turn, asks_approval: bool) -> list[Any]:
    """What a turn said, the calls that may run, and the held ones: as items, or where those are not known, as text."""
    calls, held = released(turn), held_calls(turn)
    waiting = [
        f"[{one.call.name} waits for a person: {one.verdict.reason}; approval {one.approval or 'not possible'}]"
        for one in (() if asks_approval else held)
    ]
    refused = why_not(turn) if turn.calls and not calls and not held else None
    text = "\n".join(one for one in (turn.text, *waiting) if one)
    said = ChatCompletionMessage(role="assistant", content=text or None, refusal=refused)
    found = [*Converter.message_to_output_items(said), *(call_of(id, call) for id, call in calls)]
    if asks_approval:
        found += [
            McpApprovalRequest(
                id=one.approval,
                name=one.call.name,
                arguments=text_in_order(one.call.arguments),
                server_label=LABEL,
                type="mcp_approval_request",
            )
            for one in held
        ]
    return found


def call_of(id: str, call: Call) -> ResponseFunctionToolCall:
    """A call as an item."""
    return ResponseFunctionToolCall(
        call_id=id, name=call.name, arguments=text_in_order(call.arguments), type="function_call"
    )


def _output(entry: HeldEntry) -> dict[str, Any]:
    said = json.dumps({"error": entry.not_run})
    return {"type": "function_call_output", "call_id": entry.call_id, "output": said}
