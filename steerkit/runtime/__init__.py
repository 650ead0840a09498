"""The way of a turn: render, generate under the policies, parse, judge, record; and the agent loop around it.

The only room that knows all others.
"""

from steerkit.runtime.calls import Approval, Execution, Held
from steerkit.runtime.desk import Settings
from steerkit.runtime.exchange import exchange
from steerkit.runtime.loading import load, load_recorded
from steerkit.runtime.loop import Run
from steerkit.runtime.pending import Pending
from steerkit.runtime.replay import Moment, Replayed, WhatIf, replay, what_if
from steerkit.runtime.request import Request
from steerkit.runtime.resolve_policies import policies_for, unsteered
from steerkit.runtime.retry import Retried
from steerkit.runtime.runtime import Runtime
from steerkit.runtime.wrap import attach

__all__ = [
    "Approval",
    "Execution",
    "Held",
    "Moment",
    "Pending",
    "Replayed",
    "Request",
    "Retried",
    "Run",
    "Runtime",
    "Settings",
    "WhatIf",
    "attach",
    "exchange",
    "load",
    "load_recorded",
    "policies_for",
    "replay",
    "unsteered",
    "what_if",
]
