"""pydantic-ai's messages and settings in the form that steerkit takes."""

from __future__ import annotations

import warnings
from typing import Any, Final

from pydantic_ai import ModelMessage, ModelResponse, RetryPromptPart, SystemPromptPart, ToolReturnPart

_NAMES: Final = {name: name for name in ("temperature", "top_p", "top_k", "seed")} | {"max_tokens": "max_new_tokens"}
_FORM: Final = ("tool_choice", "parallel_tool_calls")
_NONE_OF_THE_MODELS: Final = ("timeout", "request_timeout", "first_event_timeout", "max_retries", "extra_headers")


def sampling(settings: Any) -> dict[str, Any]:
    """The settings of a turn, with a warning of those that are left out."""
    given = {name: value for name, value in (settings or {}).items() if value is not None}
    for name in sorted(given.keys() - _NAMES.keys() - set(_NONE_OF_THE_MODELS) - set(_FORM)):
        warnings.warn(f"steerkit does not support the setting {name!r}: it is left out", stacklevel=3)
    return {_NAMES[name]: value for name, value in given.items() if name in _NAMES}


def form(info: Any) -> dict[str, Any]:
    """The fields of a request that say what its reply must be like; an agent that takes no text gets a call."""
    settings = info.model_settings or {}
    choice, output = settings.get("tool_choice"), [one.name for one in info.output_tools]
    names = {"required": [one.name for one in info.function_tools], "none": output}.get(str(choice), choice)
    mode = "auto" if info.allow_text_output and choice == "none" else "required"
    if not isinstance(names, list):
        found: Any = None if info.allow_text_output else "required"
    elif names:
        tools = [{"type": "function", "name": name} for name in names]
        found = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}
    else:
        found = "none"
    return {"tool_choice": found, "parallel_tool_calls": settings.get("parallel_tool_calls")}


def openai(message: ModelMessage) -> list[dict[str, Any]]:
    """A message in parts: what the model said is one, each part of a request is one of its own."""
    if not isinstance(message, ModelResponse):
        return [_asked(part) for part in message.parts]
    functions = [(one.tool_call_id, one.tool_name, one.args_as_dict()) for one in message.tool_calls]
    calls = [{"id": id, "function": {"name": name, "arguments": given}} for id, name, given in functions]
    return [{"role": "assistant", "content": message.text or "", **({"tool_calls": calls} if calls else {})}]


def _asked(part: Any) -> dict[str, Any]:
    """A part of a request."""
    if isinstance(part, ToolReturnPart):
        return {"role": "tool", "tool_call_id": part.tool_call_id, "content": part.model_response_str()}
    if isinstance(part, RetryPromptPart):
        where = {"role": "tool", "tool_call_id": part.tool_call_id} if part.tool_name else {"role": "user"}
        return {**where, "content": part.model_response()}
    return {"role": "system" if isinstance(part, SystemPromptPart) else "user", "content": part.content}
