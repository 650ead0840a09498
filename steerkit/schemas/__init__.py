"""JSON Schema for untrusted values: bounded work, ECMA-262 patterns, exact numbers, nothing fetched."""

from steerkit.schemas.apply import UndecidedError, errors, fits, undeclared
from steerkit.schemas.drafts import KEYWORDS
from steerkit.schemas.expressions import PatternError
from steerkit.schemas.faults import LISTS, MAPPINGS, SINGLE, faults, lost_references, subschemas, why_not_json
from steerkit.schemas.patterns import compiled

__all__ = [
    "KEYWORDS",
    "LISTS",
    "MAPPINGS",
    "SINGLE",
    "PatternError",
    "UndecidedError",
    "compiled",
    "errors",
    "faults",
    "fits",
    "lost_references",
    "subschemas",
    "undeclared",
    "why_not_json",
]
