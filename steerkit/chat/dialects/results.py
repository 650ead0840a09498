"""Steps to a template's form that several dialects take: results in the order of their calls, roles, contents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Result(NamedTuple):
    """One result of a tool message."""

    number: int
    """The call that it answers."""
    part: dict[str, Any]
    """`name`, and as `response` an object."""
    text: str | None
    """The result as its author wrote it, where that is text."""


def in_order(messages: Sequence[dict[str, Any]]) -> list[Result]:
    """The results of adjacent tool messages, by their calls' order."""
    found = [
        Result(*one)
        for message in messages
        for one in zip(message["answers"], message["content"], message["texts"], strict=True)
    ]
    return sorted(found, key=lambda result: result.number)


def without_ids(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose calls have no ids: no template needs them, and their text is untrusted."""
    if "tool_calls" not in message:
        return message
    calls = [{key: value for key, value in call.items() if key != "id"} for call in message["tool_calls"]]
    return {**message, "tool_calls": calls}


def as_system(message: dict[str, Any]) -> dict[str, Any]:
    """A message as most families' templates take it: a developer is the system, and all have a content."""
    role = "system" if message["role"] == "developer" else message["role"]
    return {**message, "role": role, "content": message.get("content", "")}
