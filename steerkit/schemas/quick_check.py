"""Recognizes common valid schemas of 2020-12 in microseconds; the metaschema takes milliseconds for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

_TYPES: Final = frozenset(("array", "boolean", "integer", "null", "number", "object", "string"))


def is_surely_valid(schema: Any) -> bool:
    """True if a schema has common keywords only, each with a value of its kind; False decides nothing."""
    if not isinstance(schema, Mapping):
        return isinstance(schema, bool)
    return all(key in _KINDS and _KINDS[key](value) for key, value in schema.items())


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value)) and len(set(value)) == len(value)


def _type(value: Any) -> bool:
    return (_text(value) and value in _TYPES) or (_texts(value) and bool(value) and _TYPES.issuperset(value))


def _named(value: Any) -> bool:
    return isinstance(value, Mapping) and all(_text(name) and is_surely_valid(part) for name, part in value.items())


def _listed(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(is_surely_valid, value))


_KINDS: Final[Mapping[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("properties", "patternProperties", "$defs"), _named),
    **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems"), _listed),
    **dict.fromkeys(("not", "items", "contains", "additionalProperties", "propertyNames"), is_surely_valid),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _number),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), _count),
    **dict.fromkeys(("title", "description", "pattern", "format", "$ref", "$comment"), _text),
    "required": _texts,
    "type": _type,
    "enum": lambda value: isinstance(value, list),
    "const": lambda value: True,
    "uniqueItems": lambda value: isinstance(value, bool),
}
