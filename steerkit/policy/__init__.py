"""What is wanted, in a file: features by name, how they are steered, how calls are judged. Loads no torch."""

from steerkit.policy.identity import fingerprint, watch_key
from steerkit.policy.load import dump, load, loads
from steerkit.policy.model import Guard, GuardRule, Policy, SteerRule, TraceSettings
from steerkit.policy.parts import Edit, Evidence, Formula, Gate, NamedFeature, Probe
from steerkit.policy.schema import schema, schema_text
from steerkit.policy.units import Statistic, resolve

__all__ = [
    "Edit",
    "Evidence",
    "Formula",
    "Gate",
    "Guard",
    "GuardRule",
    "NamedFeature",
    "Policy",
    "Probe",
    "Statistic",
    "SteerRule",
    "TraceSettings",
    "dump",
    "fingerprint",
    "load",
    "loads",
    "resolve",
    "schema",
    "schema_text",
    "watch_key",
]
