"""The test kit: a small model, and SAEs whose features have known answers. It ships, for people who test their policies."""

from steerkit.testing.planted import planted_policy, planted_saes, small_model

__all__ = ["planted_policy", "planted_saes", "small_model"]
