"""Tools in every form, their mistakes, and the arguments that fit them."""

from __future__ import annotations

from typing import Any

import pytest

from steerkit.chat import as_tools, lint, openai, positions, validate_arguments
from steerkit.engine import tool_from_function
from steerkit.errors import ToolError
from steerkit.types import Call, Span, Tool

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
    for form in ({"type": "function", "function": bare}, bare, titled, expected, weather):
        assert tools_of(form) == (expected,)
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
    "bad key": ({"name": "a", "parameters": {"properties": {"x y": {}}}}, "got the parameter 'x y'"),
    "no mapping": (3, r"tools\[0\]: got int, expected a tool dict"),
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


def test_arguments_are_checked_against_the_tools_schema() -> None:
    """Types are exact: a boolean is no integer; the first problem comes with its path."""
    tool = Tool("weather", "", SCHEMA)
    assert validate_arguments(tool, {"city": "Rome", "days": 2}) is None
    assert validate_arguments(tool, {"city": "Rome", "days": True}) == "arguments.days: True is not of type 'integer'"
    assert validate_arguments(tool, {}) == "arguments: 'city' is a required property"


def test_places_are_steps_that_produce_their_tokens() -> None:
    """A step at t produces token t + 1: the reply begins at the prompt's last position, a name one before its token."""
    call = Call("f", {}, Span(10, 20), Span(13, 15))

    def at(place: Any) -> list[int]:
        return list(positions(place, prompt_length=10, length=22, call=call))

    assert at("any") == list(range(21))
    assert at("prompt") == list(range(10))
    assert at("reply") == list(range(9, 21))
    assert at("reply.start") == [9]
    assert at("call") == list(range(9, 19))
    assert at("call.open") == [12]
    assert at("call.name") == [12, 13]
    assert at("call.arguments") == list(range(14, 18))
    assert list(positions("call", prompt_length=10, length=22)) == []
