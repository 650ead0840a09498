"""The test kit that ships: a small model, and SAEs whose features have known answers."""

from steerkit.testing.planted import planted_policy, planted_saes, small_model

__all__ = ["planted_policy", "planted_saes", "small_model"]
