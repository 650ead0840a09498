"""Inspect's messages in the form that steerkit takes."""

from __future__ import annotations

from typing import Any


def openai(message: Any) -> dict[str, Any]:
    """A message of any role; of a call that was not run its result says so, so that a guard's `without` can tell."""
    if message.role == "tool":
        result = {"error": f"not run: {message.error.message}"} if message.error else message.text
        return {"role": "tool", "tool_call_id": message.tool_call_id, "content": result}
    asked = getattr(message, "tool_calls", None) or []
    calls = [{"id": one.id, "function": {"name": one.function, "arguments": one.arguments}} for one in asked]
    return {"role": message.role, "content": message.text, **({"tool_calls": calls} if calls else {})}
