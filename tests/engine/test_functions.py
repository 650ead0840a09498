"""Tools of Python functions: what they do not take is no argument."""

from __future__ import annotations

from typing import Any

import pytest

from steerkit.chat import as_tools
from steerkit.engine import tool_from_function
from steerkit.guard import review
from steerkit.types import Call, Trace


def look(city: str, limit: int | None = None) -> str:
    """Looks.

    Args:
        city: where
        limit: how much
    """
    return f"{city} {limit}"


def now() -> str:
    """Tells the time."""
    return ""


def anything(city: str, **more: Any) -> str:
    """Looks.

    Args:
        city: where
        more: whatever else
    """
    return f"{city} {more}"


CALLS: list[tuple[Any, dict[str, Any], str]] = [
    (look, {"city": "Rome"}, "none"),
    (look, {"city": "Rome", "limit": 3}, "none"),
    (look, {"city": "Rome", "limit": None}, "none"),
    (look, {"city": None}, "deny"),
    (look, {"city": "Rome", "limit": "3"}, "deny"),
    (look, {"city": "Rome", "country": "Italy"}, "deny"),
    (now, {}, "none"),
    (now, {"zone": "UTC"}, "deny"),
]


@pytest.mark.parametrize(("function", "arguments", "decision"), CALLS)
def test_a_call_is_released_if_the_function_can_be_called_so(
    function: Any, arguments: dict[str, Any], decision: str
) -> None:
    """Null where a parameter may be None; no argument that the function lacks."""
    (tool,) = as_tools([function], from_function=tool_from_function)
    (verdict,) = review([Call(tool.name, arguments)], tools=[tool], trace=Trace(), policies=[])
    assert verdict.decision == decision
    if decision == "none":
        function(**arguments)


def test_a_function_that_takes_any_argument_says_nothing_of_others() -> None:
    """Its schema is not closed."""
    assert "additionalProperties" not in tool_from_function(anything)["function"]["parameters"]
    assert tool_from_function(look)["function"]["parameters"]["additionalProperties"] is False
