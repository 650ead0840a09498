"""Judges each call before anyone may run it. Loads no torch: a verdict can be recomputed from a record."""

from steerkit.guard.cases import Checked, check_cases
from steerkit.guard.review import certain, is_tripwire, needs, review, strictest
from steerkit.guard.settle import CUT_OFF, judge_again, policies_in, rule_of, settle, tripped

__all__ = [
    "CUT_OFF",
    "Checked",
    "certain",
    "check_cases",
    "is_tripwire",
    "judge_again",
    "needs",
    "policies_in",
    "review",
    "rule_of",
    "settle",
    "strictest",
    "tripped",
]
