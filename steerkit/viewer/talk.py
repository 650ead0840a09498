"""The conversation of a turn, part by part, with where each part came from."""

from __future__ import annotations

from typing import Final, NamedTuple

from steerkit.audit import Gone, TurnRecord
from steerkit.report import json_text
from steerkit.types import Message
from steerkit.viewer.rows import text_of

_SOURCES: Final = {
    "developer": ("developer", "Developer"),
    "system": ("developer", "System"),
    "user": ("user", "User"),
    "tool": ("tool", "Tool result"),
    "assistant": ("model", "Model"),
}


class Part(NamedTuple):
    """A part of the conversation."""

    source: str
    """`developer`, `user`, `tool`, `model` or `other`: how it is shaded."""
    title: str
    lines: tuple[str, ...]
    calls: tuple[str, ...]
    """Calls that an earlier message of the model made."""


def talk_of(turn: TurnRecord) -> list[Part]:
    """The messages that a turn was given, in order."""
    if isinstance(turn.messages, Gone):
        return [Part("other", "Messages", (turn.messages.word,), ())]
    return [_part(one) for one in turn.messages]


def _part(message: Message) -> Part:
    role = str(message.get("role"))
    source, title = _SOURCES.get(role, ("other", role))
    name = message.get("name")
    text = text_of(message) or ("" if message.get("content") in (None, "", []) else json_text(message["content"]))
    calls = message.get("tool_calls")
    said = tuple(_call(one) for one in calls) if isinstance(calls, (list, tuple)) else ()
    return Part(source, f"{title} of {name}" if name else title, tuple(text.split("\n")) if text else (), said)


def _call(call: object) -> str:
    function = call.get("function", call) if isinstance(call, dict) else call
    if not isinstance(function, dict):
        return json_text(function)
    arguments = function.get("arguments", {})
    return f"{function.get('name')}({arguments if isinstance(arguments, str) else json_text(arguments)})"
