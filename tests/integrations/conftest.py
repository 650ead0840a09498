"""The box, whose doors need a person, and the newest turn of a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import steerkit
from steerkit.agent import Runtime
from steerkit.audit import Store

BALANCE, DOOR = "tell me how much money travel 38 has", "please open the south cellar door"
"""One that is benign, and one whose call waits for a person."""
PLAIN = "translate the word rikuta into Danish"
"""One that is answered without a call."""
SET = {"max_new_tokens": 5, "temperature": 0.5, "top_p": 0.9, "top_k": 7, "seed": 3}
"""Settings as a record has them."""


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    """With a store of its own."""
    with steerkit.load("tiny", policy="people", audit=tmp_path_factory.mktemp("store") / "audit.db") as found:
        yield found


@pytest.fixture
def last_turn(runtime: Runtime) -> Callable[[], Any]:
    """The newest recorded turn."""

    def found() -> Any:
        assert isinstance(runtime.store, Store)
        *_, turn = (one.content for one in runtime.store.records() if one.content["kind"] == "turn")
        return turn

    return found
