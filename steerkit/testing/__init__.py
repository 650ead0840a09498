"""The test kit that ships: small models, SAEs whose features have known answers, and a count of operations."""

from steerkit.testing.operations import operations
from steerkit.testing.planted import planted_policy, planted_saes, small_model, unread, written_for
from steerkit.testing.random_models import FUNCTIONGEMMA, SMALL, random_model

__all__ = [
    "FUNCTIONGEMMA",
    "SMALL",
    "operations",
    "planted_policy",
    "planted_saes",
    "random_model",
    "small_model",
    "unread",
    "written_for",
]
