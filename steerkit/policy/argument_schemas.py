"""JSON Schemas of arguments and results: what is none, and what no value can satisfy."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final, cast

from jsonschema.validators import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from steerkit.policy.plain import Location, Problem, items, table

_MAPPINGS: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLE: Final = (
    *("not", "if", "then", "else", "items", "contains", "additionalProperties", "propertyNames"),
    *("unevaluatedItems", "unevaluatedProperties", "contentSchema"),
)
_OTHERS: Final = (
    *("$id", "$schema", "$ref", "$anchor", "$dynamicRef", "$dynamicAnchor", "$vocabulary", "$comment"),
    *("type", "const", "enum", "multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"),
    *("maxLength", "minLength", "pattern", "maxItems", "minItems", "uniqueItems", "maxContains", "minContains"),
    *("maxProperties", "minProperties", "required", "dependentRequired", "format", "contentEncoding"),
    *("contentMediaType", "title", "description", "default", "deprecated", "readOnly", "writeOnly", "examples"),
)
KEYWORDS: Final = frozenset((*_MAPPINGS, *_LISTS, *_SINGLE, *_OTHERS))
"""Keywords of JSON Schema 2020-12; a validator ignores all others, and what is ignored restricts nothing."""

_COUNTS: Final = (("minLength", "maxLength"), ("minItems", "maxItems"), ("minProperties", "maxProperties"))


def schema_problems(where: Location, schema: Any) -> Iterator[Problem]:
    """What is no schema in a mapping, and what nothing can satisfy; of anything else nothing, others say that."""
    if not isinstance(schema, Mapping):
        return
    if not _is_json(schema):
        yield Problem(where, "expected a JSON Schema: finite numbers, keys that are text, lists and mappings")
        return
    patterns = Draft202012Validator.FORMAT_CHECKER
    meta = Draft202012Validator(cast(Any, Draft202012Validator.META_SCHEMA), format_checker=patterns)
    wrong = False
    for error in meta.iter_errors(schema):
        wrong = True
        yield Problem((*where, *error.absolute_path), f"expected a JSON Schema: {_said(error)}")
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
    if not isinstance(schema, Mapping):
        return
    yield where, schema
    for key in _MAPPINGS:
        for name, part in table(schema, key).items():
            yield from subschemas((*where, key, name), part)
    for key in _LISTS:
        for number, part in enumerate(items(schema, key)):
            yield from subschemas((*where, key, number), part)
    for key in _SINGLE:
        yield from subschemas((*where, key), schema.get(key))


def lost_references(where: Location, schema: Any) -> Iterator[Problem]:
    """Every `$ref` that leads out of the schema, nowhere, or back to itself: the schema cannot be applied."""
    for inner, part in subschemas(where, schema):
        reference = part.get("$ref")
        if isinstance(reference, str) and not _leads_on(schema, part, reference):
            text = f"got {reference[:80]!r}, which leads nowhere; expected one of its own $defs"
            yield Problem((*inner, "$ref"), text)


def _leads_on(schema: Mapping[str, Any], part: Mapping[str, Any], reference: str) -> bool:
    try:
        whole = DRAFT202012.create_resource(schema)
        resolver = Registry().with_resource("", whole).resolver_with_root(whole)
        return resolver.lookup(reference).contents is not part
    except Exception:  # unresolvable, no pointer, no address: the guard could not follow it either
        return False


def not_required(where: Location, schema: Any) -> Iterator[Location]:
    """Properties that a schema speaks of and does not require: a value without them fits it."""
    if isinstance(schema, Mapping):
        required = schema.get("required", ())
        for name in schema.get("properties", {}):
            if name not in required:
                yield (*where, "properties", name)


def _is_json(schema: Any) -> bool:
    try:
        text = json.dumps(schema, allow_nan=False, ensure_ascii=False)
        return bool(text.encode()) and json.loads(text) == schema
    except (TypeError, ValueError, RecursionError):
        return False


def _said(error: Any) -> str:
    if error.validator == "anyOf" and error.absolute_path and error.absolute_path[-1] == "type":
        types = "array, boolean, integer, null, number, object, string"
        return f"got {error.instance!r}, expected one of {types}, or a list of them"
    return str(error.message)[:200]


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
        fits = any(Draft202012Validator(schema, registry=Registry()).is_valid(value) for value in values)
    except Exception:  # a reference that leads nowhere is said elsewhere
        return
    if not fits:
        what = "which does not fit" if key == "const" else "of which none fits"
        yield Problem((*where, key), f"got {str(schema[key])[:80]}, {what} the schema around it")


def _types(schema: Any) -> tuple[str, ...]:
    """The types that a schema lets in, as far as `type` says."""
    types = schema.get("type", "object")
    return (types,) if isinstance(types, str) else tuple(types)
