"""Schemas that cannot be applied, said when they are given."""

from __future__ import annotations

import time
from typing import Any

import pytest

from steerkit.chat import as_tools
from steerkit.errors import ToolError
from steerkit.schemas import faults
from steerkit.schemas.apply import budgeted
from steerkit.schemas.drafts import meta_validator
from steerkit.schemas.quick_check import is_surely_valid


def of(part: Any, **more: Any) -> dict[str, Any]:
    """An object schema with a property `a`."""
    return {"type": "object", "properties": {"a": part}, **more}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = of(schema)
    return schema


SOUND = [
    of({"type": "string", "format": "email"}),
    of({}, **{"$schema": "https://json-schema.org/draft/2020-12/schema"}),
    of({"items": [{}]}, **{"$schema": "http://json-schema.org/draft-07/schema#"}),
    of({"minimum": 1, "exclusiveMinimum": True}, **{"$schema": "http://json-schema.org/draft-04/schema#"}),
    of({"type": "any"}, **{"$schema": "http://json-schema.org/draft-03/schema#"}),
    of({}, **{"$schema": "https://json-schema.org/draft/2019-09/schema"}),
    of({"$ref": "#/definitions/n"}, definitions={"n": {"type": "integer"}}),
    of({"$ref": "#n"}, **{"$defs": {"n": {"$anchor": "n"}}}),
    of({"$ref": "#"}),
    of({"$ref": "#/$defs/n"}, **{"$defs": {"n": of({"$ref": "#/$defs/n"})}}),
    {"$id": "https://example.org/tool", **of({"$ref": "part"}), "$defs": {"p": {"$id": "part"}}},
    nested(28),
]

FAULTY: dict[str, tuple[dict[str, Any], str]] = {
    "$schema": (of({}, **{"$schema": "https://example.org/schema"}), "expected the address of draft 3"),
    "$schema that is no text": (of({}, **{"$schema": 7}), "expected the address of draft 3"),
    "$schema of a part": (of({"$schema": "http://json-schema.org/draft-07/schema#"}), "expected one draft"),
    "type": (of({"type": "strin"}), "got 'strin', expected one of array"),
    "draft 4 without saying so": (of({"minimum": 1, "exclusiveMinimum": True}), "as it has no \\$schema"),
    "draft 7 without saying so": (of({"items": [{}]}), "as it has no \\$schema"),
    "dangling": (of({"$ref": "#/$defs/n"}), "which leads nowhere"),
    "remote": (of({"$ref": "https://example.org/n.json"}), "nothing is ever fetched"),
    "file": (of({"$ref": "file:///etc/passwd"}), "nothing is ever fetched"),
    "circle": (of({"$ref": "#/properties/a"}), "back to itself"),
    "circle of two": (
        of({"$ref": "#/$defs/x"}, **{"$defs": {"x": {"anyOf": [{"$ref": "#/$defs/y"}]}, "y": {"$ref": "#/$defs/x"}}}),
        "back to itself",
    ),
    "dangling in a list": (of({"items": {"anyOf": [{"$ref": "#/nope"}]}}), r"properties\.a\.items\.anyOf\[0\]\.\$ref"),
    "pattern": (of({"pattern": "(?<=a)b"}), "a lookbehind"),
    "pattern of names": (of({"patternProperties": {"(": {}}}), "not closed"),
    "pattern in propertyNames": (of({"propertyNames": {"pattern": r"\k<a>"}}), "a backreference"),
    "pattern in $defs": (of({}, **{"$defs": {"a": {"not": {"pattern": "[z-a]"}}}}), "the lower character first"),
    "levels": (nested(3000), "levels"),
    "keys": ({1: 2}, "key 1 of type int, expected text"),  # type: ignore[dict-item]
    "not a number": (of({"minimum": float("nan")}), "got nan, expected a JSON value"),
}


@pytest.mark.parametrize("schema", SOUND, ids=lambda schema: str(schema)[:60])
def test_what_can_be_applied_is_taken(schema: dict[str, Any]) -> None:
    """Every draft by its name, local references, recursion that reads deeper."""
    assert list(faults(schema)) == []
    assert as_tools([{"name": "f", "parameters": schema}], from_function=dict)


@pytest.mark.parametrize("case", FAULTY)
def test_what_cannot_be_applied_is_said_with_the_tool(case: str) -> None:
    """One line, soon, with the tool and the place; not a denial of every call."""
    schema, says = FAULTY[case]
    began = time.perf_counter()
    with pytest.raises(ToolError, match=says) as refusal:
        as_tools([{"name": "f", "parameters": schema}], from_function=dict)
    assert str(refusal.value).startswith("tools[0] (f): ")
    assert "\n" not in str(refusal.value)
    assert time.perf_counter() - began < 5


VALUES: list[Any] = [None, True, 0, -1, 1.5, "", "object", "x", [], [1], ["a", "a"], ["a"], ["null"], [{}], {}]
VALUES += [{"a": 1}, {"a": {}}, {"a": {"type": "x"}}, {"type": 1}, {"type": []}, {"enum": 1}, {"not": 1}]


def test_what_is_plainly_a_schema_is_one() -> None:
    """Every keyword with every value: what the short way takes the metaschema takes, and half of that is plain."""
    short = long = 0
    meta = meta_validator("2020-12")
    for keyword in meta.VALIDATORS:
        for value in VALUES:
            schema = {keyword: value}
            with budgeted(schema):
                sound = meta.is_valid(schema)
            assert sound or not is_surely_valid(schema), schema
            short, long = short + is_surely_valid(schema), long + sound
    assert short > long / 2
