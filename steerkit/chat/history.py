"""Brings OpenAI-style messages into the form that FunctionGemma's template takes, and refuses what it cannot carry."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from steerkit.chat.wire import NAME
from steerkit.errors import MessageError
from steerkit.types import Messages

_ROLES = {
    "system": "developer",
    "developer": "developer",
    "user": "user",
    "assistant": "assistant",
    "model": "assistant",
}


def template_messages(messages: Messages) -> list[dict[str, Any]]:
    """Messages with template roles, arguments as mappings, and each tool result under its tool's name.

    Raises:
        MessageError: which message, what was got and what was expected.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence) or not messages:
        raise MessageError("messages: expected a list of at least one {role, content}")
    names: dict[str, str] = {}
    found = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, Mapping):
            raise MessageError(f"{where}: got {type(message).__name__}, expected a mapping with role and content")
        role = message.get("role")
        if role == "tool":
            found.append(_tool_message(message, where, names))
        elif isinstance(role, str) and role in _ROLES:
            found.append(_plain_message(message, where, names))
        else:
            raise MessageError(f"{where}.role: got {role!r}, expected developer, system, user, assistant or tool")
    return found


def _plain_message(message: Mapping[str, Any], where: str, names: dict[str, str]) -> dict[str, Any]:
    plain: dict[str, Any] = {"role": _ROLES[message["role"]]}
    if message.get("content") is not None:
        plain["content"] = _text(message["content"], f"{where}.content")
    calls = message.get("tool_calls") or []
    if not isinstance(calls, (list, tuple)):
        raise MessageError(f"{where}.tool_calls: got {type(calls).__name__}, expected a list of calls")
    if calls:
        plain["tool_calls"] = [_call(call, f"{where}.tool_calls[{n}]", names) for n, call in enumerate(calls)]
    elif "content" not in plain:
        raise MessageError(f"{where}: got neither content nor tool_calls, expected one of them")
    return plain


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence) and all(isinstance(part, Mapping) and "text" in part for part in content):
        return "".join(str(part["text"]) for part in content)
    raise MessageError(f"{where}: got {type(content).__name__}, expected text or a list of text parts")


def _call(call: Any, where: str, names: dict[str, str]) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise MessageError(f"{where}: got no function name, expected {{function: {{name, arguments}}}}")
    if not NAME.fullmatch(function["name"]):
        raise MessageError(
            f"{where}: got the function name {function['name']!r}, expected letters, digits, '_', '.' and '-'"
        )
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            raise MessageError(f"{where}.arguments: got text that is no JSON, expected a mapping") from None
    if not isinstance(arguments, Mapping):
        raise MessageError(f"{where}.arguments: got {type(arguments).__name__}, expected a mapping")
    if call.get("id"):
        names[str(call["id"])] = function["name"]
    return {"type": "function", "function": {"name": function["name"], "arguments": dict(arguments)}}


def _tool_message(message: Mapping[str, Any], where: str, names: Mapping[str, str]) -> dict[str, Any]:
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    if parts and all(isinstance(part, Mapping) and "response" in part and "name" in part for part in parts):
        return {"role": "tool", "content": [_splayed(part["name"], part["response"]) for part in parts if part]}
    name = message.get("name")
    if name is None:
        reference = message.get("tool_call_id")
        name = names.get(str(reference))
        if name is None:
            raise MessageError(
                f"{where}.tool_call_id: got {reference!r}, expected the id of an earlier call, or a name"
            )
    return {"role": "tool", "content": [_splayed(name, _result(content, where))]}


def _result(content: Any, where: str) -> Any:
    """A JSON object in text is an object; any other text is a value."""
    if isinstance(content, list):
        content = _text(content, f"{where}.content")
    if isinstance(content, str) and content.lstrip().startswith("{"):
        try:
            return json.loads(content)
        except (ValueError, RecursionError):  # no JSON, or nested deeper than it can be read: text then
            return content
    return content


def _splayed(name: Any, response: Any) -> dict[str, Any]:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise MessageError(f"a tool result: got the tool name {name!r}, expected letters, digits, '_', '.' and '-'")
    return {"name": name, "response": dict(response) if isinstance(response, Mapping) else {"value": response}}
