"""Policies, as YAML files: named features, rules that steer them, rules that judge calls. Loads no torch."""

from steerkit.policy.cases import Case, Cases, cases_schema, load_cases
from steerkit.policy.conditions import Condition, Gate, GuardCondition, PlaceName, alternatives, leaves_of
from steerkit.policy.describe import explain
from steerkit.policy.edits import Edit, Formula, NamedFeature, Probe
from steerkit.policy.load import dump, load, loads, locate, recorded_policy
from steerkit.policy.policy import (
    Guard,
    GuardRule,
    Policy,
    PriorCall,
    SteerRule,
    TraceSettings,
    fingerprint,
    own_arguments,
    watch_key,
)
from steerkit.policy.problems import Location, Problem
from steerkit.policy.quantities import UNITS, split_quantity
from steerkit.policy.reachability import suspicious, unreachable, why_not_tripwire
from steerkit.policy.resolve import Statistic, relative_quantities, resolve, resolve_problems
from steerkit.policy.schema import schema, schema_text
from steerkit.policy.shipped import shipped, shipped_file

__all__ = [
    "UNITS",
    "Case",
    "Cases",
    "Condition",
    "Edit",
    "Formula",
    "Gate",
    "Guard",
    "GuardCondition",
    "GuardRule",
    "Location",
    "NamedFeature",
    "PlaceName",
    "Policy",
    "PriorCall",
    "Probe",
    "Problem",
    "Statistic",
    "SteerRule",
    "TraceSettings",
    "alternatives",
    "cases_schema",
    "dump",
    "explain",
    "fingerprint",
    "leaves_of",
    "load",
    "load_cases",
    "loads",
    "locate",
    "own_arguments",
    "recorded_policy",
    "relative_quantities",
    "resolve",
    "resolve_problems",
    "schema",
    "schema_text",
    "shipped",
    "shipped_file",
    "split_quantity",
    "suspicious",
    "unreachable",
    "watch_key",
    "why_not_tripwire",
]
