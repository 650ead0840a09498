"""Tools in every form people have them, checked before the model sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from steerkit.chat.arguments import schema_problem
from steerkit.chat.declare import declared, unwritable
from steerkit.chat.dialects import NAME
from steerkit.chat.forms import one_by_one, read_form, tool_object
from steerkit.chat.plain import plain_json
from steerkit.chat.schemas import KEYWORDS, lower_types
from steerkit.errors import ToolError
from steerkit.types import Tool


def as_tools(
    tools: Iterable[Any], *, from_function: Callable[[Callable[..., Any]], Mapping[str, Any]]
) -> tuple[Tool, ...]:
    """Tools from `Tool` values, tool dicts, JSON Schemas whose `title` is the name, objects that describe a tool, and
    Python functions.

    Tool dicts are read in the forms of OpenAI, Anthropic, Google, Amazon Bedrock and the Model Context Protocol;
    Google's lists of functions are taken apart, in place.

    Args:
        tools: in any mixture of these forms.
        from_function: makes an OpenAI tool dict of a function.

    Raises:
        ToolError: which tool, what was got and what was expected.
    """
    found: list[Tool] = []
    for number, given in enumerate(one_by_one(tools)):
        tool = _as_tool(given, f"tools[{number}]", from_function)
        if any(tool.name == other.name for other in found):
            raise ToolError(f"tools[{number}]: got the name '{tool.name}' a second time; expected a name of its own")
        found.append(tool)
    return tuple(found)


def openai(tool: Tool) -> dict[str, Any]:
    """The tool as an OpenAI tool dict, the form that chat templates take."""
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function}


def _as_tool(given: Any, where: str, from_function: Callable[[Callable[..., Any]], Mapping[str, Any]]) -> Tool:
    if isinstance(given, Tool):
        return _checked(given, where)
    described = tool_object(given)
    if described is not None:
        given = described
    elif callable(given):
        given = from_function(given)
    if not isinstance(given, Mapping):
        raise ToolError(f"{where}: got {type(given).__name__}, expected a tool dict, a JSON Schema or a function")
    return _checked(Tool(*read_form(given, where)), where)


def _checked(tool: Tool, where: str) -> Tool:
    if not isinstance(tool.name, str) or not NAME.fullmatch(tool.name):
        raise ToolError(f"{where}: got the name {tool.name!r:.80}, expected letters, digits, '_', '.' and '-'")
    where = f"{where} ({tool.name})"
    if not isinstance(tool.description, str):
        raise ToolError(f"{where}: got a description of type {type(tool.description).__name__}, expected text")
    if tool.strict not in (None, True, False):
        raise ToolError(f"{where}: got strict: {tool.strict!r:.80}, expected true or false")
    schema = _schema(tool.parameters, where)
    if problem := schema_problem(schema):
        raise ToolError(f"{where}: {problem}")
    checked = Tool(tool.name, tool.description, schema, tool.strict)
    try:
        declared(checked)
    except ToolError as error:
        raise ToolError(f"{where}: parameters: {str(error).partition(': parameters: ')[2]}") from None
    return checked


def _schema(given: Any, where: str) -> dict[str, Any]:
    """A tool's schema as plain JSON, with the types in JSON Schema's case.

    Raises:
        ToolError: it is no schema of an object, or has keys with no meaning: the guard would let everything through.
    """
    no_object = ToolError(f"{where}: got parameters that are no object schema; expected type: object and properties")
    if not isinstance(given, Mapping):
        raise no_object
    schema: dict[str, Any] = lower_types(plain_json(given, f"{where}: parameters", ToolError))
    for name in _parameters(schema):
        if strange := unwritable(name):
            raise ToolError(f"{where}: got the parameter {name!r:.80} {strange}")
    if schema.get("type", "object") != "object":
        raise no_object
    for key, value in schema.items():
        if key not in KEYWORDS and not key.startswith(("$", "x-")):
            close = get_close_matches(key, KEYWORDS, 1, 0.8)
            if close or isinstance(value, dict):
                expected = close[0] if close else "the parameters inside of properties"
                raise ToolError(f"{where}: parameters: got the unknown key {key!r:.80}, expected {expected}")
    if not isinstance(schema.get("properties", {}), Mapping):
        raise ToolError(
            f"{where}: parameters.properties: got {type(schema['properties']).__name__}, expected a mapping"
        )
    # Without a type the published template leaves a brace open.
    return {"type": "object", **(schema or {"properties": {}})}


def _parameters(schema: Any) -> Iterator[Any]:
    """Names of all parameters, those of objects and of items in arrays included."""
    if not isinstance(schema, Mapping):
        return
    properties = schema.get("properties", {})
    for name, item in properties.items() if isinstance(properties, Mapping) else ():
        yield name
        yield from _parameters(item)
    yield from _parameters(schema.get("items"))
