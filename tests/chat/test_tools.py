"""Tools in every form, their mistakes, and the arguments that fit them."""

from __future__ import annotations

from typing import Any

import pytest

from steerkit.chat import as_tools, lint, openai, validate_arguments
from steerkit.engine import tool_from_function
from steerkit.errors import ToolError
from steerkit.types import Tool

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "Where"}, "days": {"type": "integer", "description": "n"}},
    "required": ["city"],
}


def weather(city: str, days: int = 1) -> str:
    """Get the weather.

    Args:
        city: Where
        days: n
    """
    return f"{city} {days}"


def tools_of(*given: Any) -> tuple[Tool, ...]:
    return as_tools(given, from_function=tool_from_function)


def test_every_form_gives_the_same_tool() -> None:
    """OpenAI dicts, bare dicts, titled schemas, values and functions all become one tool."""
    bare = {"name": "weather", "description": "Get the weather.", "parameters": SCHEMA}
    titled = {"title": "weather", "description": "Get the weather.", **SCHEMA}
    expected = Tool("weather", "Get the weather.", SCHEMA)
    for form in ({"type": "function", "function": bare}, bare, titled, expected):
        assert tools_of(form) == (expected,)
    closed = {**SCHEMA, "additionalProperties": False}  # a function takes no other arguments
    assert tools_of(weather) == (Tool("weather", "Get the weather.", closed),)
    assert tools_of(openai(expected)) == (expected,)


BAD = {
    "no name": ({"description": "x"}, r"tools\[0\]: got no name \(keys: description\)"),
    "bad name": ({"name": "a b"}, r"tools\[0\]: got the name 'a b'"),
    "no object": (
        {"name": "a", "parameters": {"type": "string"}},
        r"tools\[0\] \(a\): got parameters that are no object",
    ),
    "no schema": (
        {"name": "a", "parameters": {"type": "object", "properties": {"x": {"type": 3}}}},
        "expected a JSON Schema",
    ),
    "bad inner key": (
        {"name": "a", "parameters": {"properties": {"o": {"type": "object", "properties": {"x:1,y": {}}}}}},
        "got the parameter 'x:1,y'",
    ),
    "bad key": ({"name": "a", "parameters": {"properties": {"x y": {}}}}, "got the parameter 'x y'"),
    "no mapping": (3, r"tools\[0\]: got int, expected a tool dict"),
    "no function": ({"type": "function", "function": None}, r"tools\[0\]\.function: got NoneType"),
    "name no text": ({"name": 3}, r"tools\[0\]: got the name 3"),
    "description": ({"name": "a", "description": 3}, r"tools\[0\] \(a\): got a description of type int"),
    "required": ({"name": "a", "parameters": {"required": "x"}}, r"parameters\.required: .*expected a JSON Schema"),
    "pattern": ({"name": "a", "parameters": {"properties": {"x": {"pattern": "("}}}}, "is not a 'regex'"),
    "key no text": ({"name": "a", "parameters": {"properties": {1: {}}}}, "got the key 1 of type int, expected text"),
    "undocumented": (lambda x: x, r"cannot be described"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tools_are_named(case: str) -> None:
    """Which tool, what was got and what was expected."""
    given, error = BAD[case]
    with pytest.raises(ToolError, match=error):
        tools_of(given)


def test_a_name_can_be_declared_once() -> None:
    """Two tools of one name cannot be told apart."""
    with pytest.raises(ToolError, match=r"tools\[1\]: got the name 'a' a second time"):
        tools_of({"name": "a"}, {"name": "a"})


@pytest.mark.parametrize("given", [3, None, "weather", {"name": "weather"}, weather])
def test_one_tool_is_no_list_of_tools(given: Any) -> None:
    """A tool by itself, or nothing, is refused with what was expected; in a list it is taken."""
    with pytest.raises(ToolError, match=r"tools: got \w+, expected a list of tools"):
        as_tools(given, from_function=tool_from_function)
    assert tools_of({"name": "weather"})[0].name == "weather"


def test_a_schema_nested_without_end_is_refused() -> None:
    """What cannot be checked is not declared; the same schema with a few levels is."""

    def nested(depth: int) -> dict[str, Any]:
        item: dict[str, Any] = {"type": "string"}
        for _ in range(depth):
            item = {"type": "array", "items": item}
        return {"name": "f", "parameters": {"type": "object", "properties": {"a": item}}}

    assert tools_of(nested(5))[0].name == "f"
    with pytest.raises(ToolError, match="too deep"):
        tools_of(nested(5000))


def test_a_schema_without_a_type_gets_one() -> None:
    """The published template leaves a brace open without it."""
    assert tools_of({"name": "f", "parameters": {"properties": {}}})[0].parameters["type"] == "object"
    assert tools_of({"name": "f"})[0].parameters == {"type": "object", "properties": {}}


QUIRKS = {
    "description": ({"type": "string"}, "error"),
    "kind": ({"type": "integer", "enum": [1]}, "warning"),
    "where": ({"type": "object"}, "error"),
    "maybe": ({"type": ["string", "null"]}, "error"),
}


@pytest.mark.parametrize("name", QUIRKS)
def test_the_templates_quirks_are_linted(name: str) -> None:
    """What the published template would drop or garble is found; a plain tool is clean."""
    item, severity = QUIRKS[name]
    (found,) = lint(Tool("f", "", {"type": "object", "properties": {name: item}}))
    assert (found.severity, found.path) == (severity, f"parameters.properties.{name}")
    assert lint(Tool("f", "", SCHEMA)) == []


def test_quirks_inside_lists_and_of_the_whole_are_linted() -> None:
    """An item's own parameters vanish too; a schema without a type leaves a brace open until `as_tools` types it."""
    items = {"type": "array", "items": {"type": "object", "properties": {"type": {"type": "string"}}}}
    (found,) = lint(Tool("f", "", {"type": "object", "properties": {"rows": items}}))
    assert (found.severity, found.path) == ("error", "parameters.properties.rows.items.properties.type")
    (untyped,) = lint(Tool("f", "", {"properties": {}}))
    assert (untyped.severity, untyped.path) == ("error", "parameters")
    assert lint(*tools_of({"name": "f", "parameters": {"properties": {}}})) == []


def test_a_titled_schema_needs_no_properties() -> None:
    """An object schema with a title is a tool without parameters; a titled schema of another kind is none."""
    assert tools_of({"title": "f", "type": "object"}) == (Tool("f", "", {"type": "object"}),)
    with pytest.raises(ToolError, match="got no name"):
        tools_of({"title": "f", "type": "string"})


def test_no_reference_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A schema comes from anywhere, so a `$ref` in it must not make this machine ask another; a local one works."""
    asked: list[Any] = []
    monkeypatch.setattr("urllib.request.urlopen", lambda *given, **more: asked.append(given))

    def tool(reference: str) -> Tool:
        defs = {"n": {"type": "integer"}, "circle": {"$ref": reference}}
        return Tool("f", "", {"type": "object", "properties": {"x": {"$ref": reference}}, "$defs": defs})

    assert validate_arguments(*tools_of(tool("#/$defs/n")), {"x": 1}) is None
    for reference in ("http://127.0.0.1:9/x.json", "#/$defs/nowhere", "#/$defs/circle"):
        assert "cannot be checked" in str(validate_arguments(tool(reference), {"x": 1}))
        with pytest.raises(ToolError, match="which leads "):
            tools_of(tool(reference))
    assert asked == []


def test_arguments_are_checked_against_the_tools_schema() -> None:
    """Types are exact: a boolean is no integer; the first problem comes with its path."""
    tool = Tool("weather", "", SCHEMA)
    assert validate_arguments(tool, {"city": "Rome", "days": 2}) is None
    assert validate_arguments(tool, {"city": "Rome", "days": True}) == "arguments.days: True is not of type 'integer'"
    assert validate_arguments(tool, {}) == "arguments: 'city' is a required property"


def test_numbers_are_typed_as_json_schema_has_them() -> None:
    """An integer is a number, a number with a fraction is no integer, and a boolean is neither."""
    tool = Tool("f", "", {"type": "object", "properties": {"n": {"type": "number"}, "i": {"type": "integer"}}})
    for fits in ({"n": 1}, {"n": 1.5}, {"i": 1}, {"i": 10**40}, {"n": 10**400}):
        assert validate_arguments(tool, fits) is None
    for wrong in ({"n": True}, {"i": True}, {"i": 1.5}, {"i": "1"}, {"n": None}):
        assert "is not of type" in str(validate_arguments(tool, wrong))


def test_long_problems_are_cut_and_paths_go_inside() -> None:
    """A problem names the item it is in, and does not repeat a whole document."""
    item = {"type": "object", "properties": {"id": {"type": "integer"}}}
    tool = Tool("f", "", {"type": "object", "properties": {"a": {"type": "array", "items": item}}})
    assert (
        validate_arguments(tool, {"a": [{"id": 1}, {"id": "x"}]}) == "arguments.a[1].id: 'x' is not of type 'integer'"
    )
    assert len(str(validate_arguments(tool, {"a": "x" * 10_000}))) < 250


UNDECIDABLE = {
    "reference to nothing": ({"$ref": "#/nope"}, 1),
    "reference to the network": ({"$ref": "http://127.0.0.1:9/schema.json"}, 1),
    "reference in a circle": ({"$ref": "#/properties/a"}, 1),
    "pattern that is none": ({"pattern": "(?<=a)b"}, "b"),
}


@pytest.mark.parametrize("case", UNDECIDABLE)
def test_arguments_that_cannot_be_checked_do_not_fit(case: str) -> None:
    """Where the schema cannot be applied the answer is a problem, never an exception, and nothing is fetched."""
    schema, value = UNDECIDABLE[case]
    tool = Tool(
        "f", "", {"type": "object", "properties": {"a": schema, "b": {"$ref": "#/$defs/n"}}, "$defs": {"n": {}}}
    )
    assert "cannot be checked" in str(validate_arguments(tool, {"a": value}))
    assert validate_arguments(tool, {"b": value}) is None


def test_nested_quirks_are_found_with_their_path() -> None:
    """An object's own properties are linted too, and an array of strings is clean."""
    inner = {"type": "object", "properties": {"type": {"type": "string"}, "ok": {"type": "array"}}}
    (found,) = lint(Tool("f", "", {"type": "object", "properties": {"o": inner}}))
    assert (found.severity, found.path) == ("error", "parameters.properties.o.properties.type")
    for name in ("description", "type", "properties", "required", "nullable"):
        (found,) = lint(Tool("f", "", {"type": "object", "properties": {name: {"type": "string"}}}))
        assert f"a parameter named '{name}' vanishes" in found.text
