"""Faults of a schema itself, found once, before it is applied to any call."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

from steerkit.schemas.apply import UndecidedError, budgeted
from steerkit.schemas.budget import MAX_APPLIED, MAX_DEPTH, STEPS
from steerkit.schemas.drafts import DEFAULT, DraftError, draft_of, meta_validator, validator_of
from steerkit.schemas.expressions import PatternError
from steerkit.schemas.keywords import inner
from steerkit.schemas.patterns import compiled
from steerkit.schemas.quick_check import is_surely_valid

Path: TypeAlias = tuple[str | int, ...]

MAPPINGS: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
"""Keywords whose values are schemas by name."""
LISTS: Final = ("allOf", "anyOf", "oneOf", "prefixItems", "items", "extends", "disallow", "type")
"""Keywords whose value may be a list of schemas."""
SINGLE: Final = (
    *("not", "if", "then", "else", "items", "contains", "additionalProperties", "additionalItems", "propertyNames"),
    *("unevaluatedItems", "unevaluatedProperties", "contentSchema", "extends"),
)
"""Keywords whose value may be a schema."""
_IN_PLACE: Final = frozenset(
    ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "dependencies", "extends", "disallow")
)
"""Keywords whose schemas apply to the value itself, and not to a part of it."""
_ENOUGH: Final = 20 * STEPS
"""Budget of checking a schema, which is done once."""


def faults(schema: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """Everything that keeps a schema from being applied, with the place of each: `got …, expected …`.

    Not JSON or too deep; a `$schema` that is not known; what the draft does not allow; a pattern that cannot be
    matched; a `$ref` that leads nowhere, out of the schema or in a circle.
    """
    if why := why_not_json(schema):
        yield (), f"got {why}, expected a JSON Schema: finite numbers, keys that are text, at most {MAX_DEPTH} levels"
        return
    try:
        draft = draft_of(schema)
    except DraftError as error:
        yield ("$schema",), str(error)
        return
    found = [*_by_draft(schema, draft), *_by_part(schema, draft)]
    yield from found
    if not found:
        yield from lost_references(schema)


def subschemas(schema: Any, path: Path = ()) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """A schema and all schemas inside it, with their places."""
    yield path, schema
    for step, part in _parts(schema):
        yield from subschemas(part, (*path, *step))


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The schemas directly inside one."""
    for key, value in schema.items():
        if key in MAPPINGS and isinstance(value, Mapping):
            found: list[tuple[Path, Any]] = [((key, name), part) for name, part in value.items()]
        elif key in LISTS and isinstance(value, list | tuple):
            found = [((key, number), part) for number, part in enumerate(value)]
        else:
            found = [((key,), value)] if key in SINGLE else []
        yield from (one for one in found if isinstance(one[1], Mapping))


def lost_references(schema: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """Every `$ref` that leads out of the schema, nowhere, or in a circle that never descends into the value."""
    if not any("$ref" in part for _, part in subschemas(schema)):
        return
    try:
        root = validator_of(schema)
    except DraftError:
        return
    seen: dict[int, bool] = {}
    for path, part in _validators(root, ()):
        reference = part.applicable_keywords().get("$ref")
        if not isinstance(reference, str):
            continue
        if _target(part) is None:
            text = "which leads nowhere; expected one of its own $defs (nothing is ever fetched)"
        elif _circles(part, seen, 0):
            text = "which leads nowhere: back to itself without reading any deeper; expected an end"
        else:
            continue
        yield (*path, "$ref"), f"got {reference[:80]!r}, {text}"


def _validators(validator: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """Validators of a schema and of all schemas inside it, each with its own base for references."""
    yield path, validator
    for step, part in _parts(validator.schema):
        yield from _validators(inner(validator, part), (*path, *step))


def _target(validator: Any) -> Any:
    """The validator of the schema that a `$ref` leads to; None where it leads nowhere."""
    try:
        target = validator._resolver.lookup(validator.schema["$ref"])
        return validator.evolve(schema=target.contents, _resolver=target.resolver)
    except Exception:  # unresolvable, no pointer, no address: the guard could not follow it either
        return None


def _circles(validator: Any, seen: dict[int, bool], depth: int) -> bool:
    """True if applying a schema comes back to it at the same value, or goes too deep."""
    key = id(validator.schema)
    if key not in seen:
        seen[key] = True  # until all schemas below are seen: one that meets it meanwhile is in a circle
        seen[key] = depth > MAX_APPLIED or any(_circles(part, seen, depth + 1) for part in _applied(validator))
    return seen[key]


def _applied(validator: Any) -> Iterator[Any]:
    """Validators of the schemas that a schema applies to the value itself."""
    if not isinstance(validator.schema, Mapping):
        return
    said = validator.applicable_keywords()
    if isinstance(said.get("$ref"), str) and (target := _target(validator)) is not None:
        yield target
    for step, part in _parts(said):
        if step[0] in _IN_PLACE:
            yield inner(validator, part)


def _by_draft(schema: Any, draft: str) -> Iterator[tuple[Path, str]]:
    """Faults by the draft's metaschema."""
    if draft == DEFAULT and is_surely_valid(schema):
        return
    try:
        with budgeted(schema, _ENOUGH, 2 * MAX_APPLIED):
            wrong = list(meta_validator(draft).iter_errors(schema))
    except UndecidedError as error:
        yield (), str(error)
        return
    how = draft if "$schema" in schema else f"{draft}, as it has no $schema"
    said = [(tuple(error.absolute_path), f"expected a JSON Schema ({how}): {_said(error)}") for error in wrong]
    yield from dict.fromkeys(said)  # a vocabulary that is found in two ways says everything twice


def _by_part(schema: Any, draft: str) -> Iterator[tuple[Path, str]]:
    """Patterns that cannot be matched, and schemas inside that are of another draft."""
    for path, part in subschemas(schema):
        named = part.get("patternProperties")
        places = [((*path, "patternProperties", name), name) for name in named] if isinstance(named, Mapping) else []
        for place, pattern in [((*path, "pattern"), part.get("pattern")), *places]:
            if isinstance(pattern, str) and (why := why_not_a_pattern(pattern)):
                yield place, f"{pattern[:80]!r} is not a 'regex' that can be matched here: {why}"
        try:
            other = path and "$schema" in part and draft_of(part) != draft
        except DraftError:
            other = True
        if other:
            yield (*path, "$schema"), f"got {str(part['$schema'])[:80]!r} in a schema of {draft}; expected one draft"


def why_not_a_pattern(pattern: str) -> str:
    """Why a pattern cannot be matched; empty if it can."""
    try:
        compiled(pattern)
    except PatternError as error:
        return str(error)
    return ""


def _said(error: Any) -> str:
    if error.validator == "anyOf" and error.absolute_path and error.absolute_path[-1] == "type":
        types = "array, boolean, integer, null, number, object, string"
        return f"got {str(error.instance)[:80]!r}, expected one of {types}, or a list of them"
    return str(error.message)[:200]


def why_not_json(schema: Any) -> str:
    """Why a schema is not JSON, or too large or deep; empty if it is fine."""
    try:
        with budgeted(schema, _ENOUGH):
            json.dumps(schema, allow_nan=False, ensure_ascii=False).encode()
    except UndecidedError as error:
        return str(error).partition(": ")[2].removesuffix(")")
    return ""
