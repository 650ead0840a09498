"""Tools in every form people have them, checked before the model is told of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from steerkit.chat.arguments import schema_problem
from steerkit.chat.wire import NAME
from steerkit.errors import ToolError
from steerkit.types import Tool

_VANISHING = ("description", "type", "properties", "required", "nullable")
_UNTYPED = "parameters without a type leave the declaration's brace open; add type: object"


class Lint(NamedTuple):
    """Something that the published chat template does with a tool that its author did not mean."""

    severity: Literal["error", "warning"]
    """`error`: the model is told something else than what was declared."""
    path: str
    text: str


def as_tools(
    tools: Iterable[Any], *, from_function: Callable[[Callable[..., Any]], Mapping[str, Any]]
) -> tuple[Tool, ...]:
    """Tools from `Tool` values, OpenAI tool dicts, `{name, description, parameters}`, JSON Schemas whose `title` is the
    name, and Python functions.

    Args:
        tools: in any mixture of these forms.
        from_function: makes an OpenAI tool dict of a function.

    Raises:
        ToolError: which tool, what was got and what was expected.
    """
    if isinstance(tools, (str, bytes, Mapping)) or not isinstance(tools, Iterable):
        raise ToolError(f"tools: got {type(tools).__name__}, expected a list of tools")
    found: list[Tool] = []
    for number, given in enumerate(tools):
        tool = _as_tool(given, f"tools[{number}]", from_function)
        if any(tool.name == other.name for other in found):
            raise ToolError(f"tools[{number}]: got the name '{tool.name}' a second time; expected a name of its own")
        found.append(tool)
    return tuple(found)


def openai(tool: Tool) -> dict[str, Any]:
    """The tool as an OpenAI tool dict, what chat templates take."""
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function}


def lint(tool: Tool) -> list[Lint]:
    """What the published template would drop or garble of this tool."""
    untyped = [] if "type" in tool.parameters else [Lint("error", "parameters", _UNTYPED)]
    return [*untyped, *_lint_properties(tool.parameters, "parameters")]


def _as_tool(given: Any, where: str, from_function: Callable[[Callable[..., Any]], Mapping[str, Any]]) -> Tool:
    if isinstance(given, Tool):
        return _checked(given, where)
    if callable(given):
        given = from_function(given)
    if not isinstance(given, Mapping):
        raise ToolError(f"{where}: got {type(given).__name__}, expected a tool dict, a JSON Schema or a function")
    body = given.get("function", given)
    if not isinstance(body, Mapping):
        raise ToolError(f"{where}.function: got {type(body).__name__}, expected a mapping with name and parameters")
    if "name" not in body and "title" in body and ("properties" in body or body.get("type") == "object"):
        schema = {key: value for key, value in body.items() if key not in ("title", "description")}
        body = {"name": body["title"], "description": body.get("description", ""), "parameters": schema}
    if "name" not in body:
        raise ToolError(f"{where}: got no name (keys: {', '.join(map(str, body)) or 'none'}); give it one")
    parameters = body.get("parameters") or {"type": "object", "properties": {}}
    return _checked(Tool(body["name"], body.get("description") or "", parameters), where)


def _checked(tool: Tool, where: str) -> Tool:
    if not isinstance(tool.name, str) or not NAME.fullmatch(tool.name):
        raise ToolError(f"{where}: got the name {tool.name!r}, expected letters, digits, '_', '.' and '-'")
    where = f"{where} ({tool.name})"
    if not isinstance(tool.description, str):
        raise ToolError(f"{where}: got a description of type {type(tool.description).__name__}, expected text")
    schema = tool.parameters
    if not isinstance(schema, Mapping) or schema.get("type", "object") != "object":
        raise ToolError(f"{where}: got parameters that are no object schema; expected type: object and properties")
    if problem := schema_problem(schema):
        raise ToolError(f"{where}: {problem}")
    if not isinstance(schema.get("properties", {}), Mapping):
        raise ToolError(f"{where}: parameters.properties: expected a mapping")
    for name in _parameters(schema):
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ToolError(f"{where}: got the parameter {name!r}, expected letters, digits, '_', '.' and '-'")
    # Without a type the published template leaves a brace open.
    return Tool(tool.name, tool.description, {"type": "object", **schema})


def _parameters(schema: Any) -> Iterator[Any]:
    """Names of all parameters, those of objects and of items in arrays included."""
    if not isinstance(schema, Mapping):
        return
    properties = schema.get("properties", {})
    for name, item in properties.items() if isinstance(properties, Mapping) else ():
        yield name
        yield from _parameters(item)
    yield from _parameters(schema.get("items"))


def _lint_properties(schema: Mapping[str, Any], path: str) -> Iterable[Lint]:
    items = schema.get("items")
    if isinstance(items, Mapping):
        yield from _lint_properties(items, f"{path}.items")
    for name, item in schema.get("properties", {}).items():
        here = f"{path}.properties.{name}"
        if name in _VANISHING:
            yield Lint("error", here, f"a parameter named '{name}' vanishes from the declaration; rename it")
        if not isinstance(item, Mapping):
            continue
        kind = item.get("type")
        if isinstance(kind, list) or "anyOf" in item or "oneOf" in item:
            yield Lint("error", here, "a union type is not declared as one; give a single type")
        if "enum" in item and kind != "string":
            yield Lint("warning", here, f"an enum of type {kind} is dropped from the declaration; use strings")
        if kind == "object" and not item.get("properties"):
            yield Lint("error", here, "an object without properties is declared with its schema's own keys; list them")
        yield from _lint_properties(item, here)
