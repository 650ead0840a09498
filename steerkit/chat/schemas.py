"""JSON Schemas of tools as they come: changed part by part, and their types in the case of JSON Schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from jsonschema.validators import Draft4Validator, Draft7Validator, Draft202012Validator

from steerkit.schemas import LISTS, MAPPINGS, SINGLE

TYPES: Final = ("string", "integer", "number", "boolean", "object", "array", "null")

REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")

KEYWORDS: Final = frozenset(
    {
        *(key for draft in (Draft4Validator, Draft7Validator, Draft202012Validator) for key in draft.VALIDATORS),
        *(*MAPPINGS, *LISTS, *SINGLE),
        *("title", "description", "default", "example", "examples", "deprecated", "readOnly", "writeOnly"),
        *("contentMediaType", "contentEncoding", "id", "minContains", "maxContains"),
        *("nullable", "discriminator", "propertyOrdering", "property_ordering", "xml", "externalDocs"),  # OpenAPI's
    }
)
"""Keys with a meaning in a schema, of all drafts."""


def mapped(schema: Any, change: Callable[[Any, str], Any]) -> Any:
    """A schema with `change` made to the schemas right inside it; what is only named like one is left alone.

    Args:
        schema: what is no object is given back as it is.
        change: takes an inner schema, an object, and the path that leads to it, as `.properties.x`.
    """
    if not isinstance(schema, Mapping):
        return schema

    def changed(item: Any, step: str) -> Any:
        return change(item, step) if isinstance(item, Mapping) else item

    found = dict(schema)
    for key, value in schema.items():
        if key in MAPPINGS and isinstance(value, Mapping):
            found[key] = {name: changed(item, f".{key}.{name}") for name, item in value.items()}
        elif key in LISTS and isinstance(value, list):
            found[key] = [changed(item, f".{key}[{number}]") for number, item in enumerate(value)]
        elif key in SINGLE:
            found[key] = changed(value, f".{key}")
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
