"""Tools from Python functions: what is declared of them, and what they get when a call is run."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import decimal
import enum
import functools
import uuid
from collections.abc import Callable
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import pydantic
import pytest
from pydantic import Field

from steerkit.chat import as_tools, declared, lint
from steerkit.engine import runnable, tool_from_function
from steerkit.errors import ToolError
from steerkit.guard import review
from steerkit.types import Call, Trace

CITY = {"type": "string", "description": "Where"}


def google(city: str, days: int = 1) -> str:
    """Get the weather.

    Args:
        city: Where
        days (int): How
            many
    """
    return f"{city} {days}"


def numpy(city: str, days: int = 1) -> str:
    """Get the weather.

    Parameters
    ----------
    city : str
        Where
    days : int, optional
        How many

    Returns
    -------
    str
        It.
    """
    return f"{city} {days}"


def sphinx(city: str, days: int = 1) -> str:
    """Get the weather.

    :param city: Where
    :param int days: How many
    :returns: It.
    """
    return f"{city} {days}"


def annotated(city: Annotated[str, Field(description="Where")], days: Annotated[int, "How many"] = 1) -> str:
    """Get the weather."""
    return f"{city} {days}"


def fields(city: str = Field(description="Where"), days: int = Field(default=1, description="How many")) -> str:
    """Get the weather."""
    return f"{city} {days}"


async def later(city: str, days: int = 1) -> str:
    """Get the weather.

    Args:
        city: Where
        days: How many
    """
    return f"{city} {days}"


class Weather:
    """Get the weather."""

    def ask(self, city: str, days: int = 1) -> str:
        """Get the weather.

        Args:
            city: Where
            days: How many
        """
        return f"{city} {days}"

    def __call__(self, city: str, days: int = 1) -> str:
        """Get the weather.

        Args:
            city: Where
            days: How many
        """
        return f"{city} {days}"


@functools.wraps(google)
def wrapped(*args: Any, **kwargs: Any) -> str:
    return google(*args, **kwargs)


STYLES: dict[str, Callable[..., Any]] = {
    "Google": google,
    "NumPy": numpy,
    "Sphinx": sphinx,
    "annotated": annotated,
    "fields": fields,
    "async": later,
    "method": Weather().ask,
    "object": Weather(),
    "wrapped": wrapped,
    "partial": functools.partial(google),
}


@pytest.mark.parametrize("style", STYLES)
def test_every_kind_of_function_is_described_alike(style: str) -> None:
    """Description, types, descriptions of the arguments, what is required, and no argument beyond; and it runs."""
    function = STYLES[style]
    tool = tool_from_function(function)["function"]
    assert tool["description"] == "Get the weather."
    assert tool["parameters"] == {
        "type": "object",
        "properties": {"city": CITY, "days": {"type": "integer", "description": "How many"}},
        "required": ["city"],
        "additionalProperties": False,
    }
    run = runnable(function)
    assert run is not None
    answers = [run(city="Rome"), run(city="Rome", days=2)]
    assert [asyncio.run(one) if asyncio.iscoroutine(one) else one for one in answers] == ["Rome 1", "Rome 2"]


def test_what_a_partial_binds_is_not_the_models() -> None:
    """Bound arguments, by place or by name, are not declared."""
    for bound in (functools.partial(google, "Rome"), functools.partial(google, city="Rome")):
        assert list(tool_from_function(bound)["function"]["parameters"]["properties"]) == ["days"]
        assert runnable(bound)(days=3) == "Rome 3"  # type: ignore[misc]


class Colour(enum.Enum):
    """A colour."""

    RED = "red"


@dataclasses.dataclass
class Point:
    """A place."""

    x: int
    y: int = 2


class Person(pydantic.BaseModel):
    """Somebody."""

    name: str


def typed(value: Any) -> Callable[..., Any]:
    """A function whose argument has this hint."""

    def function(x):  # type: ignore[no-untyped-def]  # hinted below
        """Take it."""
        return x

    function.__annotations__ = {"x": Annotated[value, Field(description="It")]}
    return function


ID = uuid.UUID(int=1)
TYPES: dict[str, tuple[Any, Any, Any, str]] = {
    "model": (Person, {"name": "Ann"}, Person(name="Ann"), "object"),
    "dataclass": (Point, {"x": 1}, Point(1), "object"),
    "list of models": (list[Person], [{"name": "Ann"}], [Person(name="Ann")], "array"),
    "model or none": (Person | None, {"name": "Ann"}, Person(name="Ann"), "object"),
    "enum": (Colour, "red", Colour.RED, "string"),
    "date": (datetime.date, "2026-01-31", datetime.date(2026, 1, 31), "string"),
    "time": (datetime.datetime, "2026-01-31T10:00:00", datetime.datetime(2026, 1, 31, 10), "string"),
    "uuid": (uuid.UUID, str(ID), ID, "string"),
    "decimal": (decimal.Decimal, 1.5, decimal.Decimal("1.5"), "number"),
    "tuple": (tuple[int, ...], [1, 2], (1, 2), "array"),
    "set": (set[str], ["a"], {"a"}, "array"),
    "literal": (Literal["a", "b"], "a", "a", "string"),
    "float of an integer": (float, 50, 50, "number"),
    "optional": (int | None, None, None, "integer"),
}


@pytest.mark.parametrize("case", TYPES)
def test_arguments_become_what_is_hinted(case: str) -> None:
    """A call's JSON is made into the type; what is JSON's own is passed as it is. Without that a dict arrives."""
    hint, given, expected, kind = TYPES[case]
    function = typed(hint)
    (tool,) = as_tools([function], from_function=tool_from_function)
    assert declared(tool)["function"]["parameters"]["properties"]["x"]["type"] == kind
    made = runnable(function)(x=given)  # type: ignore[misc]
    assert (made, type(made)) == (expected, type(expected))
    assert function(x=given) == given


def test_constraints_and_choices_are_the_guards() -> None:
    """Bounds of a `Field` and choices of a docstring stand in the schema; the choices go from the description."""

    def dial(degrees: Annotated[int, Field(ge=1, le=30)], unit: str = "C") -> str:
        """Dial.

        Args:
            degrees: How warm
            unit: Of what (choices: ["C", "F"])
        """
        return unit

    properties = tool_from_function(dial)["function"]["parameters"]["properties"]
    assert properties["degrees"] == {"type": "integer", "description": "How warm", "minimum": 1, "maximum": 30}
    assert properties["unit"] == {"type": "string", "description": "Of what", "enum": ["C", "F"]}


def test_an_optional_argument_is_declared_without_a_lint() -> None:
    """None as default stands for leaving it out, which the model is told; nothing is lost."""

    def find(limit: int | None = None) -> None:
        """Find.

        Args:
            limit: How many
        """

    (tool,) = as_tools([find], from_function=tool_from_function)
    assert lint(tool) == []
    assert declared(tool)["function"]["parameters"]["properties"]["limit"]["type"] == "integer"


def _unhinted(x):  # type: ignore[no-untyped-def]  # the mistake under test
    """Do."""


def _undocumented(x: int) -> None:
    """Do."""


def _unknown(x: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821  # the mistake under test
    """Do.

    Args:
        x: It
    """


def _many(*x: int) -> None:
    """Do."""


def _named(**x: int) -> None:
    """Do."""


def _placed(x: int, /) -> None:
    """Do."""


def _called(x: Annotated[Callable[[int], int], Field(description="It")]) -> None:
    """Do."""


def _choosing(x: int) -> None:
    """Do.

    Args:
        x: It (choices: [oops])
    """


WRONG: dict[str, tuple[Any, str]] = {
    "no hint": (_unhinted, "'x' has no type hint"),
    "no description": (_undocumented, "'x' has no description"),
    "no docstring": (lambda x: x, "it has no docstring"),
    "unknown hint": (_unknown, "the type hint Nowhere of 'x' cannot be resolved"),
    "any number": (_many, r"got \*x.*, and a call names each argument"),
    "any names": (_named, r"got \*\*x.*, and a call names each argument"),
    "by place alone": (_placed, "'x' is positional only"),
    "no JSON": (_called, "a type has no JSON form"),
    "choices": (_choosing, "the choices of 'x' are no JSON list"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_described_is_named_in_one_line(case: str) -> None:
    """Which tool, and what is missing of which argument."""
    function, error = WRONG[case]
    with pytest.raises(
        ToolError, match=rf"tool {function.__name__}: got a function that cannot be described.*{error}"
    ) as caught:
        tool_from_function(function)
    assert "\n" not in str(caught.value)


def test_tool_objects_are_run_by_their_own_means() -> None:
    """What langchain made is invoked with the arguments; a declaration alone has nothing to run."""
    made = SimpleNamespace(name="f", description="", args_schema=Person, invoke=lambda arguments: arguments["name"])
    assert runnable(made)(name="Ann") == "Ann"  # type: ignore[misc]
    assert runnable(SimpleNamespace(name="f", description="", inputSchema={"type": "object"})) is None
    assert runnable({"name": "f"}) is None


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
