"""One turn: render, generate under the policies, parse, judge, record; and a recorded turn replayed."""

from steerkit.runtime.continuous import News
from steerkit.runtime.judge import Retried, call_ids, next_ids
from steerkit.runtime.keywords import raises_setting_errors
from steerkit.runtime.own_generate import attach, constrain
from steerkit.runtime.policies import PolicyLike, policies_for, read_policies, unsteered
from steerkit.runtime.record import opening_of
from steerkit.runtime.replay import Alternative, Moment, Replayed, WhatIf, alternatives, replay, what_if
from steerkit.runtime.request import FORM, Metadata, Prepared, Request, ToolLike, metadata_of, sampling_of
from steerkit.runtime.turns import Turns

__all__ = [
    "FORM",
    "Alternative",
    "Metadata",
    "Moment",
    "News",
    "PolicyLike",
    "Prepared",
    "Replayed",
    "Request",
    "Retried",
    "ToolLike",
    "Turns",
    "WhatIf",
    "alternatives",
    "attach",
    "call_ids",
    "constrain",
    "metadata_of",
    "next_ids",
    "opening_of",
    "policies_for",
    "raises_setting_errors",
    "read_policies",
    "replay",
    "sampling_of",
    "unsteered",
    "what_if",
]
