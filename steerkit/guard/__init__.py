"""Judges each call before anyone may run it. Loads no torch: a verdict can be recomputed from a record."""

from steerkit.guard.review import needs, review

__all__ = ["needs", "review"]
