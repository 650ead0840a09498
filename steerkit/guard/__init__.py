"""Judges each call before anyone may run it. Loads no torch: a verdict can be recomputed from a record."""

from steerkit.guard.review import SEVERITY, certain, is_tripwire, needs, review, strictest

__all__ = ["SEVERITY", "certain", "is_tripwire", "needs", "review", "strictest"]
