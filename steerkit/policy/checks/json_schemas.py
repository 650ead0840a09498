"""JSON Schemas of arguments and results: what is none, and what no value can satisfy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final

from steerkit import schemas
from steerkit.policy.problems import Location, Problem

_OTHERS: Final = (
    *("$id", "$schema", "$ref", "$anchor", "$dynamicRef", "$dynamicAnchor", "$vocabulary", "$comment"),
    *("type", "const", "enum", "multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"),
    *("maxLength", "minLength", "pattern", "maxItems", "minItems", "uniqueItems", "maxContains", "minContains"),
    *("maxProperties", "minProperties", "required", "dependentRequired", "format", "contentEncoding"),
    *("contentMediaType", "title", "description", "default", "deprecated", "readOnly", "writeOnly", "examples"),
)
_OLDER: Final = frozenset({"dependencies", "additionalItems", "extends", "disallow"})
KEYWORDS: Final = frozenset((*schemas.MAPPINGS, *schemas.LISTS, *schemas.SINGLE, *_OTHERS)) - _OLDER
"""Keywords of JSON Schema 2020-12; a validator ignores all others, and what is ignored restricts nothing."""

_COUNTS: Final = (("minLength", "maxLength"), ("minItems", "maxItems"), ("minProperties", "maxProperties"))


def schema_problems(where: Location, schema: Any) -> Iterator[Problem]:
    """What is no schema in a mapping, and what nothing can satisfy; of anything else nothing, others say that."""
    if not isinstance(schema, Mapping):
        return
    found = [Problem((*where, *path), text) for path, text in schemas.faults(schema)]
    lost = [problem for problem in found if problem.location[-1] == "$ref"]  # loads, and `unreachable` says it
    wrong = len(lost) < len(found)
    yield from (problem for problem in found if problem not in lost)
    if wrong and schemas.no_json(schema):
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
    """A schema and all that stand in it, with their places."""
    yield from (((*where, *path), part) for path, part in schemas.subschemas(schema))


def lost_references(where: Location, schema: Any) -> Iterator[Problem]:
    """Every `$ref` that leads out of the schema, nowhere, or back to itself: the schema cannot be applied."""
    yield from (Problem((*where, *path), text) for path, text in schemas.lost_references(schema))


def not_required(where: Location, schema: Any) -> Iterator[Location]:
    """Properties that a schema speaks of and does not require: a value without them fits it."""
    if isinstance(schema, Mapping):
        required = schema.get("required", ())
        for name in schema.get("properties", {}):
            if name not in required:
                yield (*where, "properties", name)


def _unknown(where: Location, schema: Mapping[str, Any]) -> Iterator[Problem]:
    for key in schema:
        if key in KEYWORDS or key.startswith("x-"):
            continue
        close = get_close_matches(key, KEYWORDS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else "it would be ignored; begin it with x- if that is meant"
        yield Problem((*where, key), f"got '{key[:80]}', which is no keyword of JSON Schema; {hint}")


def _contradictions(where: Location, schema: Mapping[str, Any]) -> Iterator[Problem]:
    """What rules out every value by itself; the schema is one."""
    lows = [key for key in ("minimum", "exclusiveMinimum") if key in schema]
    for low in lows:
        for high in (key for key in ("maximum", "exclusiveMaximum") if key in schema):
            strict = "exclusive" in low + high
            if schema[low] > schema[high] or (strict and schema[low] == schema[high]):
                text = f"got {low} {schema[low]} and {high} {schema[high]}, so no number fits"
                yield Problem((*where, low), text)
    for low, high in _COUNTS:
        if low in schema and high in schema and schema[low] > schema[high]:
            yield Problem((*where, low), f"got {low} {schema[low]} and {high} {schema[high]}, so nothing fits")
    if schema.get("not") in ({}, True) and "not" in schema:
        yield Problem((*where, "not"), "got a schema that everything fits, so nothing fits its opposite")
    yield from _choices(where, schema)
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if len(set(required)) > schema.get("maxProperties", len(required)):
        yield Problem((*where, "required"), f"got {len(required)} names and maxProperties {schema['maxProperties']}")
    closed = schema.get("additionalProperties") is False and not schema.get("patternProperties")
    for number, name in enumerate(required):
        if properties.get(name) is False or (closed and name not in properties):
            yield Problem((*where, "required", number), f"got '{name}', which the same schema does not let in")


def _choices(where: Location, schema: Mapping[str, Any]) -> Iterator[Problem]:
    """A const or enum of which no value fits the schema that it stands in."""
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
    """The types that a schema lets in, as far as `type` says."""
    types = schema.get("type", "object")
    return (types,) if isinstance(types, str) else tuple(types)
