"""Fidelity of a set of SAEs, and its drift between two models."""

from steerkit.lab.train.health.call_fidelity import CallFidelity, call_fidelity
from steerkit.lab.train.health.drift import FACTOR, FEWEST, SiteDrift, drift
from steerkit.lab.train.health.fidelity import Fidelity, fidelity
from steerkit.lab.train.health.figure import draw
from steerkit.lab.train.health.reading_drift import ReadingDrift, changed_features, reading_drifts

__all__ = [
    "FACTOR",
    "FEWEST",
    "CallFidelity",
    "Fidelity",
    "ReadingDrift",
    "SiteDrift",
    "call_fidelity",
    "changed_features",
    "draw",
    "drift",
    "fidelity",
    "reading_drifts",
]
