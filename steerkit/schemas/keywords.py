"""JSON Schema's keywords for jsonschema's validators: each within the budget, and corrected where it follows Python.

`pattern` and `patternProperties` are ECMA-262, `multipleOf` is exact in decimals, equality knows that 1 is 1.0 and not
true, and comparing many values is linear. Messages are jsonschema's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any, TypeAlias

from jsonschema import ValidationError
from referencing.jsonschema import lookup_recursive_ref

from steerkit.schemas.budget import CURRENT, KEYWORD, BudgetError
from steerkit.schemas.patterns import compiled

Keyword: TypeAlias = Callable[[Any, Any, Any, Any], Any]
"""Errors of a value by one keyword: validator, the keyword's value, the value, the schema."""


def counted(keyword: Keyword) -> Keyword:
    """The keyword within the budget of steps and depth; null fits `nullable: true`, as in OpenAPI."""

    def errors(validator: Any, said: Any, value: Any, schema: Any) -> Iterator[Any]:
        if value is None and schema.get("nullable") is True:
            return
        budget = CURRENT.get()
        budget.spend(KEYWORD + (budget.size(value) >> 5) + 5 * (_count(value) + _count(said)))
        budget.depth += 1
        if budget.depth > budget.deepest:
            raise BudgetError(f"more than {budget.deepest} schemas inside each other, or in a circle")
        try:
            yield from keyword(validator, said, value, schema) or ()
        finally:
            budget.depth -= 1

    return errors


def found(pattern: str, text: str) -> bool:
    """True if a pattern is found in a text. Raises PatternError, BudgetError."""
    CURRENT.get().spend(KEYWORD)
    return compiled(pattern).search(text, CURRENT.get().spend)


def inner(validator: Any, schema: Any) -> Any:
    """The validator of a schema inside the validator's own."""
    resource = validator.SPECIFICATION.create_resource(schema)
    return validator.evolve(schema=schema, _resolver=validator._resolver.in_subresource(resource))


def in_place(validator: Any, value: Any) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """Validators and keywords of all schemas that apply to the value itself: joined, referenced, fitting branches."""
    CURRENT.get().spend(KEYWORD)
    if not isinstance(validator.schema, Mapping):
        return
    said = validator.applicable_keywords()
    yield validator, said
    for key in ("$ref", "$dynamicRef", "$recursiveRef"):
        if key in said:
            resolver = validator._resolver
            aim = lookup_recursive_ref(resolver) if key == "$recursiveRef" else resolver.lookup(said[key])
            yield from in_place(validator.evolve(schema=aim.contents, _resolver=aim.resolver), value)
    for part in _joined(validator, said, value):
        yield from in_place(part, value)


def _joined(validator: Any, said: Mapping[str, Any], value: Any) -> Iterator[Any]:
    extended = said.get("extends", [])
    for part in (*said.get("allOf", ()), *([extended] if isinstance(extended, Mapping) else extended)):
        yield inner(validator, part)
    for part in (*said.get("anyOf", ()), *said.get("oneOf", ())):
        if (choice := inner(validator, part)).is_valid(value):
            yield choice
    if "if" in said:
        condition = inner(validator, said["if"])
        holds = condition.is_valid(value)
        if holds:
            yield condition
        if (branch := "then" if holds else "else") in said:
            yield inner(validator, said[branch])
    for key in ("dependentSchemas", "dependencies"):
        for name, part in said.get(key, {}).items():
            if isinstance(value, Mapping) and name in value and isinstance(part, Mapping):
                yield inner(validator, part)


def named_by(said: Mapping[str, Any], name: str) -> Iterator[Any]:
    """The schemas that `properties` and `patternProperties` give for a name."""
    properties = said.get("properties", {})
    if name in properties:
        yield properties[name]
    for pattern, schema in said.get("patternProperties", {}).items():
        if found(pattern, name):
            yield schema


def _count(value: Any) -> int:
    return len(value) if isinstance(value, list | tuple | Mapping) else 0


def _pattern(validator: Any, said: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(value, "string") and not found(said, value):
        yield ValidationError(f"{value!r} does not match {said!r}")


def _pattern_properties(validator: Any, said: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    for pattern, part in said.items() if validator.is_type(value, "object") else ():
        for name, item in value.items():
            if found(pattern, name):
                yield from validator.descend(item, part, path=name, schema_path=pattern)


def _additional_properties(validator: Any, said: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    if not validator.is_type(value, "object"):
        return
    extras = [name for name in value if next(named_by(schema, name), None) is None]
    if validator.is_type(said, "object"):
        for name in extras:
            yield from validator.descend(value[name], said, path=name)
    elif said is False and extras and "patternProperties" in schema:
        verb, patterns = ("does" if len(extras) == 1 else "do"), sorted(schema["patternProperties"])
        yield ValidationError(f"{_listed(sorted(extras))} {verb} not match any of the regexes: {_listed(patterns)}")
    elif said is False and extras:
        yield ValidationError(f"Additional properties are not allowed ({_unexpected(extras)})")


def _unevaluated_properties(validator: Any, said: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    if not validator.is_type(value, "object"):
        return
    parts = list(in_place(validator, value))
    below = [one for part, one in parts if part is not validator]
    if any("additionalProperties" in one for _, one in parts) or any("unevaluatedProperties" in one for one in below):
        return
    rest = [name for name in value if not any(next(named_by(one, name), None) is not None for _, one in parts)]
    wrong = [name for name in rest if not inner(validator, said).is_valid(value[name])]
    if wrong and said is False:
        yield ValidationError(f"Unevaluated properties are not allowed ({_unexpected(wrong)})")
    elif wrong:
        verb = "was" if len(wrong) == 1 else "were"
        names = f"{_listed(wrong)} {verb} unevaluated and invalid"
        yield ValidationError(f"Unevaluated properties are not valid under the given schema ({names})")


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names))


def _unexpected(names: list[str]) -> str:
    return f"{_listed(sorted(names))} {'was' if len(names) == 1 else 'were'} unexpected"


def _multiple_of(validator: Any, said: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(value, "number") and (_exact(value) / _exact(said)).denominator != 1:
        yield ValidationError(f"{value!r} is not a multiple of {said}")


def _exact(number: Any) -> Fraction:
    """A number exactly as JSON writes it."""
    return Fraction(number) if isinstance(number, int) else Fraction(Decimal(repr(number)))


def _const(validator: Any, said: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    if _frozen(value) != _frozen(said):
        yield ValidationError(f"{said!r} was expected")


def _enum(validator: Any, said: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    mine = _frozen(value)
    if all(_frozen(one) != mine for one in said):
        yield ValidationError(f"{value!r} is not one of {said!r}")


def _unique_items(validator: Any, said: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    if said and validator.is_type(value, "array") and len({_frozen(item) for item in value}) < len(value):
        yield ValidationError(f"{value!r} has non-unique elements")


def _frozen(value: Any) -> Any:
    """A hashable form, equal for equal JSON values: 1 and 1.0 are equal, 1 and true are not."""
    CURRENT.get().spend(1)
    if isinstance(value, Mapping):
        return ("object", frozenset((key, _frozen(item)) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return ("array", tuple(map(_frozen, value)))
    return ("boolean", value) if isinstance(value, bool) else ("value", value)


CORRECTED: Mapping[str, Keyword] = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "unevaluatedProperties": _unevaluated_properties,
    "multipleOf": _multiple_of,
    "divisibleBy": _multiple_of,
    "const": _const,
    "enum": _enum,
    "uniqueItems": _unique_items,
}
"""Keywords that replace jsonschema's."""
