"""One turn: render, generate under the policies, parse, judge, record; and a recorded turn replayed."""

from steerkit.runtime.batches import sampling_of
from steerkit.runtime.call_ids import call_ids, next_ids
from steerkit.runtime.keywords import clear
from steerkit.runtime.metadata import Metadata, metadata_of
from steerkit.runtime.replay import Moment, Replayed, WhatIf, replay, what_if
from steerkit.runtime.request import Request, ToolLike
from steerkit.runtime.resolve_policies import PolicyLike, policies_for, read_policies, unsteered
from steerkit.runtime.retry import Retried
from steerkit.runtime.turns import Turns
from steerkit.runtime.wrap import attach

__all__ = [
    "Metadata",
    "Moment",
    "PolicyLike",
    "Replayed",
    "Request",
    "Retried",
    "ToolLike",
    "Turns",
    "WhatIf",
    "attach",
    "call_ids",
    "clear",
    "metadata_of",
    "next_ids",
    "policies_for",
    "read_policies",
    "replay",
    "sampling_of",
    "unsteered",
    "what_if",
]
