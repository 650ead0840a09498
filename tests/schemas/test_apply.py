"""Validation: JSON's meaning of numbers and equality, bounded work, and what nobody declared."""

from __future__ import annotations

import time
from typing import Any

import pytest

from steerkit.schemas import UndecidedError, errors, undeclared

ARABIC, CYRILLIC = "\u0661", "\u0430"
"""A digit and a letter that Python takes for `\\d` and `\\w`."""

DRAFT7 = {"$schema": "http://json-schema.org/draft-07/schema#"}
DRAFT4 = {"$schema": "http://json-schema.org/draft-04/schema#"}

FIT: list[tuple[dict[str, Any], list[Any], list[Any]]] = [
    ({"multipleOf": 0.01}, [19.99, 0.07, 1, 10**400, 1e22], [19.995]),
    ({"multipleOf": 0.1}, [0.3, 1.1], [0.35]),
    ({"multipleOf": 1e-300}, [1e308], []),
    ({"multipleOf": 3}, [9, 9.0], [10, 9.5]),
    ({"type": "integer"}, [1, 1.0, -0.0, 10**400, 1e300], [True, 1.5, "1", None]),
    ({"type": "number"}, [1, 1.5], [True, "1"]),
    ({"type": "integer", "nullable": True}, [1, None], ["x", 1.5]),
    ({"type": "integer", "nullable": False}, [1], [None]),
    ({"enum": ["a"], "nullable": True}, ["a", None], ["b"]),
    ({"properties": {"a": {"type": "string", "nullable": True}}, "required": ["a"]}, [{"a": None}], [{}]),
    ({"enum": [1]}, [1, 1.0], [True, "1", 2]),
    ({"enum": [True]}, [True], [1]),
    ({"const": {"a": [1]}}, [{"a": [1.0]}], [{"a": [True]}, {"a": [1], "b": 1}]),
    ({"const": 2**53}, [float(2**53)], [2**53 + 1]),
    ({"uniqueItems": True}, [[1, True, "1"], [[1], [True]], [{"a": 1}, {"a": 2}]], [[1, 1.0], [{"a": 1}, {"a": 1.0}]]),
    ({"maxLength": 1, "minLength": 1}, ["😀", "é"], ["", "ab", "e\u0301"]),
    ({"pattern": r"^\d$"}, ["1", 7], ["1\n", ARABIC]),
    ({"propertyNames": {"pattern": r"^\w+$"}}, [{"a": 1}], [{CYRILLIC: 1}]),
    ({"patternProperties": {r"^\d$": {"type": "string"}}}, [{"1": "x", ARABIC: 1}], [{"1": 1}]),
    ({"patternProperties": {r"^\d$": {}}, "additionalProperties": False}, [{"1": 1}], [{ARABIC: 1}, {"1\n": 1}]),
    (
        {"allOf": [{"properties": {"a": {}}}], "patternProperties": {r"^\d$": {}}, "unevaluatedProperties": False},
        [{"a": 1, "1": 1}],
        [{"b": 1}, {ARABIC: 1}],
    ),
    ({"unevaluatedProperties": {"type": "string"}, "properties": {"a": {}}}, [{"a": 1, "b": "x"}], [{"b": 1}]),
    ({**DRAFT7, "items": [{"type": "string"}], "additionalItems": False}, [["a"]], [["a", 1], [1]]),
    ({**DRAFT7, "if": {"required": ["a"]}, "then": {"required": ["b"]}}, [{}, {"a": 1, "b": 1}], [{"a": 1}]),
    ({**DRAFT7, "pattern": r"^\d$"}, ["1"], [ARABIC]),
    ({**DRAFT7, "$ref": "#/definitions/a", "definitions": {"a": {**DRAFT7, "pattern": r"^\d$"}}}, ["1"], ["1\n"]),
    ({**DRAFT4, "minimum": 1, "exclusiveMinimum": True}, [2], [1]),
    ({"minimum": 1, "exclusiveMinimum": 1}, [2], [1]),
    ({"dependencies": {"a": ["b"]}}, [{"a": 1, "b": 1}], [{"a": 1}]),
    ({"format": "email"}, ["no address"], []),
]


@pytest.mark.parametrize(("schema", "fitting", "wrong"), FIT, ids=lambda part: str(part)[:50])
def test_values_are_read_as_json_schema_has_them(schema: dict[str, Any], fitting: list[Any], wrong: list[Any]) -> None:
    """Each of the one kind fits, and none of the other."""
    assert [value for value in fitting if errors(schema, value)] == []
    assert [value for value in wrong if not errors(schema, value)] == []


def deep(kind: str, levels: int) -> dict[str, Any]:
    """`kind` of two schemas, nested: 2 to the power of `levels` ways through."""
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {kind: [schema, {**schema}]}
    return schema


def lists(levels: int, inside: Any = 1) -> Any:
    for _ in range(levels):
        inside = [inside]
    return inside


AGAIN = [{"type": "array", "items": {"$ref": "#/$defs/a"}}] * 2
UNDECIDED: dict[str, tuple[dict[str, Any], Any]] = {
    "anyOf in anyOf": (deep("anyOf", 40), "x"),
    "oneOf in oneOf": (deep("oneOf", 40), 1),
    "recursion in oneOf": ({"$ref": "#/$defs/a", "$defs": {"a": {"oneOf": [*AGAIN, {"type": "integer"}]}}}, lists(40)),
    "contains of many": ({"contains": {"type": "string"}}, [1] * 300_000),
    "a million items": ({}, [0] * 1_000_000),
    "a long text in many messages": ({"anyOf": [{"const": number} for number in range(10_000)]}, "x" * 10**6),
    "a large pattern on a long text": ({"pattern": "(.{1,300}z){1,3}y"}, "x" * 10**6),
    "levels of lists": ({}, lists(80)),
    "levels of objects, at the limit of the stack": ({}, lists(5000)),
    "not a number": ({"type": "number"}, float("nan")),
    "infinity": ({"type": "number"}, float("inf")),
    "digits": ({"multipleOf": 7}, 10**100_000),
    "a reference in a circle": ({"$ref": "#"}, 1),
    "a reference to nothing": ({"$ref": "#/$defs/a"}, 1),
    "a reference to the network": ({"$ref": "https://127.0.0.1:9/a.json"}, 1),
    "a draft that nobody knows": ({"$schema": "https://example.org/schema"}, 1),
    "a pattern with lookbehind": ({"pattern": "(?<=a)b"}, "ab"),
}


@pytest.mark.parametrize("case", UNDECIDED)
def test_work_is_bounded(case: str) -> None:
    """What would take too long, or cannot be done, is refused soon, and the same every time."""
    schema, value = UNDECIDED[case]
    began, said = time.perf_counter(), set()
    for _ in range(2):
        with pytest.raises(UndecidedError, match="cannot be checked") as refusal:
            errors(schema, value)
        said.add(str(refusal.value))
    assert len(said) == 1
    assert time.perf_counter() - began < 20


def test_what_is_large_and_plain_is_checked() -> None:
    """The control of the bound: long texts, many items and deep objects of an honest call fit."""
    item = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    for schema, value in (
        ({"type": "string", "pattern": "^[a-z]+$"}, "x" * 100_000),
        ({"type": "array", "items": item}, [{"n": number} for number in range(3000)]),
        ({"type": "array", "uniqueItems": True}, [{"n": number} for number in range(20_000)]),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}, lists(32)),
    ):
        assert errors(schema, value) == []


OPEN: dict[str, Any] = {"type": "object"}
A: dict[str, Any] = {"properties": {"a": {}}}
KINDS = [{"properties": {"kind": {"const": "x"}, "x": {}}}, {"properties": {"kind": {"const": "y"}, "y": {}}}]
NODE = {"properties": {"v": {}, "t": {"$ref": "#/$defs/t"}}}
TREE = {"properties": {"tree": {"$ref": "#/$defs/t"}}, "$defs": {"t": NODE}}

UNDECLARED: list[tuple[dict[str, Any], Any, list[tuple[str | int, ...]]]] = [
    (A, {"a": 1}, []),
    (A, {"a": 1, "b": 1}, [("b",)]),
    ({**A, "required": ["b"]}, {"b": 1}, []),
    ({"properties": {}}, {"a": 1}, [("a",)]),
    (OPEN, {"a": 1}, []),
    ({**A, "additionalProperties": True}, {"b": 1}, []),
    ({**A, "additionalProperties": {"type": "string"}}, {"b": "x"}, []),
    ({**A, "unevaluatedProperties": True}, {"b": 1}, []),
    ({"patternProperties": {r"^\d$": {}}}, {"1": 1}, []),
    ({"patternProperties": {r"^\d$": {}}}, {"x": 1}, [("x",)]),
    ({"properties": {"o": A}}, {"o": {"a": 1, "b": 1}}, [("o", "b")]),
    ({"properties": {"o": {"properties": {}}}}, {"o": {"b": 1}}, []),
    ({"properties": {"o": OPEN}}, {"o": {"b": 1}}, []),
    ({"properties": {"l": {"items": A}}}, {"l": [{"a": 1}, {"b": 1}]}, [("l", 1, "b")]),
    ({"properties": {"l": {"prefixItems": [A], "items": OPEN}}}, {"l": [{"b": 1}, {"b": 1}]}, [("l", 0, "b")]),
    ({"additionalProperties": A}, {"x": {"b": 1}}, [("x", "b")]),
    ({"allOf": [A, {"properties": {"b": {}}}]}, {"a": 1, "b": 1}, []),
    ({"allOf": [A, {"properties": {"b": {}}}]}, {"c": 1}, [("c",)]),
    ({"allOf": [A], "properties": {"b": {}}}, {"a": 1, "b": 1}, []),
    ({"anyOf": KINDS}, {"kind": "x", "x": 1}, []),
    ({"anyOf": KINDS}, {"kind": "x", "y": 1}, [("y",)]),
    ({"oneOf": KINDS}, {"kind": "y", "y": 1}, []),
    ({**A, "if": {"required": ["a"]}, "then": {"properties": {"b": {}}}}, {"a": 1, "b": 1}, []),
    ({**A, "if": {"required": ["a"]}, "then": {"properties": {"b": {}}}}, {"b": 1}, [("b",)]),
    ({**A, "dependentSchemas": {"a": {"properties": {"b": {}}}}}, {"a": 1, "b": 1}, []),
    ({"$ref": "#/$defs/a", "$defs": {"a": A}}, {"a": 1, "b": 1}, [("b",)]),
    (TREE, {"tree": {"v": 1, "t": {"v": 2}}}, []),
    (TREE, {"tree": {"v": 1, "t": {"w": 2}}}, [("tree", "t", "w")]),
    ({**DRAFT7, "items": {"$ref": "#/definitions/a"}, "definitions": {"a": A}}, [{"b": 1}], [(0, "b")]),
]


@pytest.mark.parametrize(("schema", "value", "found"), UNDECLARED, ids=lambda part: str(part)[:50])
def test_what_nobody_declared_is_found(schema: dict[str, Any], value: Any, found: list[Any]) -> None:
    """Where a schema lists properties and does not say what it thinks of others; each with its path."""
    assert errors(schema, value) == []
    assert [path for path, _ in undeclared(schema, value)] == found
