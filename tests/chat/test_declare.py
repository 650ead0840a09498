"""What the model is told of a tool: the forms tools come in, and schemas whose every part is declared or linted."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, Literal

import pydantic
import pytest

from steerkit.chat import as_tools, declared, lint, render
from steerkit.engine import tool_from_function
from steerkit.errors import ToolError
from steerkit.types import Tool
from tests.chat.conftest import TOKENIZERS

SCHEMA = {"type": "object", "properties": {"to": {"type": "string"}}, "required": ["to"]}
PAY = Tool("pay", "", SCHEMA)


def one(given: Any) -> Tool:
    (tool,) = as_tools([given], from_function=tool_from_function)
    return tool


def of(parameters: Any) -> Tool:
    return one({"name": "pay", "parameters": parameters})


def told(tool: Tool) -> dict[str, Any]:
    parameters: dict[str, Any] = declared(tool)["function"]["parameters"]
    return parameters


def found(tool: Tool) -> list[tuple[str, str]]:
    return [(one.severity, one.path.removeprefix("parameters.properties.")) for one in lint(tool)]


def upper(schema: Any) -> Any:
    """The schema in Google's writing."""
    if isinstance(schema, dict):
        return {
            key: value.upper() if key == "type" and isinstance(value, str) else upper(value)
            for key, value in schema.items()
        }
    return [upper(item) for item in schema] if isinstance(schema, list) else schema


class Model(pydantic.BaseModel):
    """As an object's own schema."""

    to: str


FORMS: dict[str, Any] = {
    "OpenAI": {"type": "function", "function": {"name": "pay", "parameters": SCHEMA, "strict": True}},
    "OpenAI, flat": {"type": "function", "name": "pay", "description": None, "parameters": SCHEMA, "strict": False},
    "MCP": {"name": "pay", "title": "Pay", "inputSchema": SCHEMA, "outputSchema": {}, "annotations": {}, "_meta": {}},
    "Anthropic": {"name": "pay", "input_schema": SCHEMA, "type": "custom", "cache_control": {"type": "ephemeral"}},
    "Google": {"name": "pay", "parameters": upper(SCHEMA), "response": {"type": "OBJECT"}, "behavior": "BLOCKING"},
    "Google, JSON Schema": {"name": "pay", "parametersJsonSchema": SCHEMA},
    "Google, a list": {"functionDeclarations": [{"name": "pay", "parameters": upper(SCHEMA)}]},
    "Google, in Python": {"function_declarations": [{"name": "pay", "parameters_json_schema": SCHEMA}]},
    "Amazon Bedrock": {"toolSpec": {"name": "pay", "inputSchema": {"json": SCHEMA}}},
    "cookbook": {"type": "function", "function": {"name": "pay", "parameters": upper(SCHEMA)}},
    "titled": {"title": "pay", **SCHEMA},
    "titled, upper case": {"title": "pay", **upper(SCHEMA)},
    "langchain": SimpleNamespace(name="pay", description="", args_schema=Model),
    "MCP, as an object": SimpleNamespace(name="pay", title="Pay", description=None, inputSchema=SCHEMA),
    "a value": Tool("pay", "", upper(SCHEMA)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_people_have_is_read(form: str) -> None:
    """The same name, and a schema that asks for the same arguments."""
    tool = one(FORMS[form])
    assert (tool.name, tool.description) == ("pay", "")
    assert {**told(tool)} == told(PAY)
    assert tool.parameters["required"] == ["to"]


UNREAD: dict[str, tuple[Any, str]] = {
    "misspelt": (
        {"name": "pay", "paramaters": SCHEMA},
        r"tools\[0\] \(pay\): got the unknown key 'paramaters'.*did you mean parameters",
    ),
    "another key": ({"name": "pay", "schema": SCHEMA}, "got the unknown key 'schema'"),
    "arguments": ({"name": "pay", "arguments": SCHEMA}, "got the unknown key 'arguments'"),
    "inline": ({"name": "pay", **SCHEMA}, r"\(pay\)\.type: got 'object', expected function"),
    "inline, untyped": ({"name": "pay", "properties": SCHEMA["properties"]}, "got the unknown key 'properties'"),
    "two schemas": (
        {"name": "pay", "parameters": SCHEMA, "inputSchema": SCHEMA},
        "got parameters and inputSchema, expected one",
    ),
    "beside function": (
        {"type": "function", "function": {"name": "pay"}, "parameters": SCHEMA},
        "'parameters' beside function",
    ),
    "built in": ({"type": "web_search", "name": "search"}, r"\(search\)\.type: got 'web_search'"),
    "beside a list": ({"functionDeclarations": [], "googleSearch": {}}, "got googleSearch beside functionDeclarations"),
    "no list": ({"functionDeclarations": {}}, r"functionDeclarations: got dict"),
    "bare properties": (
        {"name": "pay", "parameters": SCHEMA["properties"]},
        "got the unknown key 'to'.*inside of properties",
    ),
    "misspelt properties": ({"name": "pay", "parameters": {"propertis": {}}}, "'propertis', expected properties"),
    "misspelt required": ({"name": "pay", "parameters": {**SCHEMA, "requird": ["to"]}}, "'requird', expected required"),
    "empty list": ({"name": "pay", "parameters": []}, "got parameters that are no object schema"),
    "text": ({"name": "pay", "inputSchema": "{}"}, "got parameters that are no object schema"),
}


@pytest.mark.parametrize("case", UNREAD)
def test_what_is_not_read_is_refused(case: str) -> None:
    """A schema that is passed over lets every argument through; in its place it is read."""
    given, error = UNREAD[case]
    with pytest.raises(ToolError, match=error) as caught:
        one(given)
    assert "\n" not in str(caught.value)


def test_only_types_are_put_in_lower_case() -> None:
    """A property named type and the values of an enum are left alone; nested types, unions and definitions are not."""
    given = {
        "type": "OBJECT",
        "properties": {
            "type": {"type": "STRING", "enum": ["STRING", "Object"]},
            "l": {"type": "ARRAY", "items": {"anyOf": [{"type": ["INTEGER", "NULL"]}, {"$ref": "#/$defs/N"}]}},
        },
        "$defs": {"N": {"type": "NUMBER"}},
    }
    assert of(given).parameters == {
        "type": "object",
        "properties": {
            "type": {"type": "string", "enum": ["STRING", "Object"]},
            "l": {"type": "array", "items": {"anyOf": [{"type": ["integer", "null"]}, {"$ref": "#/$defs/N"}]}},
        },
        "$defs": {"N": {"type": "number"}},
    }


DEFS = {"City": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}}
CITY = DEFS["City"]
STRING, NUMBER = {"type": "string"}, {"type": "number"}

LOSSLESS: dict[str, tuple[Any, Any]] = {
    "reference": ({"$ref": "#/$defs/City"}, CITY),
    "reference with a description": ({"$ref": "#/$defs/City", "description": "d"}, {**CITY, "description": "d"}),
    "reference by pointer": ({"$ref": "#/properties/other"}, STRING),
    "allOf of one": ({"allOf": [{"$ref": "#/$defs/City"}]}, CITY),
    "allOf of two": (
        {"allOf": [{"$ref": "#/$defs/City"}, {"properties": {"zip": STRING}, "required": ["zip"]}]},
        {"type": "object", "properties": {"name": STRING, "zip": STRING}, "required": ["name", "zip"]},
    ),
    "or null, and null by default": (
        {"anyOf": [STRING, {"type": "null"}], "default": None},
        {**STRING, "nullable": True},
    ),
    "or null, by a list": ({"type": ["integer", "null"], "default": None}, {"type": "integer", "nullable": True}),
    "reference or null": (
        {"oneOf": [{"$ref": "#/$defs/City"}, {"type": "null"}], "default": None},
        {**CITY, "nullable": True},
    ),
    "two kinds of numbers": ({"type": ["integer", "number"]}, NUMBER),
    "two enums": (
        {"anyOf": [{"enum": ["a"], "type": "string"}, {"const": "b", "type": "string"}]},
        {"type": "string", "enum": ["a", "b"]},
    ),
    "const": ({"const": "x"}, {"type": "string", "enum": ["x"]}),
    "enum without a type": ({"enum": ["x", "y"]}, {"type": "string", "enum": ["x", "y"]}),
    "type by its keywords": ({"pattern": "^a"}, STRING),
    "object by its keywords": ({"properties": {"a": STRING}}, {"type": "object", "properties": {"a": STRING}}),
    "items": ({"items": {"$ref": "#/$defs/City"}}, {"type": "array", "items": CITY}),
    "null among items": (
        {"type": "array", "items": {"anyOf": [STRING, {"type": "null"}]}},
        {"type": "array", "items": {**STRING, "nullable": True}},
    ),
    "what items may be": (
        {"type": "array", "items": {"type": "integer", "nullable": False, "minimum": 1, "title": "X"}},
        {"type": "array", "items": {"type": "integer", "nullable": False, "minimum": 1}},
    ),
}


@pytest.mark.parametrize("case", LOSSLESS)
def test_what_the_template_can_say_is_said(case: str) -> None:
    """References, `allOf`, nullable unions and the like come out as plain properties, without a lint."""
    given, expected = LOSSLESS[case]
    tool = of({"type": "object", "properties": {"x": given, "other": STRING}, "$defs": DEFS})
    assert told(tool)["properties"]["x"] == expected
    assert lint(tool) == []
    assert tool.parameters["properties"]["x"] == given


LOST: dict[str, tuple[Any, str]] = {
    "no type": ({}, "error"),
    "true": (True, "error"),
    "false": (False, "error"),
    "union": ({"anyOf": [STRING, NUMBER]}, "error"),
    "union by a list": ({"type": ["string", "number"]}, "error"),
    "alternatives of an object": ({"oneOf": [CITY, {"type": "object", "properties": {"zip": STRING}}]}, "error"),
    "null besides": ({"type": ["string", "null"]}, "error"),
    "null in an enum": ({"enum": ["a", None]}, "error"),
    "places": ({"type": "array", "prefixItems": [STRING, NUMBER]}, "error"),
    "enum of two types": ({"enum": ["a", 1]}, "error"),
    "two types in one": ({"allOf": [STRING, NUMBER]}, "error"),
    "open object": ({"type": "object", "additionalProperties": NUMBER}, "error"),
    "reference to all": ({"$ref": "#"}, "error"),
    "required, but undeclared": ({**CITY, "required": ["zip"]}, "error"),
    "patterns": ({**CITY, "patternProperties": {"^x": STRING}}, "warning"),
    "not": ({**STRING, "not": {"const": "x"}}, "warning"),
    "if": ({**CITY, "if": {}, "then": {}}, "warning"),
    "numbers of an enum": ({"enum": [1, 2]}, "warning"),
}


@pytest.mark.parametrize("case", LOST)
def test_what_is_lost_is_linted(case: str) -> None:
    """With the path of the property; and what is told still has one type, and properties where it is an object."""
    given, severity = LOST[case]
    tool = of({"type": "object", "properties": {"x": given}, "$defs": DEFS})
    assert (severity, "x") in found(tool)
    item = told(tool)["properties"]["x"]
    assert item["type"] in ("string", "number", "integer", "array", "object")
    assert "properties" in item or item["type"] != "object"


def test_a_root_that_is_no_plain_object_is_declared() -> None:
    """References and `allOf` at the root are put in; alternatives, and what is no object, are linted."""
    assert told(of({"$ref": "#/$defs/City", "$defs": DEFS})) == CITY
    assert told(of({"allOf": [{"$ref": "#/$defs/City"}], "$defs": DEFS})) == CITY
    either = of({"oneOf": [CITY, {"properties": {"zip": STRING}}]})
    assert told(either) == {"type": "object", "properties": {"name": STRING, "zip": STRING}}
    assert [(one.severity, one.path) for one in lint(either)] == [("error", "parameters")]
    text = of({"$ref": "#/$defs/S", "$defs": {"S": STRING}})
    assert [(one.severity, one.path) for one in lint(text)] == [("error", "parameters")]


class Address(pydantic.BaseModel):
    """Where."""

    street: str
    zip: int | None = None


class Order(pydantic.BaseModel):
    """Orders."""

    to: Address
    also: Address | None = None
    tags: list[Literal["a", "b"]] = []


class Node(pydantic.BaseModel):
    """Holds itself."""

    name: str
    kids: list[Node] = []


def test_pydantic_models_are_declared_whole() -> None:
    """Nested models are put in and nothing is lost; one that holds itself is cut, and that is said."""
    tool = one(Order.model_json_schema())
    address = {"properties": {"street": STRING, "zip": {"type": "integer", "nullable": True}}, "required": ["street"]}
    where = {"description": "Where.", "type": "object", **address}
    assert told(tool)["properties"] == {
        "to": where,
        "also": {**where, "nullable": True},
        "tags": {"type": "array", "items": {"type": "string", "enum": ["a", "b"]}},
    }
    assert lint(tool) == []
    assert (one(Order).name, told(one(Order))) == ("Order", told(tool))
    node = one(Node.model_json_schema())
    assert (node.name, told(node)["properties"]["name"]) == ("Node", STRING)
    assert ("error", "kids.items") in found(node)


def test_few_definitions_cannot_stand_for_millions() -> None:
    """Thirty definitions of two references each are refused in no time; ten of one each are declared."""

    def nested(depth: int, width: int) -> dict[str, Any]:
        definitions: dict[str, Any] = {"d0": STRING}
        for number in range(1, depth):
            inner = {f"x{n}": {"$ref": f"#/$defs/d{number - 1}"} for n in range(width)}
            definitions[f"d{number}"] = {"type": "object", "properties": inner}
        return {"properties": {"x": {"$ref": f"#/$defs/d{depth - 1}"}}, "$defs": definitions}

    started = time.monotonic()
    with pytest.raises(ToolError, match="got more than 5000 schemas"):
        of(nested(30, 2))
    assert time.monotonic() - started < 5
    assert lint(of(nested(10, 1))) == []


HIDDEN = {
    "definition": {"properties": {"x": {"$ref": "#/$defs/D"}}, "$defs": {"D": {"properties": {"a:1,b": {}}}}},
    "alternative": {"properties": {"x": {"anyOf": [{"properties": {"a:1,b": {}}}]}}},
    "letters": {"properties": {"a\u00f1o": STRING}},
}


@pytest.mark.parametrize("case", HIDDEN)
def test_keys_that_the_format_cannot_write_are_refused_wherever_they_stand(case: str) -> None:
    """The line names the tool, the parameter and the character; also where only the declaration would show it."""
    with pytest.raises(
        ToolError, match=r"tools\[0\] \(pay\).*got the parameter '.*' with '[:\u00f1]', expected letters"
    ):
        of(HIDDEN[case])
    with pytest.raises(ToolError, match=r"tool pay: parameters: got the parameter"):
        render(TOKENIZERS["byte-level"], [{"role": "user", "content": "x"}], [Tool("pay", "", HIDDEN[case])])


@pytest.mark.parametrize("value", [float("nan"), b"x", {1}, "\ud800", object(), {1: 2}])
def test_schemas_that_are_no_json_are_refused_with_their_path(value: Any) -> None:
    """Before a token is made, by `as_tools` and by `render`."""
    schema = {"properties": {"x": {"type": "string", "default": value}}}
    with pytest.raises(ToolError, match=r"tools\[0\] \(pay\): parameters\.properties\.x\.default: got "):
        of(schema)
    with pytest.raises(ToolError, match=r"tool pay: parameters\.properties\.x\.default: got "):
        render(TOKENIZERS["byte-level"], [{"role": "user", "content": "x"}], [Tool("pay", "", schema)])
