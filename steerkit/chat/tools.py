"""Tools in every form people have them, checked before the model sees them; no key is passed over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final, NamedTuple

from steerkit.chat.arguments import schema_problem
from steerkit.chat.declare import declared, unwritable
from steerkit.chat.dialects import NAME
from steerkit.chat.plain import plain_json
from steerkit.chat.schemas import KEYWORDS, REFERENCES, lower_types
from steerkit.errors import ToolError
from steerkit.types import Tool

_SCHEMA_KEYS: Final = (
    "parameters",  # OpenAI, Google
    "inputSchema",  # the Model Context Protocol, Amazon Bedrock
    "input_schema",  # Anthropic
    "parametersJsonSchema",  # Google
    "parameters_json_schema",
)
_HARMLESS: Final = frozenset(
    {
        *("type", "strict", "title", "annotations", "icons", "execution", "meta", "_meta", "metadata"),
        *("outputSchema", "output_schema", "response", "return", "returns"),
        *("responseJsonSchema", "response_json_schema", "behavior"),
        *("cache_control", "defer_loading", "allowed_callers", "input_examples", "eager_input_streaming"),
    }
)
"""Keys that say nothing about the arguments."""
_LISTS: Final = ("functionDeclarations", "function_declarations")
_WRAPPERS: Final = ("function", "toolSpec")
_TYPES: Final = ("function", "custom", None)


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


class Form(NamedTuple):
    """The parts of a tool's form, unchecked."""

    name: Any
    description: Any
    schema: Any
    strict: Any = None


def one_by_one(tools: Iterable[Any]) -> list[Any]:
    """The tools with Google's `{functionDeclarations: […]}` taken apart.

    Raises:
        ToolError: it is no list of tools, or such a list holds something else.
    """
    if isinstance(tools, (str, bytes, Mapping)) or not isinstance(tools, Iterable):
        raise ToolError(f"tools: got {type(tools).__name__}, expected a list of tools")
    return list(_flat(tools))


def _flat(tools: Iterable[Any]) -> Iterator[Any]:
    for number, given in enumerate(tools):
        key = next((key for key in _LISTS if isinstance(given, Mapping) and key in given), None)
        if key is None:
            yield given
            continue
        if len(given) > 1:
            others = ", ".join(str(other) for other in given if other != key)
            raise ToolError(f"tools[{number}]: got {others} beside {key}; expected functions alone")
        if not isinstance(given[key], (list, tuple)):
            raise ToolError(f"tools[{number}].{key}: got {type(given[key]).__name__}, expected a list of functions")
        yield from given[key]


def read_form(given: Mapping[str, Any], where: str) -> Form:
    """The name, description and schema of a tool dict or of a JSON Schema whose title is the name.

    Raises:
        ToolError: a key that is unknown, or two that hold schemas: what is not read is not checked.
    """
    body = _unwrapped(given, where)
    if "name" not in body and "title" in body and _is_object_schema(body):
        schema = {key: value for key, value in body.items() if key not in ("title", "description")}
        return Form(body["title"], body.get("description") or "", schema)
    if "name" not in body and "$ref" in body and "$defs" in body:  # as pydantic has a model that holds itself
        return Form(str(body["$ref"]).rpartition("/")[2], "", body)
    if "name" not in body:
        raise ToolError(f"{where}: got no name (keys: {', '.join(map(str, body)) or 'none'}); give it one")
    where = f"{where} ({body['name']!s:.80})"
    if body.get("type") not in _TYPES:
        raise ToolError(f"{where}.type: got {body['type']!r:.80}, expected function")
    known = {"name", "description", *_SCHEMA_KEYS, *_HARMLESS}
    for key in body:
        if key not in known:
            close = get_close_matches(str(key), known, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ToolError(f"{where}: got the unknown key {key!r:.80}, expected name, description, parameters{hint}")
    schemas = [key for key in _SCHEMA_KEYS if body.get(key) is not None]
    if len(schemas) > 1:
        raise ToolError(f"{where}: got {' and '.join(schemas)}, expected one schema")
    schema = body[schemas[0]] if schemas else {}
    if schemas and isinstance(schema, Mapping) and schema.keys() == {"json"}:
        schema = schema["json"]  # Amazon Bedrock's
    return Form(body["name"], body.get("description") or "", schema, body.get("strict", given.get("strict")))


def _is_object_schema(body: Mapping[str, Any]) -> bool:
    kind = body.get("type")
    return any(key in body for key in ("properties", *REFERENCES, "allOf", "anyOf", "oneOf")) or (
        isinstance(kind, str) and kind.lower() == "object"
    )


def _unwrapped(given: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    key = next((key for key in _WRAPPERS if key in given), None)
    if key is None:
        return given
    for other in given:
        if other not in (key, *_HARMLESS):
            raise ToolError(f"{where}: got the key {other!r:.80} beside {key}; expected it inside")
    if given.get("type") not in _TYPES:
        raise ToolError(f"{where}.type: got {given['type']!r:.80}, expected function")
    body = given[key]
    if not isinstance(body, Mapping):
        raise ToolError(f"{where}.{key}: got {type(body).__name__}, expected a mapping with name and parameters")
    return body


def tool_object(given: Any) -> dict[str, Any] | None:
    """The tool dict of an object that describes a tool, as langchain's and the Model Context Protocol's do; None of
    anything else. They are known by their attributes, and nothing is imported."""
    name = getattr(given, "name", None)
    if not isinstance(name, str) or isinstance(given, type):
        return None
    for attribute in ("tool_call_schema", "args_schema", *_SCHEMA_KEYS, "params_json_schema"):
        schema: Any = getattr(given, attribute, None)
        if hasattr(schema, "model_json_schema"):
            schema = schema.model_json_schema()
        if isinstance(schema, Mapping):
            kept = {key: value for key, value in schema.items() if key not in ("title", "description")}
            return {"name": name, "description": getattr(given, "description", None), "parameters": kept}
    return None
