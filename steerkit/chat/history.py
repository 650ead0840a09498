"""Brings OpenAI-style messages into the form that FunctionGemma's template takes, and refuses what it cannot carry."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

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


class Made(NamedTuple):
    """A call that the conversation shows, and its result."""

    name: str
    arguments: Mapping[str, Any]
    result: Mapping[str, Any] | None = None
    """As the model is told of it: a result that is no object stands under `value`."""
    answered: bool = False


def calls_made(messages: Messages) -> tuple[Made, ...]:
    """Every call in a conversation, in order; a result without its call counts as one. Raises MessageError."""
    made: list[Made] = []
    by_id: dict[str, int] = {}
    for message in template_messages(messages) if messages else ():
        for call in message.get("tool_calls", ()):
            if "id" in call:
                by_id[call["id"]] = len(made)
            made.append(Made(call["function"]["name"], call["function"]["arguments"]))
        for part in message["content"] if message["role"] == "tool" else ():
            name, result = part["name"], part["response"]
            waiting = [n for n, one in enumerate(made) if one.name == name and not one.answered]
            number = by_id.get(str(message.get("tool_call_id")), waiting[0] if waiting else None)
            if number is None:
                made.append(Made(name, {}, result, True))
            else:
                made[number] = made[number]._replace(result=result, answered=True)
    return tuple(made)


def in_call_order(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What `template_messages` gave, with adjacent tool results in the order of the calls they name, and without ids.

    On the wire a result has no id: the model pairs calls and results by their order. Results that name no call, and
    those beside them, stay as they stand.
    """
    found: list[dict[str, Any]] = []
    order: dict[str, int] = {}
    for is_result, group in groupby(messages, key=lambda message: message["role"] == "tool"):
        some = list(group)
        if is_result and all(message.get("tool_call_id") in order for message in some):
            some.sort(key=lambda message: order[str(message["tool_call_id"])])
        found += map(_without_ids, some)
        calls = some[-1].get("tool_calls", [])
        order = {call["id"]: number for number, call in enumerate(calls) if "id" in call}
    return found


def _without_ids(message: dict[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in message.items() if key != "tool_call_id"}
    if "tool_calls" in plain:
        plain["tool_calls"] = [
            {key: value for key, value in call.items() if key != "id"} for call in plain["tool_calls"]
        ]
    return plain


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
            arguments = _json(arguments)
        except (ValueError, RecursionError):
            raise MessageError(f"{where}.arguments: got text that is no JSON, expected a mapping") from None
    if not isinstance(arguments, Mapping):
        raise MessageError(f"{where}.arguments: got {type(arguments).__name__}, expected a mapping")
    plain: dict[str, Any] = {"type": "function", "function": {"name": function["name"], "arguments": dict(arguments)}}
    if call.get("id"):
        plain["id"] = str(call["id"])
        names[plain["id"]] = function["name"]
    return plain


def _tool_message(message: Mapping[str, Any], where: str, names: Mapping[str, str]) -> dict[str, Any]:
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    if parts and all(isinstance(part, Mapping) and "response" in part and "name" in part for part in parts):
        return {"role": "tool", "content": [_splayed(part["name"], part["response"]) for part in parts if part]}
    reference = message.get("tool_call_id")
    if reference is None and message.get("name") is not None:
        return {"role": "tool", "content": [_splayed(message["name"], _result(content, where))]}
    name = names.get(str(reference))
    if name is None:
        raise MessageError(f"{where}.tool_call_id: got {reference!r}, expected the id of an earlier call, or a name")
    if message.get("name") not in (None, name):
        raise MessageError(f"{where}.name: got {message['name']!r}, expected {name!r}, the tool that call asked for")
    return {"role": "tool", "tool_call_id": str(reference), "content": [_splayed(name, _result(content, where))]}


def _result(content: Any, where: str) -> Any:
    """A JSON object in text is an object; any other text is a value."""
    if isinstance(content, list):
        content = _text(content, f"{where}.content")
    if isinstance(content, str) and content.lstrip().startswith("{"):
        try:
            return _json(content)
        except (ValueError, RecursionError):  # no JSON, or nested deeper than it can be read: text then
            return content
    return content


def _json(text: str) -> Any:
    """JSON as it is defined: `NaN` and numbers beyond a float are none, and the wire format has no way to write them.

    Raises:
        ValueError: it is no JSON.
        RecursionError: it is nested too deeply to be read.
    """
    return json.loads(text, parse_constant=_finite, parse_float=_finite)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no finite number")
    return number


def _splayed(name: Any, response: Any) -> dict[str, Any]:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise MessageError(f"a tool result: got the tool name {name!r}, expected letters, digits, '_', '.' and '-'")
    return {"name": name, "response": dict(response) if isinstance(response, Mapping) else {"value": response}}
