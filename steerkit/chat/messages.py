"""OpenAI-style messages, checked and paired with their results, as every dialect starts from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from steerkit.chat.dialects import NAME
from steerkit.chat.pairing import Pairing
from steerkit.chat.plain import plain_json, plain_messages
from steerkit.errors import MessageError
from steerkit.files import RepeatedKeyError, strict_json
from steerkit.types import Messages

_ROLES: Final = {
    "system": "developer",
    "developer": "developer",
    "user": "user",
    "assistant": "assistant",
    "model": "assistant",
}
_SAID_ELSEWHERE: Final = ("function_call", "parts", "tool_responses", "toolCalls", "refusal", "audio")
"""Keys under which other forms keep what a message says: a message that has them is not read half."""
_TEXT_PARTS: Final = ("text", "input_text", "output_text")


def template_messages(messages: Messages) -> list[dict[str, Any]]:
    """Messages with template roles, arguments as mappings, and each tool result under its tool's name.

    A tool message has `answers`, the number in the conversation of the call that each of its results belongs to, and
    `texts`, each result as text where it was given as text.

    Raises:
        MessageError: which message, what was got and what was expected.
    """
    pairing = Pairing()
    found = []
    for number, message in enumerate(plain_messages(messages)):
        where = f"messages[{number}]"
        role = message.get("role")
        if role == "tool":
            found.append(_tool_message(message, where, pairing))
        elif isinstance(role, str) and role in _ROLES:
            found.append(_plain_message(message, where, pairing))
        else:
            raise MessageError(f"{where}.role: got {role!r}, expected developer, system, user, assistant or tool")
    return found


class Made(NamedTuple):
    """A call that the conversation shows, and its result."""

    name: str
    arguments: Mapping[str, Any]
    result: Mapping[str, Any] | None = None
    """An object, as Gemma's templates take it: a result that is none stands under `value`."""
    answered: bool = False


def calls_made(messages: Messages) -> tuple[Made, ...]:
    """Every call in a conversation, in order, with the result that answers it. Raises MessageError."""
    made: list[Made] = []
    for message in template_messages(messages) if messages else ():
        made += [
            Made(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", ())
        ]
        if message["role"] == "tool":
            for number, part in zip(message["answers"], message["content"], strict=True):
                made[number] = made[number]._replace(result=part["response"], answered=True)
    return tuple(made)


def _plain_message(message: Mapping[str, Any], where: str, pairing: Pairing) -> dict[str, Any]:
    plain: dict[str, Any] = {"role": _ROLES[message["role"]]}
    if message.get("content") is not None:
        plain["content"] = _text(message["content"], f"{where}.content")
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise MessageError(f"{where}.tool_calls: got {type(calls).__name__}, expected a list of calls")
    if calls and plain["role"] != "assistant":
        raise MessageError(f"{where}.tool_calls: got calls by the {message['role']}; expected them of the assistant")
    if elsewhere := next((key for key in _SAID_ELSEWHERE if message.get(key)), None):
        raise MessageError(f"{where}.{elsewhere}: got something, expected all that is said in content and tool_calls")
    if calls:
        plain["tool_calls"] = [_call(call, f"{where}.tool_calls[{n}]") for n, call in enumerate(calls)]
        pairing.asked(plain["tool_calls"], f"{where}.tool_calls")
    else:
        pairing.closed()
        if "content" not in plain and plain["role"] != "assistant":
            raise MessageError(f"{where}: got neither content nor tool_calls, expected one of them")
        plain.setdefault("content", "")  # an assistant that said nothing
    return plain


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(
        isinstance(part, dict) and isinstance(part.get("text"), str) for part in content
    ):
        return "".join(part["text"] for part in content)
    raise MessageError(f"{where}: got {type(content).__name__}, expected text or a list of text parts")


def _call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise MessageError(f"{where}: got no function name, expected {{function: {{name, arguments}}}}")
    if not NAME.fullmatch(function["name"]):
        raise MessageError(
            f"{where}: got the function name {function['name']!r}, expected letters, digits, '_', '.' and '-'"
        )
    arguments = _arguments(function.get("arguments"), f"{where}.arguments")
    plain: dict[str, Any] = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    if call.get("id") not in (None, ""):
        plain["id"] = str(call["id"])
    return plain


def _arguments(given: Any, where: str) -> dict[str, Any]:
    """A call's arguments; none, and text that is blank, are no arguments."""
    if isinstance(given, str):
        if not given.strip():
            return {}
        try:
            given = strict_json(given)
        except RepeatedKeyError as error:
            raise MessageError(f"{where}: got the key {error.key!r:.80} twice, expected it once") from None
        except (ValueError, RecursionError):
            raise MessageError(f"{where}: got text that is no JSON, expected a mapping") from None
        given = plain_json(given, where)
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise MessageError(f"{where}: got {type(given).__name__}, expected a mapping")
    return given


def _tool_message(message: Mapping[str, Any], where: str, pairing: Pairing) -> dict[str, Any]:
    """A tool's results with the calls they answer. What a result holds never says whose it is, but in one form.

    That is the template's own, `{"name": N, "response": {…}}` or a list of those, in a message that names no call:
    there each must be of the very call that waits next.
    """
    content = message.get("content")
    reference, name = ((message.get(key) or None) for key in ("tool_call_id", "name"))
    if reference is not None or name is not None:
        number, name = pairing.answered(reference, name, where)
        return _results([number], [_result(name, content, where)], [_joined(content)])
    parts: list[Any] = content if isinstance(content, list) else [content]
    if parts and all(isinstance(part, Mapping) and part.keys() == {"name", "response"} for part in parts):
        numbers = [pairing.next_in_turn(part["name"], f"{where}.content") for part in parts]
        return _results(numbers, [_splayed(part["name"], part["response"]) for part in parts], [None] * len(parts))
    raise MessageError(f"{where}.tool_call_id: got None, expected the id of an earlier call, or a name")


def _results(numbers: list[int], content: list[dict[str, Any]], texts: Sequence[str | None]) -> dict[str, Any]:
    return {"role": "tool", "answers": numbers, "content": content, "texts": texts}


def _result(name: str, content: Any, where: str) -> dict[str, Any]:
    """A tool's result: a JSON object in text is an object, any other text a value."""
    text = _joined(content)
    content = content if text is None else text
    if text is not None and text.lstrip().startswith("{"):
        with suppress(ValueError, RecursionError):  # no JSON, or nested deeper than it can be read: text then
            content = plain_json(strict_json(text), f"{where}.content")
    return _splayed(name, content)


def _joined(content: Any) -> str | None:
    """A result that is text, or parts of text, as one text."""
    if isinstance(content, list) and content and all(_is_text_part(part) for part in content):
        return "".join(part["text"] for part in content)
    return content if isinstance(content, str) else None


def _is_text_part(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") in _TEXT_PARTS and isinstance(part.get("text"), str)


def _splayed(name: str, response: Any) -> dict[str, Any]:
    return {"name": name, "response": response if isinstance(response, dict) else {"value": response}}
