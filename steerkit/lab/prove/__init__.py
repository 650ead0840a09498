"""Proves a policy beside its controls, and sets its bounds."""

from steerkit.lab.prove.calibration import Answered, Calibrated, Calibration, calibrate, values_in, with_bounds
from steerkit.lab.prove.dangers import dangerous_tools
from steerkit.lab.prove.dataset import distinct, read_conversations, read_dataset
from steerkit.lab.prove.dose_response import DoseRange
from steerkit.lab.prove.evaluate import evaluate
from steerkit.lab.prove.evaluation import Evaluation, Settings, VariantResult
from steerkit.lab.prove.latency import Latency
from steerkit.lab.prove.probe_comparison import PlaceProbes
from steerkit.lab.prove.shadow_runs import Shadow, read_shadow

__all__ = [
    "Answered",
    "Calibrated",
    "Calibration",
    "DoseRange",
    "Evaluation",
    "Latency",
    "PlaceProbes",
    "Settings",
    "Shadow",
    "VariantResult",
    "calibrate",
    "dangerous_tools",
    "distinct",
    "evaluate",
    "read_conversations",
    "read_dataset",
    "read_shadow",
    "values_in",
    "with_bounds",
]
