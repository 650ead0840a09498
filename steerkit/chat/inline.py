"""References of a schema replaced by their targets; nothing is ever fetched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012, specification_with

from steerkit.chat.schemas import REFERENCES, mapped
from steerkit.errors import ToolError

MOST: Final = 5000
"""Schemas inside a tool's, references put in: a few short definitions can stand for millions."""


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
