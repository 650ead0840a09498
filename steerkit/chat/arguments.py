"""A call's arguments against its tool's schema, and the schema itself when the tool is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jsonschema import ValidationError

from steerkit.errors import ToolError
from steerkit.schemas import UndecidedError, errors, faults, undeclared
from steerkit.types import Json, Tool


def schema_problem(schema: Mapping[str, Any]) -> str | None:
    """The first thing that keeps a tool's schema from being applied, with its path; None if nothing does."""
    for path, text in faults(schema):
        return f"parameters{_dotted(path)}: {text}"
    return None


def validate_arguments(tool: Tool, arguments: Mapping[str, Json]) -> str | None:
    """The first thing that is wrong with a call's arguments, with its path; None if they fit the tool's schema.

    Arguments that the schema cannot be applied to are wrong too. Those that it does not list are not:
    `undeclared_arguments` finds them.
    """
    try:
        wrong = schema_errors(tool.parameters, arguments)
    except ToolError as refusal:
        return f"arguments: {refusal}"
    if not wrong:
        return None
    error = min(wrong, key=lambda error: [str(part) for part in error.absolute_path])
    message = error.message if len(error.message) <= 200 else error.message[:197] + "..."
    return f"arguments{_dotted(error.absolute_path)}: {message}"


def undeclared_arguments(tool: Tool, arguments: Mapping[str, Json]) -> str | None:
    """The first argument that the tool's schema does not list, with its path; None if there is none.

    A schema that says `additionalProperties` or `unevaluatedProperties` decides for itself, in `validate_arguments`.
    """
    try:
        found = undeclared(tool.parameters, arguments)
    except UndecidedError as refusal:
        return f"arguments: {refusal}"
    for path, listed in found:
        return f"arguments{_dotted(path)}: got '{str(path[-1])[:80]}', expected {_listed(listed)}"
    return None


def schema_errors(schema: Mapping[str, Any], value: Any) -> list[ValidationError]:
    """Everything that is wrong with a value by a JSON Schema. Nothing is ever fetched for a `$ref`.

    Raises:
        ToolError: the schema cannot be applied to it: a `$ref` that leads nowhere or in a circle, too much work.
    """
    try:
        return errors(schema, value)
    except UndecidedError as error:
        raise ToolError(f"{error}; expected a schema that applies to it") from None


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    return f"one of what the tool declares: {shown}" if names else "none: the tool declares no argument"


def _dotted(path: Any) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
