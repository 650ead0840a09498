"""JSON Schemas of tools: the schemas inside them, their types in JSON Schema's case, and references put in.

Nothing is ever fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, NamedTuple

from jsonschema.validators import Draft4Validator, Draft7Validator, Draft202012Validator
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012, specification_with

from steerkit.errors import ToolError
from steerkit.schemas import LISTS, MAPPINGS, SINGLE

MOST: Final = 5000
"""Schemas inside a tool's, references put in: a few short definitions can stand for millions."""

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


class Lint(NamedTuple):
    """A part of a tool that the model does not see as its author declared it."""

    severity: Literal["error", "warning"]
    """`error`: the model sees something else than what was declared."""
    path: str
    text: str


class Inliner:
    """The references of one schema."""

    def __init__(self, schema: Mapping[str, Any], lints: list[Lint]) -> None:
        self._lints, self._count = lints, 0
        dialect = schema.get("$schema")
        specification = specification_with(dialect, default=DRAFT202012) if isinstance(dialect, str) else DRAFT202012
        registry: Registry[Any] = Registry()
        self._resolver = registry.resolver_with_root(specification.create_resource(schema))
        self._schema = schema

    def inlined(self) -> Any:
        """The schema without references; one to what it stands in itself is cut. Raises ToolError above `MOST`."""
        return self._inlined(self._schema, "parameters", (id(self._schema),), self._resolver)

    def _inlined(self, schema: Any, path: str, inside: tuple[int, ...], resolver: Any) -> Any:
        self._count += 1
        if self._count > MOST:
            raise ToolError(f"got more than {MOST} schemas with the references put in; expected fewer")
        if not isinstance(schema, Mapping):
            return schema
        key = next((key for key in REFERENCES if isinstance(schema.get(key), str)), None)
        plain = {name: item for name, item in schema.items() if name not in (*REFERENCES, "$defs", "definitions")}
        plain = mapped(plain, lambda item, step: self._inlined(item, path + step, inside, resolver))
        if key is None:
            return plain
        target = self._target(schema[key], path, inside, resolver)
        return {**plain, "allOf": [*plain.get("allOf", []), target]} if plain else target

    def _target(self, reference: str, path: str, inside: tuple[int, ...], resolver: Any) -> Any:
        try:
            found = resolver.lookup(reference)
        except (Unresolvable, ValueError, TypeError, AttributeError, KeyError):
            self._lints.append(Lint("error", path, f"the reference {reference!r:.80} leads nowhere in this schema"))
            return {}
        if id(found.contents) in inside:
            text = f"the reference {reference!r:.80} leads into itself; what is inside is not declared"
            self._lints.append(Lint("error", path, text))
            kind = found.contents.get("type") if isinstance(found.contents, Mapping) else None
            return {"type": kind or "object", "description": found.contents.get("description", "")}
        return self._inlined(found.contents, path, (*inside, id(found.contents)), found.resolver)
