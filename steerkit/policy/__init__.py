"""What is wanted, in a file: features by name, how they are steered, how calls are judged. Loads no torch."""

from steerkit.policy.cases import Case, Cases, cases_schema, load_cases
from steerkit.policy.checks.reachability import doubtful, only_grows, unreachable, why_late
from steerkit.policy.conditions import Condition, Evidence, Gate, parts_of, readings_of
from steerkit.policy.describe import explain
from steerkit.policy.identity import fingerprint, watch_key
from steerkit.policy.load import dump, load, loads, locate, revive
from steerkit.policy.parts import Edit, Formula, NamedFeature, Probe, split_quantity
from steerkit.policy.policy import Earlier, Guard, GuardRule, Policy, SteerRule, TraceSettings
from steerkit.policy.problems import Problem
from steerkit.policy.resolve import Statistic, in_multiples, resolve, wrong_when_raw
from steerkit.policy.schema import schema, schema_text
from steerkit.policy.shipped import shipped, shipped_file

__all__ = [
    "Case",
    "Cases",
    "Condition",
    "Earlier",
    "Edit",
    "Evidence",
    "Formula",
    "Gate",
    "Guard",
    "GuardRule",
    "NamedFeature",
    "Policy",
    "Probe",
    "Problem",
    "Statistic",
    "SteerRule",
    "TraceSettings",
    "cases_schema",
    "doubtful",
    "dump",
    "explain",
    "fingerprint",
    "in_multiples",
    "load",
    "load_cases",
    "loads",
    "locate",
    "only_grows",
    "parts_of",
    "readings_of",
    "resolve",
    "revive",
    "schema",
    "schema_text",
    "shipped",
    "shipped_file",
    "split_quantity",
    "unreachable",
    "watch_key",
    "why_late",
    "wrong_when_raw",
]
