"""The test kit that ships: a small model, SAEs whose features have known answers, and a count of operations."""

from steerkit.testing.operations import operations
from steerkit.testing.planted import planted_policy, planted_saes, small_model

__all__ = ["operations", "planted_policy", "planted_saes", "small_model"]
