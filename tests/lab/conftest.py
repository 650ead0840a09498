"""A small model in which the cause is known, and its conversations, for the tests of a search."""

from __future__ import annotations

import pytest

from steerkit.lab.material import Material
from tests.lab.planted_truth import Planted, planted


@pytest.fixture(scope="module")
def truth() -> Planted:
    """A small model in which the cause is known."""
    return planted()


@pytest.fixture(scope="module")
def material(truth: Planted) -> Material:
    """Its conversations, read."""
    return truth.material()
