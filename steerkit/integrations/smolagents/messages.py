"""smolagents' messages and settings in the form that steerkit takes."""

from __future__ import annotations

import json
from typing import Any

from smolagents import ChatMessage, MessageRole


def openai(messages: list[ChatMessage]) -> list[dict[str, Any]]:
    """The conversation without the agent's own prompt, which shows how to write calls as text."""
    history: list[dict[str, Any]] = []
    for role, (head, _, text) in ((one.role, one.content[0]["text"].partition("\n")) for one in messages):
        if role == MessageRole.USER:
            history.append({"role": "user", "content": text})
        elif role == MessageRole.ASSISTANT:
            history.append(json.loads(head))
        elif role == MessageRole.TOOL_RESPONSE:
            history.append({"role": "tool", "tool_call_id": history[-1]["tool_calls"][0]["id"], "content": text})
    return history


def sampling(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a turn by their names here; one that is not known is refused when the turn begins."""
    given = {name: value for name, value in settings.items() if value is not None}
    return {"max_new_tokens" if name == "max_tokens" else name: value for name, value in given.items()}
