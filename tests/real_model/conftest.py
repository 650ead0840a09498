from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = str(Path(__file__).parents[2] / "benchmarks" / "real_model")


@pytest.fixture(scope="session", autouse=True)
def builder() -> Iterator[None]:
    """The builder's modules, found as its script finds them."""
    sys.path.insert(0, FOLDER)
    yield
    sys.path.remove(FOLDER)
