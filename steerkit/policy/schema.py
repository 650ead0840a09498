"""The JSON Schema of policy files, for editors; `steerkit policy schema` prints it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from steerkit.policy.policy import Policy
from steerkit.policy.problems import Location


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a policy file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Policy.model_json_schema()}


def keys_at(location: Location, root: Mapping[str, Any] | None = None) -> list[str]:
    """Keys that a mapping at a location of a policy may have; empty for mappings of the user's own names.

    `root` is the schema of another kind of file.
    """
    root = _schema() if root is None else root
    node: Any = root
    for part in location:
        node = _step(_resolved(node, root), part)
    return list(_resolved(node, root).get("properties", {}))


def schema_text() -> str:
    """The schema as `policies/schema.json` holds it."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


@cache
def _schema() -> dict[str, Any]:
    return schema()


def _step(node: Mapping[str, Any], part: str | int) -> Any:
    if isinstance(part, int):
        return node.get("items", {})
    named = node.get("properties", {}).get(part)
    if named is not None:
        return named
    own_names = node.get("patternProperties", {})  # of the user; all have the same keys
    return next(iter(own_names.values()), None) or node.get("additionalProperties") or {}


def _resolved(node: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """The node behind references; of alternatives the one that is a mapping or a list."""
    while isinstance(node, Mapping):
        if "$ref" in node:
            node = root["$defs"][node["$ref"].rsplit("/", 1)[-1]]
        elif "anyOf" in node:
            parts = [_resolved(part, root) for part in node["anyOf"]]
            node = next((part for part in parts if part.get("type") in ("object", "array")), {})
        else:
            return node
    return {}
