"""Judges each call before anyone may run it. Loads no torch: a verdict can be recomputed from a record."""

from steerkit.guard.cases import CaseResult, check_cases
from steerkit.guard.conditions import windowed
from steerkit.guard.rejudge import policies_in, rejudge
from steerkit.guard.review import (
    CUT_OFF,
    certain,
    is_tripwire,
    limit_retries,
    needs,
    review,
    rule_of,
    strictest,
    tripwire_verdict,
)

__all__ = [
    "CUT_OFF",
    "CaseResult",
    "certain",
    "check_cases",
    "is_tripwire",
    "limit_retries",
    "needs",
    "policies_in",
    "rejudge",
    "review",
    "rule_of",
    "strictest",
    "tripwire_verdict",
    "windowed",
]
