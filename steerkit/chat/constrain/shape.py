"""Shapes: the part of a JSON Schema that a grammar can hold a call to. What it cannot say stays free, for the guard.

| in a schema | in the grammar |
|---|---|
| `type`, lists of types, `nullable`, `enum`, `const` | exactly these |
| `properties`, `required`, `additionalProperties` | these keys, in any order, none twice; required ones are there |
| `items` | every item has its shape |
| `anyOf`, `oneOf` | one of the shapes |
| `allOf`, `$ref` | joined; what refers to itself is free inside |
| `pattern`, `format`, `minimum`, `maxLength`, `minItems`, `uniqueItems` and their like | free |
| `not`, `if`, `contains`, `prefixItems`, `dependentRequired`, `minProperties` and their like | free |
| `patternProperties`, `propertyNames`, `unevaluatedProperties` | any further keys |
| an object that does not say `properties` | any keys, and a key that comes twice makes the call malformed, as ever |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from steerkit.chat.schemas import TYPES, Inliner
from steerkit.errors import ToolError

Kind: TypeAlias = Literal["string", "integer", "number", "boolean", "null"]


@dataclass(frozen=True, slots=True)
class Anything:
    """Any value."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """Any value of a type."""

    kind: Kind


@dataclass(frozen=True, slots=True)
class Exactly:
    """One of some values."""

    values: tuple[str, ...]
    """As JSON."""


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    of: Shape


class Member(NamedTuple):
    """A key of an object."""

    name: str
    shape: Shape
    required: bool


@dataclass(frozen=True, slots=True)
class Members:
    """An object."""

    members: tuple[Member, ...] = ()
    others: Shape | None = None
    """Shape of further keys, where the schema speaks of them."""
    sealed: bool = False
    """The schema says that there are no further keys."""

    @property
    def free(self) -> bool:
        """True if its keys are anyone's."""
        return not self.members and not self.sealed


@dataclass(frozen=True, slots=True)
class Either:
    """One of some shapes."""

    of: tuple[Shape, ...]


Shape: TypeAlias = "Anything | Scalar | Exactly | Items | Members | Either"

ANYTHING: Final = Anything()
NULL: Final = Scalar("null")
_OPEN: Final = ("patternProperties", "propertyNames", "unevaluatedProperties", "dependentSchemas", "if", "dependencies")
"""Keys beside which further members may be declared, or are spoken of in another way."""


def shape_of(schema: Mapping[str, Any]) -> Shape:
    """The shape of the values that fit a schema: never less than those."""
    try:
        return _shape(Inliner(schema, []).inlined())
    except (ToolError, RecursionError, TypeError, AttributeError, ValueError):  # the guard says what is wrong with it
        return ANYTHING


def _shape(schema: Any) -> Shape:
    if not isinstance(schema, Mapping):
        return ANYTHING
    parts = [_own(schema), *map(_shape, schema.get("allOf", ()))]
    parts += [either(map(_shape, schema[key])) for key in ("anyOf", "oneOf") if schema.get(key)]
    found = reduce(_both, parts)
    return either([found, NULL]) if schema.get("nullable") is True else found


def _own(schema: Mapping[str, Any]) -> Shape:
    """The shape without what is joined to the schema."""
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list) and values:
        return Exactly(tuple(dict.fromkeys(json.dumps(value, sort_keys=True) for value in values)))
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not kinds or not all(kind in TYPES for kind in kinds):
        return ANYTHING
    return either(_of_type(kind, schema) for kind in kinds)


def _of_type(kind: Any, schema: Mapping[str, Any]) -> Shape:
    if kind == "array":
        items = schema.get("items", True)
        return Items(_shape(items) if "prefixItems" not in schema else ANYTHING)
    return _members(schema) if kind == "object" else Scalar(kind)


def _members(schema: Mapping[str, Any]) -> Members:
    properties, required = schema.get("properties", {}), list(schema.get("required", ()))
    members = [Member(name, _shape(item), name in required) for name, item in properties.items()]
    members += [Member(name, ANYTHING, True) for name in dict.fromkeys(required) if name not in properties]
    more = schema.get("additionalProperties")
    opened = more is True or isinstance(more, Mapping) or any(key in schema for key in _OPEN)
    others = (_shape(more) if not any(key in schema for key in _OPEN) else ANYTHING) if opened else None
    none = "properties" in schema and not members and not opened
    return Members(tuple(members), others, more is False or none)


def either(shapes: Any) -> Shape:
    """The shape of values that fit one of some."""
    flat: list[Shape] = []
    for shape in shapes:
        flat += shape.of if isinstance(shape, Either) else [shape]
    some = tuple(dict.fromkeys(flat))
    if not some or ANYTHING in some:
        return ANYTHING
    return some[0] if len(some) == 1 else Either(some)


def _both(one: Shape, other: Shape) -> Shape:
    """A shape of all values that fit two, and perhaps of more."""
    if one == other or other == ANYTHING:
        return one
    if one == ANYTHING:
        return other
    if isinstance(one, Either) or isinstance(other, Either):
        ones = one.of if isinstance(one, Either) else (one,)
        others = other.of if isinstance(other, Either) else (other,)
        pairs = [_both(mine, theirs) for mine in ones for theirs in others if _can_be_both(mine, theirs)]
        return either(pairs or (one,))
    if isinstance(one, Members) and isinstance(other, Members):
        return _joined(one, other)
    if isinstance(one, Items) and isinstance(other, Items):
        return Items(_both(one.of, other.of))
    if isinstance(other, Exactly) or other == Scalar("integer"):
        return other
    return one


def _can_be_both(one: Shape, other: Shape) -> bool:
    """False where no value fits two shapes that are no alternatives."""
    if ANYTHING in (one, other) or isinstance(one, Exactly) or isinstance(other, Exactly):
        return True
    if isinstance(one, Scalar) and isinstance(other, Scalar):
        return one == other or {one.kind, other.kind} == {"integer", "number"}
    return type(one) is type(other)


def _joined(one: Members, other: Members) -> Members:
    names = dict.fromkeys(member.name for member in (*one.members, *other.members))
    mine, theirs = ({member.name: member for member in some.members} for some in (one, other))
    members = []
    for name in names:
        found = [by_name[name] for by_name in (mine, theirs) if name in by_name]
        shape = reduce(_both, (member.shape for member in found))
        members.append(Member(name, shape, any(member.required for member in found)))
    others = one.others or other.others
    return Members(tuple(members), others, one.sealed and other.sealed)
