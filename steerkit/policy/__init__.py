"""What is wanted, in a file: features by name, how they are steered, how calls are judged. Loads no torch."""

from steerkit.policy.conditions import Condition, Evidence, Gate, parts_of, readings_of
from steerkit.policy.explain import explain
from steerkit.policy.identity import fingerprint, watch_key
from steerkit.policy.load import dump, load, loads, locate
from steerkit.policy.model import Earlier, Guard, GuardRule, Policy, SteerRule, TraceSettings
from steerkit.policy.parts import Edit, Formula, NamedFeature, Probe, split_quantity
from steerkit.policy.plain import Problem
from steerkit.policy.schema import schema, schema_text
from steerkit.policy.units import Statistic, resolve

__all__ = [
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
    "dump",
    "explain",
    "fingerprint",
    "load",
    "loads",
    "locate",
    "parts_of",
    "readings_of",
    "resolve",
    "schema",
    "schema_text",
    "split_quantity",
    "watch_key",
]
