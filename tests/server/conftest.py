"""One server for all tests of a file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from steerkit.server import Limits
from tests.server.serving import EXTRA, RETRY, Served, serving


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server on the box under `payments` and `people`; requests may choose others, or none."""
    folder = tmp_path_factory.mktemp("served")
    with serving(
        folder, ["payments", "people"], ["none"], more=[*EXTRA, RETRY], limits=Limits(body_seconds=1.5)
    ) as found:
        yield found
