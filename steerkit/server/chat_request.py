"""Chat completions as they are asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from steerkit.policy import Policy
from steerkit.server.errors import ApiError
from steerkit.server.fields import (
    SHARED_REFUSED,
    Asked,
    Asker,
    Common,
    Form,
    Refused,
    Shape,
    asked,
    check_count,
    read_form,
    sampling_of,
)
from steerkit.server.names import Names
from steerkit.server.options import Limits

REFUSED: Final[Mapping[str, Refused]] = {
    **SHARED_REFUSED,
    "logprobs": Refused((None, False), "log-probabilities are not given"),
    "n": Refused((None, 1), "a request gets one reply; send it again with another seed"),
    "presence_penalty": Refused((None, 0, 0.0), "logits are not penalized"),
    "frequency_penalty": Refused((None, 0, 0.0), "logits are not penalized"),
    "logit_bias": Refused((None, {}), "logits are not biased"),
    "modalities": Refused((None, ["text"]), "the model writes text"),
    "audio": Refused((None,), "the model writes text"),
    "prediction": Refused((None,), "replies are not predicted"),
    "reasoning_effort": Refused((None,), "the model has no such setting"),
    "web_search_options": Refused((None,), "tools are the client's"),
    "functions": Refused((None,), "this is the old form; give tools"),
    "function_call": Refused((None,), "this is the old form; give tool_choice"),
}


class Declaration(Form):
    """A tool."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def declared(self) -> dict[str, Any]:
        """The tool in the form of chat completions."""
        said = {"parameters": self.parameters, "strict": self.strict}
        given = {name: value for name, value in said.items() if value is not None}
        return {"type": "function", "function": {"name": self.name, "description": self.description or "", **given}}


class _Tool(Form):
    type: Literal["function"]
    function: Declaration


class _StreamOptions(Form):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class _CalledFunction(Form):
    name: str
    arguments: str | dict[str, Any] = ""


class _ToolCall(Form):
    id: str
    type: Literal["function"] = "function"
    function: _CalledFunction
    index: int | None = None
    steerkit: Any = None


class _Message(Form):
    """A message; what clients send back of a reply of ours is known, and adds nothing."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Any = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None
    steerkit: Any = None


class ChatRequest(Common):
    """Body of `POST /v1/chat/completions`."""

    messages: list[_Message]
    tools: list[_Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    stop: str | list[str] | None = None
    stream_options: _StreamOptions | None = None
    seed: int | None = None
    max_completion_tokens: int | None = None
    max_tokens: int | None = None


def read_chat(
    body: Mapping[str, Any], asker: Asker, names: Names, limits: Limits, default: Sequence[Policy] = ()
) -> Asked:
    """A request for a chat completion. Raises ApiError."""
    form = read_form(ChatRequest, body, REFUSED)
    if not form.messages:
        raise ApiError(400, "messages: got none, expected at least one", param="messages")
    check_count("messages", form.messages, limits.messages)
    check_count("tools", form.tools or (), limits.tools)
    if form.stream_options is not None and not form.stream:
        raise ApiError(400, "stream_options: got some without stream, expected stream: true", param="stream_options")
    name = "max_tokens" if form.max_completion_tokens is None else "max_completion_tokens"
    most = form.max_tokens if form.max_completion_tokens is None else form.max_completion_tokens
    if form.max_tokens not in (None, most):
        raise ApiError(400, f"max_tokens: got {form.max_tokens} beside max_completion_tokens", param="max_tokens")
    sampling = sampling_of(form, most, form.seed, limits, name)
    tools = [tool.function.declared() for tool in form.tools or ()]
    messages = [_message(one, f"messages[{number}]") for number, one in enumerate(form.messages)]
    shape = Shape(form.tool_choice, form.parallel_tool_calls, form.response_format, form.stop or ())
    return asked(form, messages, tools, sampling, shape, asker, names, default=default)


def _message(one: _Message, where: str) -> dict[str, Any]:
    """A message in the runtime's form."""
    content = text_of(one.content, f"{where}.content")
    found: dict[str, Any] = {"role": one.role}
    if one.role == "tool":
        found |= {"tool_call_id": one.tool_call_id, "content": content or ""}
        return found if one.name is None else {**found, "name": one.name}
    if one.name is not None:
        raise ApiError(
            400,
            f"{where}.name: got {one.name!r:.80}, expected none: the model's messages have no names",
            param=f"{where}.name",
        )
    said = [text for text in (content, one.refusal) if text]
    if said or one.role != "assistant":
        found["content"] = "\n".join(said)
    if one.tool_calls:
        found["tool_calls"] = [
            {"id": call.id, "type": "function", "function": called(call.function.name, call.function.arguments)}
            for call in one.tool_calls
        ]
    return found


def called(name: str, arguments: str | dict[str, Any]) -> dict[str, Any]:
    """A call of the conversation; text that is no JSON object, as a failed call has it, becomes one argument."""
    if isinstance(arguments, str):
        try:
            value = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError):
            value = None
        arguments = value if isinstance(value, dict) else {"unreadable": arguments}
    return {"name": name, "arguments": arguments}


def text_of(content: Any, where: str) -> str | None:
    """The text of a content: text, text parts, or none. Raises ApiError for what the model cannot read."""
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ApiError(400, f"{where}: got {type(content).__name__}, expected text or a list of parts", param=where)
    found: list[str] = []
    for number, part in enumerate(content):
        at = f"{where}[{number}]"
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get("refusal" if kind == "refusal" else "text") if isinstance(part, dict) else None
        if kind not in ("text", "input_text", "output_text", "refusal") or not isinstance(text, str):
            raise ApiError(400, f"{at}: got a part of type {kind!r:.40}, expected text", param=at)
        if strange := [key for key in part if key not in ("type", "text", "refusal", "annotations", "logprobs")]:
            raise ApiError(400, f"{at}.{strange[0]}: got a field that is not known, expected type and text", param=at)
        found.append(text)
    return "".join(found)
