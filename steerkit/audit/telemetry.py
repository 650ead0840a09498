"""Tells OpenTelemetry of turns, tools and the guard's decisions, one span each, from their records.

The names of inferences and tools are those of the GenAI semantic conventions, which are still in development; what has
no settled name there begins with `steerkit.`:

| span | of | what it says besides |
|---|---|---|
| `chat MODEL` | a turn | model, settings, tokens, finish; `steerkit.run.id`, `.policies`, `.edits`, `.attempt` |
| `guard TOOL` | a verdict, inside its turn | `steerkit.guard.decision`, `.rule`, `.policy`, `.shadowed`, `.reading.*` |
| `approve TOOL` | a person's decision, inside its turn | `steerkit.approval.decision` |
| `execute_tool TOOL` | an execution, inside its turn | `gen_ai.tool.call.id`; `error.type` where it failed |

`gen_ai.response.id` and `steerkit.record.id` are ids of records. What people said and what may tell it (the contents
that a redaction takes away) is left out unless it is asked for.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from steerkit.audit.layout import StoredRecord
from steerkit.errors import MissingExtraError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, TracerProvider

_REMEMBERED: Final = 10_000
"""Turns whose later approvals and executions still find their span."""
_SETTINGS: Final = {
    "max_new_tokens": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "seed": "gen_ai.request.seed",
}
_FLOATS: Final = ("temperature", "top_p", "top_k")


class Spans:
    """An observer for `on_record`: makes spans of the records that a runtime writes, once they are on disk.

    A turn's span is a child of the span that is current where the turn is made, if there is one.

    Args:
        provider: makes the tracer (default: the global one, as the OpenTelemetry SDK was set up).
        content: whether messages, texts, tools, arguments and reasons are told as well.

    Raises:
        MissingExtraError: OpenTelemetry is not installed.
    """

    def __init__(self, provider: TracerProvider | None = None, *, content: bool = False) -> None:
        try:
            from opentelemetry import trace
        except ImportError:
            raise MissingExtraError.of("the exporter of spans", "otel") from None
        self._trace, self._content = trace, content
        self._tracer = trace.get_tracer("steerkit", tracer_provider=provider)
        self._turns: OrderedDict[str, Context] = OrderedDict()

    def __call__(self, record: StoredRecord) -> None:
        """Tell of one record."""
        content = record.content
        match content.get("kind"):
            case "turn":
                self._turn(record, content)
            case "execution":
                self._execution(record, content)
            case "approval":
                self._approval(record, content)

    def _turn(self, record: StoredRecord, turn: Mapping[str, Any]) -> None:
        told = _inference(record, turn)
        if self._content:
            told |= _said(turn)
        name = f"chat {turn['model']['name']}"
        span = self._span(name, record, turn.get("seconds"), told, None)
        inside = self._trace.set_span_in_context(span)
        for call, verdict in zip(turn["calls"], turn["verdicts"], strict=True):
            told = _judged(call, verdict)
            if self._content:
                told["steerkit.guard.reason"] = verdict["reason"]
            self._span(f"guard {call.get('name', 'malformed call')}", record, 0, told, inside)
        self._turns[record.id] = inside
        if len(self._turns) > _REMEMBERED:
            self._turns.popitem(last=False)

    def _execution(self, record: StoredRecord, one: Mapping[str, Any]) -> None:
        told: dict[str, Any] = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": one["call"]["name"],
            "gen_ai.tool.call.id": one["call_id"],
            "gen_ai.tool.type": "function",
            "steerkit.record.id": record.id,
        }
        failed = one["status"] if one["status"] != "ok" else None
        if failed is not None:
            told["error.type"] = failed
        if self._content:
            told["gen_ai.tool.call.arguments"] = _json(one["call"]["arguments"])
        inside = self._turns.get(one["turn"])
        self._span(f"execute_tool {one['call']['name']}", record, one["seconds"], told, inside, failed)

    def _approval(self, record: StoredRecord, one: Mapping[str, Any]) -> None:
        told = {
            "steerkit.approval.decision": one["decision"],
            "gen_ai.tool.name": one["call"]["name"],
            "gen_ai.tool.call.id": one["call_id"],
            "steerkit.record.id": record.id,
        }
        if self._content:
            told |= {f"steerkit.approval.{key}": one[key] for key in ("by", "note") if one[key]}
        self._span(f"approve {one['call']['name']}", record, 0, told, self._turns.get(one["turn"]))

    def _span(
        self,
        name: str,
        record: StoredRecord,
        seconds: float | None,
        told: Mapping[str, Any],
        inside: Context | None,
        failed: str | None = None,
    ) -> Span:
        """A span that ended when its record was written, and took so many seconds."""
        end = round(datetime.fromisoformat(record.time).timestamp() * 1_000_000) * 1000
        start = end - int((seconds or 0) * 1e9)
        known = {key: value for key, value in told.items() if value is not None}
        span = self._tracer.start_span(name, inside, attributes=known, start_time=start)
        if failed is not None:
            span.set_status(self._trace.StatusCode.ERROR, failed)
        span.end(end)
        return span


def _inference(record: StoredRecord, turn: Mapping[str, Any]) -> dict[str, Any]:
    """What a turn's span says without content."""
    model, sampling = turn["model"], turn["sampling"]
    settings = {name: sampling[key] for key, name in _SETTINGS.items() if key in sampling}
    for key in _FLOATS:
        if _SETTINGS[key] in settings:
            settings[_SETTINGS[key]] = float(settings[_SETTINGS[key]])
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "steerkit",
        "gen_ai.request.model": model["name"],
        **settings,
        "gen_ai.response.id": record.id,
        "gen_ai.response.model": model["name"],
        "gen_ai.response.finish_reasons": [turn["finish"]],
        "gen_ai.usage.input_tokens": len(turn["prompt_ids"]),
        "gen_ai.usage.output_tokens": len(turn["reply_ids"]),
        "steerkit.record.id": record.id,
        "steerkit.run.id": turn.get("run"),
        "steerkit.model.fingerprint": model["fingerprint"],
        "steerkit.policies": [policy["name"] for policy in turn["policies"]],
        "steerkit.edits": [f"{edit['policy']}/{edit['rule']}" for edit in turn["edits"]],
        "steerkit.attempt": turn["attempt"],
    }


def _judged(call: Mapping[str, Any], verdict: Mapping[str, Any]) -> dict[str, Any]:
    """What a verdict's span says without content."""
    return {
        "gen_ai.tool.name": call.get("name"),
        "steerkit.guard.decision": verdict["decision"],
        "steerkit.guard.rule": verdict["rule"],
        "steerkit.guard.policy": verdict["policy"] or None,
        "steerkit.guard.shadowed": verdict["shadowed"],
        **{f"steerkit.guard.reading.{one['name']}": float(one["value"]) for one in verdict["readings"]},
    }


def _said(turn: Mapping[str, Any]) -> dict[str, str]:
    """The content of a turn, as the conventions write it: JSON text."""
    parts: list[dict[str, Any]] = [{"type": "text", "content": turn["text"]}] if turn["text"] else []
    for call in turn["calls"]:
        if "name" in call:
            parts.append({"type": "tool_call", "name": call["name"], "arguments": call["arguments"]})
        else:
            parts.append({"type": "text", "content": call["raw"]})
    return {
        "gen_ai.input.messages": _json([_message(message) for message in turn["messages"]]),
        "gen_ai.output.messages": _json([{"role": "assistant", "parts": parts, "finish_reason": turn["finish"]}]),
        "gen_ai.tool.definitions": _json([{"type": "function", **tool} for tool in turn["tools"]]),
    }


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


def _json(value: Any) -> str:
    return json.dumps(value)
