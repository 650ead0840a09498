"""The places inside a JSON Schema that hold schemas, and its types in the case that JSON Schema writes them in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from jsonschema.validators import Draft4Validator, Draft7Validator, Draft202012Validator

TYPES: Final = ("string", "integer", "number", "boolean", "object", "array", "null")

REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")

_OF_MAPS: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
_OF_LISTS: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_OF_ONE: Final = (
    *("items", "additionalItems", "additionalProperties", "unevaluatedItems", "unevaluatedProperties"),
    *("contains", "propertyNames", "not", "if", "then", "else", "contentSchema"),
)

KEYWORDS: Final = frozenset(
    {
        *(key for draft in (Draft4Validator, Draft7Validator, Draft202012Validator) for key in draft.VALIDATORS),
        *(*_OF_MAPS, *_OF_LISTS, *_OF_ONE),
        *("title", "description", "default", "example", "examples", "deprecated", "readOnly", "writeOnly"),
        *("contentMediaType", "contentEncoding", "id", "minContains", "maxContains"),
        *("nullable", "discriminator", "propertyOrdering", "property_ordering", "xml", "externalDocs"),  # OpenAPI's
    }
)
"""Keys with a meaning in a schema, of all drafts."""


def mapped(schema: Any, change: Callable[[Any, str], Any]) -> Any:
    """A schema with `change` made to the schemas right inside it; what is only named like one is left alone.

    Args:
        schema: a boolean is given back as it is.
        change: takes the inner schema and the path that leads to it, as `.properties.x`.
    """
    if not isinstance(schema, Mapping):
        return schema
    found = dict(schema)
    for key in _OF_MAPS:
        if isinstance(schema.get(key), Mapping):
            found[key] = {name: change(item, f".{key}.{name}") for name, item in schema[key].items()}
    for key in (*_OF_LISTS, *_OF_ONE):
        if isinstance(schema.get(key), list):
            found[key] = [change(item, f".{key}[{number}]") for number, item in enumerate(schema[key])]
        elif key in _OF_ONE and isinstance(schema.get(key), Mapping):
            found[key] = change(schema[key], f".{key}")
    return found


def lower_types(schema: Any, path: str = "") -> Any:
    """A schema whose types are written as JSON Schema has them: Google writes them in upper case."""
    found = mapped(schema, lower_types)
    if isinstance(found, dict) and "type" in found:
        kind = found["type"]
        found["type"] = [_lower(one) for one in kind] if isinstance(kind, list) else _lower(kind)
    return found


def _lower(kind: Any) -> Any:
    return kind.lower() if isinstance(kind, str) and kind.lower() in TYPES else kind
