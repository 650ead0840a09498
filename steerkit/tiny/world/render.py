"""Conversations as the text the model is trained on: the chat template's output, written faster than Jinja does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steerkit.tiny.tools import Tool

Message = dict[str, Any]
Call = dict[str, Any]


def value(item: object) -> str:
    """One value in the call grammar."""
    if isinstance(item, str):
        return f"<escape>{item}<escape>"
    if item is None:
        return "null"
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, Mapping):
        return "{" + pairs(sorted_keys(item)) + "}"
    if isinstance(item, Sequence):
        return "[" + ",".join(value(part) for part in item) + "]"
    return str(item)


def pairs(mapping: Mapping[str, object]) -> str:
    """`key:value` pairs, in the mapping's order."""
    return ",".join(f"{key}:{value(item)}" for key, item in mapping.items())


def sorted_keys(mapping: Mapping[str, object]) -> dict[str, object]:
    """The mapping as the template writes one inside a value, and a result: its keys sorted without case."""
    return dict(sorted(mapping.items(), key=lambda pair: pair[0].lower()))


def call(name: str, arguments: Mapping[str, object]) -> str:
    """One call with its control tokens."""
    return f"<start_function_call>call:{name}{{{pairs(arguments)}}}<end_function_call>"


def completion(calls: Sequence[Call], text: str | None) -> str:
    """A model turn: the calls and the token that hands over to the tools, or the text and its end."""
    if calls:
        return "".join(call(one["name"], one["arguments"]) for one in calls) + "<start_function_response>"
    return f"{text}<end_of_turn>"


def _declaration(tool: Tool) -> str:
    function = tool["function"]
    schema = function["parameters"]
    properties = ",".join(
        f"{key}:{{description:{value(item['description'])},"
        + (f"enum:{value(item['enum'])}," if "enum" in item else "")
        + f"type:{value(item['type'].upper())}}}"
        for key, item in sorted(schema["properties"].items())
    )
    inner = f"properties:{{{properties}}}," if properties else ""
    inner += f"required:{value(schema['required'])}," if schema.get("required") else ""
    description = value(function["description"])
    return (
        f"<start_function_declaration>declaration:{function['name']}{{description:{description},"
        f"parameters:{{{inner}type:<escape>OBJECT<escape>}}}}<end_function_declaration>"
    )


def _result(message: Message) -> str:
    content = message["content"]
    name, result = (content["name"], content["response"]) if isinstance(content, dict) else (message["name"], content)
    inner = pairs(sorted_keys(result)) if isinstance(result, Mapping) else f"value:{value(result)}"
    return f"<start_function_response>response:{name}{{{inner}}}<end_function_response>"


def prompt(messages: Sequence[Message], tools: Sequence[Tool]) -> str:
    """The prompt with its generation mark, equal to the template's for the conversations of this world."""
    rest = list(messages)
    developer = rest.pop(0)["content"] if rest and rest[0]["role"] == "developer" else ""
    parts = ["<bos>"]
    if developer or tools:
        declared = "".join(_declaration(tool) for tool in tools)
        parts.append(f"<start_of_turn>developer\n{developer}{declared}<end_of_turn>\n")
    inside = False
    for message in rest:
        if message["role"] == "user":
            parts.append(f"<start_of_turn>user\n{message['content']}<end_of_turn>\n")
        elif message["role"] == "tool":
            parts.append(_result(message))
        else:
            parts.append("" if inside else "<start_of_turn>model\n")
            calls = message.get("tool_calls") or []
            parts.extend(call(one["function"]["name"], one["function"]["arguments"]) for one in calls)
            parts.append("" if calls else f"{message['content']}<end_of_turn>\n")
            inside = bool(calls)
    return "".join(parts) + ("" if inside else "<start_of_turn>model\n")
