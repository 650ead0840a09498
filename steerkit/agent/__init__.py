"""Turns with tools and people: the loop, pending runs and their resume, on top of the runtime's single turn."""

from steerkit.agent.api import Runtime
from steerkit.agent.calls import Approval, Execution, Held
from steerkit.agent.context import Settings
from steerkit.agent.exchange import exchange
from steerkit.agent.loading import load, load_recorded
from steerkit.agent.loop import Run
from steerkit.agent.pending import Pending

__all__ = [
    "Approval",
    "Execution",
    "Held",
    "Pending",
    "Run",
    "Runtime",
    "Settings",
    "exchange",
    "load",
    "load_recorded",
]
