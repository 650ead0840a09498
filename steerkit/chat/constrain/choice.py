"""The form that a caller wants a reply to have: which calls, how many, or a text of a schema."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from steerkit.chat.arguments import schema_problem
from steerkit.chat.plain import plain_json
from steerkit.errors import SettingError
from steerkit.types import Tool

Mode: TypeAlias = Literal["none", "auto", "required"]
_MODES: Final = ("none", "auto", "required")
_MOST_STOPS: Final = 16
_EXPECTED: Final = (
    "none, auto, required, the name of a tool, {'type': 'function', 'function': {'name': NAME}} or "
    "{'type': 'allowed_tools', 'allowed_tools': {'mode': MODE, 'tools': [...]}}"
)


class ToolChoice(NamedTuple):
    """The calls that a reply may, or must, make."""

    mode: Mode
    """`none`: no call; `auto`: text or calls, or both; `required`: at least one call and no text."""
    names: tuple[str, ...] | None = None
    """The tools that may be called; None for all that are declared."""
    named: bool = False
    """One tool was named: it is called once."""


@dataclass(frozen=True, slots=True)
class ReplyForm:
    """A reply's form. The default leaves it free."""

    choice: ToolChoice | None = None
    parallel: bool = True
    """A reply may have more than one call."""
    schema: Mapping[str, Any] | bool | None = None
    """JSON Schema of a text that is JSON; True for any object."""
    stop: tuple[str, ...] = ()
    """Texts before which the reply's text ends."""
    strict: bool = False
    """A tool of the request is `strict`."""
    over_steering: bool = False
    """A call that is required is demanded also where steering turned the model away from it."""

    @property
    def forbids_calls(self) -> bool:
        """True if no call may be made."""
        return self.choice is not None and self.choice.mode == "none"

    @property
    def needs_grammar(self) -> bool:
        """True if only a grammar can hold a reply to it: any but free replies, and those without calls."""
        constrains = self.choice is not None or not self.parallel or self.strict
        return self.schema is not None or (constrains and not self.forbids_calls)


def reply_form(
    tools: Sequence[Tool],
    tool_choice: object = None,
    parallel_tool_calls: object = None,
    response_format: object = None,
    stop: object = (),
) -> ReplyForm:
    """The form that a request's settings ask for.

    Args:
        tools: as they are declared.
        tool_choice: `none`, `auto`, `required`, a tool's name, or one of OpenAI's objects; None leaves replies free.
        parallel_tool_calls: False for at most one call.
        response_format: OpenAI's object: of type `text`, `json_object` or `json_schema`.
        stop: a text or several.

    Raises:
        SettingError: one of them is none of these, or names a tool that is not declared.
    """
    if parallel_tool_calls not in (None, True, False):
        raise SettingError(f"parallel_tool_calls: got {parallel_tool_calls!r:.80}, expected True or False")
    choice = _choice(tool_choice, [tool.name for tool in tools])
    strict = any(tool.strict is True for tool in tools)
    return ReplyForm(choice, parallel_tool_calls is not False, _schema(response_format), _stops(stop), strict)


def _choice(given: object, declared: Sequence[str]) -> ToolChoice | None:
    if given is None:
        return None
    if isinstance(given, str):
        found = ToolChoice(given) if given in _MODES else _named(given)  # type: ignore[arg-type]  # it is one of them
    elif isinstance(given, Mapping) and given.get("type") == "function":
        found = _named(_name_in(given))
    elif isinstance(given, Mapping) and given.get("type") == "allowed_tools":
        found = _allowed(given.get("allowed_tools", given))
    else:
        raise SettingError(f"tool_choice: got {given!r:.80}, expected {_EXPECTED}")
    for name in found.names or ():
        if name not in declared:
            known = ", ".join(declared) or "none"
            raise SettingError(f"tool_choice: got the tool {name!r:.80}, expected one of those declared: {known}")
    if found.mode == "required" and not declared:
        raise SettingError("tool_choice: got required and no tools; declare some")
    return found


def _named(name: object) -> ToolChoice:
    if not isinstance(name, str):
        raise SettingError(f"tool_choice: got the name {name!r:.80}, expected the name of a tool")
    return ToolChoice("required", (name,), named=True)


def _name_in(given: object) -> object:
    """The name in a tool's reference, of chat completions or responses."""
    inner = given.get("function", given) if isinstance(given, Mapping) else None
    return inner.get("name") if isinstance(inner, Mapping) else None


def _allowed(given: object) -> ToolChoice:
    tools = given.get("tools") if isinstance(given, Mapping) else None
    mode = given.get("mode") if isinstance(given, Mapping) else None
    if mode not in ("auto", "required") or not isinstance(tools, (list, tuple)) or not tools:
        raise SettingError(f"tool_choice.allowed_tools: got {given!r:.80}, expected mode (auto, required) and tools")
    names = [_named(_name_in(one)).names or () for one in tools]
    return ToolChoice(mode, tuple(dict.fromkeys(name for some in names for name in some)))


def _schema(given: object) -> Mapping[str, Any] | bool | None:
    if given is None:
        return None
    kind = given.get("type") if isinstance(given, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return True
    if not isinstance(given, Mapping) or kind != "json_schema":
        raise SettingError(f"response_format: got {given!r:.80}, expected a type of text, json_object or json_schema")
    schema = (given["json_schema"] if isinstance(given.get("json_schema"), Mapping) else given).get("schema")
    if not isinstance(schema, Mapping):
        raise SettingError(f"response_format.json_schema.schema: got {type(schema).__name__}, expected a JSON Schema")
    if problem := schema_problem(schema):
        raise SettingError(f"response_format.json_schema.schema: {problem.removeprefix('parameters').lstrip('.: ')}")
    copied: Mapping[str, Any] = plain_json(schema, "response_format.json_schema.schema", SettingError)
    return copied


def _stops(given: object) -> tuple[str, ...]:
    if given is None:
        return ()
    some = [given] if isinstance(given, str) else given
    if not isinstance(some, (list, tuple)) or not all(isinstance(one, str) and one for one in some):
        raise SettingError(f"stop: got {given!r:.80}, expected a text, or a list of texts that are not empty")
    if len(some) > _MOST_STOPS:
        raise SettingError(f"stop: got {len(some)} texts, expected at most {_MOST_STOPS}")
    return tuple(some)


def once_called(tool_choice: Any) -> Any:
    """A tool choice for the turns after the first: what it required was called."""
    if not isinstance(tool_choice, Mapping):
        return tool_choice if tool_choice in (None, "none", "auto") else "auto"
    allowed = tool_choice.get("allowed_tools")
    if tool_choice.get("type") != "allowed_tools":
        return "auto"
    if isinstance(allowed, Mapping):
        return {**tool_choice, "allowed_tools": {**allowed, "mode": "auto"}}
    return {**tool_choice, "mode": "auto"}


def settings_of(**given: object) -> dict[str, Any]:
    """The settings of a form that were given, as JSON for a record; none where the reply was left free."""
    said = {key: value for key, value in given.items() if value not in (None, (), [])}
    found: dict[str, Any] = json.loads(json.dumps(said))
    return found
