"""Checks of the JSON Schemas in guard rules: valid, of known keywords, and free of contradictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Final

from steerkit import schemas
from steerkit.policy.problems import Location, Problem

_BOUNDS: Final = (
    *((low, high, "no number") for low in ("minimum", "exclusiveMinimum") for high in ("maximum", "exclusiveMaximum")),
    *((f"min{what}", f"max{what}", "nothing") for what in ("Length", "Items", "Properties")),
)
"""Pairs of lower and upper bound, and what fits where they exclude each other."""


def schema_problems(where: Location, schema: Any) -> Iterator[Problem]:
    """Everything wrong with a schema, and all that no value can satisfy; nothing for a value that is no mapping."""
    if not isinstance(schema, Mapping):
        return
    found = [Problem((*where, *path), text) for path, text in schemas.faults(schema)]
    lost = [problem for problem in found if problem.location[-1] == "$ref"]  # loads, and `unreachable` says it
    wrong = len(lost) < len(found)
    yield from (problem for problem in found if problem not in lost)
    if wrong and schemas.why_not_json(schema):
        return
    for inner, part in subschemas(where, schema):
        yield from _unknown(inner, part)
        if not wrong:
            yield from _contradictions(inner, part)
    if not wrong and "object" not in _types(schema):
        yield Problem((*where, "type"), f"got {schema['type']!r}, so nothing fits: it is always an object")
    if not isinstance(schema.get("const", {}), Mapping):
        yield Problem((*where, "const"), f"got {str(schema['const'])[:80]}, so nothing fits: it is always an object")


def subschemas(where: Location, schema: Any) -> Iterator[tuple[Location, Mapping[str, Any]]]:
    """A schema and all schemas inside it, with their places."""
    yield from (((*where, *path), part) for path, part in schemas.subschemas(schema))


def lost_references(where: Location, schema: Any) -> Iterator[Problem]:
    """Every `$ref` that leads out of the schema, nowhere, or back to itself: the schema cannot be applied."""
    yield from (Problem((*where, *path), text) for path, text in schemas.lost_references(schema))


def not_required(where: Location, schema: Any) -> Iterator[Location]:
    """Properties that a schema lists and does not require: a value without them fits."""
    if isinstance(schema, Mapping):
        for name in schema.get("properties", {}):
            if name not in _required(schema):
                yield (*where, "properties", name)


def _required(schema: Mapping[str, Any]) -> Sequence[str]:
    """The names that a schema requires; in draft 3 `required` is true or false, said of the property."""
    required = schema.get("required", ())
    return () if isinstance(required, bool) else required


def _unknown(where: Location, schema: Mapping[str, Any]) -> Iterator[Problem]:
    for key in schema:
        if key in schemas.KEYWORDS or key.startswith("x-"):
            continue
        close = get_close_matches(key, schemas.KEYWORDS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else "it would be ignored; begin it with x- if that is meant"
        yield Problem((*where, key), f"got '{key[:80]}', which is no keyword of JSON Schema; {hint}")


def _contradictions(where: Location, schema: Mapping[str, Any]) -> Iterator[Problem]:
    """Keywords of a valid schema that exclude every value by themselves."""
    for low, high, what in _BOUNDS:
        if not {low, high} <= schema.keys() or isinstance(schema[low], bool) or isinstance(schema[high], bool):
            continue  # up to draft 4 the exclusive ones are true or false
        if schema[low] > schema[high] or ("exclusive" in low + high and schema[low] == schema[high]):
            yield Problem((*where, low), f"got {low} {schema[low]} and {high} {schema[high]}, so {what} fits")
    if schema.get("not") in ({}, True) and "not" in schema:
        yield Problem((*where, "not"), "got a schema that everything fits, so nothing fits its opposite")
    yield from _choices(where, schema)
    properties, required = schema.get("properties", {}), _required(schema)
    if len(set(required)) > schema.get("maxProperties", len(required)):
        yield Problem((*where, "required"), f"got {len(required)} names and maxProperties {schema['maxProperties']}")
    closed = schema.get("additionalProperties") is False and not schema.get("patternProperties")
    for number, name in enumerate(required):
        if properties.get(name) is False or (closed and name not in properties):
            yield Problem((*where, "required", number), f"got '{name}', which the same schema does not let in")


def _choices(where: Location, schema: Mapping[str, Any]) -> Iterator[Problem]:
    """A const or enum without a value that fits the schema around it."""
    key = "const" if "const" in schema else "enum"
    if key not in schema:
        return
    values = [schema["const"]] if key == "const" else schema["enum"]
    try:
        fits = any(schemas.fits(schema, value) for value in values)
    except schemas.UndecidedError:  # a reference that leads nowhere is said elsewhere
        return
    if not fits:
        what = "which does not fit" if key == "const" else "of which none fits"
        yield Problem((*where, key), f"got {str(schema[key])[:80]}, {what} the schema around it")


def _types(schema: Any) -> tuple[str, ...]:
    """Types that fit a schema, by its `type` alone."""
    types = schema.get("type", "object")
    return (types,) if isinstance(types, str) else tuple(types)
