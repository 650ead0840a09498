"""Fidelity of a set of SAEs."""

from steerkit.lab.train.health.call_fidelity import CallFidelity, call_fidelity
from steerkit.lab.train.health.fidelity import Fidelity, fidelity
from steerkit.lab.train.health.figure import draw

__all__ = ["CallFidelity", "Fidelity", "call_fidelity", "draw", "fidelity"]
