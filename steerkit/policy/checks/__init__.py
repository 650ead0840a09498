"""Checks of a policy's plain data: names that exist, steering rules that agree, JSON Schemas that can be applied."""

from steerkit.policy.checks.conflicts import is_late
from steerkit.policy.checks.json_schemas import lost_references, not_required, schema_problems, subschemas
from steerkit.policy.checks.references import cross_problems, schemas_of

__all__ = [
    "cross_problems",
    "is_late",
    "lost_references",
    "not_required",
    "schema_problems",
    "schemas_of",
    "subschemas",
]
