"""Why a recorded call was made: its features, each really taken away, and what they read."""

from steerkit.lab.explain.explain import explain
from steerkit.lab.explain.explanation import Changed, Explanation, Reason, Target, Without
from steerkit.lab.explain.feature_roles import Extent

__all__ = ["Changed", "Explanation", "Extent", "Reason", "Target", "Without", "explain"]
