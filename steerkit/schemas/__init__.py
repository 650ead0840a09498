"""JSON Schema for values that nobody vouches for: bounded work, ECMA-262 patterns, exact numbers, nothing fetched."""

from steerkit.schemas.apply import UndecidedError, errors, fits, undeclared
from steerkit.schemas.linear import PatternError
from steerkit.schemas.patterns import compiled
from steerkit.schemas.sound import LISTS, MAPPINGS, SINGLE, faults, lost_references, no_json, subschemas, unmatchable

__all__ = [
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
    "no_json",
    "subschemas",
    "undeclared",
    "unmatchable",
]
