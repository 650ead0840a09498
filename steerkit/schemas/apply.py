"""Applies a schema to a value: its errors, and the keys in it that the schema does not declare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from jsonschema import ValidationError

from steerkit.schemas.budget import CURRENT, MAX_APPLIED, STEPS, Budget
from steerkit.schemas.drafts import validator_of
from steerkit.schemas.keywords import in_place, inner, named_by


class UndecidedError(ValueError):
    """A schema that cannot be applied to a value: a `$ref` to nothing, or more work than the budget of a validation."""


def errors(schema: Any, value: Any) -> list[ValidationError]:
    """All errors of a value by a JSON Schema. Raises UndecidedError."""
    with budgeted(value):
        return list(validator_of(schema).iter_errors(value))


def fits(schema: Any, value: Any) -> bool:
    """True if a value has no error by a JSON Schema. Raises UndecidedError."""
    with budgeted(value):
        return bool(validator_of(schema).is_valid(value))


def undeclared(schema: Any, value: Any) -> list[tuple[tuple[str | int, ...], list[str]]]:
    """Keys of objects that the schema of their object does not list: the path of each, and the keys that it lists.

    A schema that says `additionalProperties` or `unevaluatedProperties` decides for itself, and so does one that lists
    none; only at the root an empty list means that there is no argument. Keys count as listed in `allOf`, behind a
    `$ref`, and in a branch that the value fits. Raises UndecidedError.
    """
    with budgeted(value):
        return list(_undeclared([validator_of(schema)], value, ()))


@contextmanager
def budgeted(value: Any, steps: int = STEPS, deepest: int = MAX_APPLIED) -> Iterator[None]:
    """Run a validation of a value within a budget of steps; every failure inside is an UndecidedError."""
    before = None
    try:
        before = CURRENT.set(Budget(value, steps, deepest))
        yield
    except Exception as error:  # whatever the validator raises, a call is never let through by it
        raise UndecidedError(f"cannot be checked ({type(error).__name__}: {str(error)[:120]})") from None
    finally:
        if before is not None:
            CURRENT.reset(before)


def _undeclared(given: list[Any], value: Any, path: tuple[str | int, ...]) -> Iterator[Any]:
    parts = [part for one in given for part in in_place(one, value)]
    if isinstance(value, Mapping):
        listed = {name: None for _, said in parts for name in (*said.get("properties", {}), *_required(said))}
        decides = any("additionalProperties" in said or "unevaluatedProperties" in said for _, said in parts)
        lists = any(said.get("properties") or said.get("patternProperties") for _, said in parts)
        lists = lists or (not path and any("properties" in said for _, said in parts))
        for name, item in value.items():
            below = [inner(one, schema) for one, said in parts for schema in _below(said, name)]
            if below or name in listed or decides or not lists:
                yield from _undeclared(below, item, (*path, name))
            else:
                yield (*path, name), list(listed)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            below = [inner(one, schema) for one, said in parts for schema in _items(said, index)]
            yield from _undeclared(below, item, (*path, index))


def _required(said: Mapping[str, Any]) -> list[str]:
    required = said.get("required", [])
    return required if isinstance(required, list) else []


def _below(said: Mapping[str, Any], name: str) -> Iterator[Any]:
    """The schemas of the value of a name."""
    own = list(named_by(said, name))
    for schema in own or [said.get(key) for key in ("additionalProperties", "unevaluatedProperties")]:
        if schema is not None:
            yield schema


def _items(said: Mapping[str, Any], index: int) -> Iterator[Any]:
    """The schemas of an item."""
    items = said.get("items")
    first = items if isinstance(items, list) else said.get("prefixItems", [])
    rest = said.get("additionalItems") if isinstance(items, list) else items
    if index < len(first):
        yield first[index]
    elif rest is not None:
        yield rest
