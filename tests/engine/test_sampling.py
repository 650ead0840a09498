"""Settings of a generation: what is no setting, or out of its range, is one line that says so."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import steerkit
from steerkit.engine import Sampling
from steerkit.errors import ModelError, SettingError

WRONG: list[tuple[str, Any]] = [
    *(("max_new_tokens", value) for value in (0, -1, True, 1.5, 8.0, "8", None, math.inf)),
    *(("temperature", value) for value in (-1, -0.001, math.nan, math.inf, "0.5", None, True, [1])),
    *(("top_k", value) for value in (-1, 1.0, "5", None, False)),
    *(("top_p", value) for value in (0, -0.1, 1.0001, 2, "0.5", None, math.nan, True)),
    *(("seed", value) for value in (None, 2**70, -(2**64), 1.5, "1", True)),
]
RIGHT: dict[str, tuple[Any, ...]] = {
    "max_new_tokens": (1, 4096, np.int64(3)),
    "temperature": (0, 0.0, 1, 0.7, np.float32(0.5)),
    "top_k": (0, 1, 50, np.int32(4)),
    "top_p": (1, 1.0, 0.001, np.float64(0.5)),
    "seed": (0, -1, 2**63, 2**64 - 1),
}


@pytest.mark.parametrize(("name", "value"), WRONG, ids=str)
def test_a_wrong_value_is_refused(name: str, value: Any) -> None:
    """With its name, what was got and what is expected."""
    with pytest.raises(ModelError) as caught:
        Sampling(**{name: value})
    assert str(caught.value).startswith(f"sampling.{name}: got {value!r}, expected a ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", RIGHT)
def test_right_values_are_taken(name: str) -> None:
    """Numpy's numbers become Python's, as records hold them."""
    for value in RIGHT[name]:
        kept = getattr(Sampling(**{name: value}), name)
        assert kept == value
        assert type(kept) in (int, float, np.float64)


MISSPELT = {
    "temprature": "temperature",
    "temperatur": "temperature",
    "max_tokens": "max_new_tokens",
    "max_new_token": "max_new_tokens",
    "topk": "top_k",
    "top-p": "top_p",
    "Seed": "seed",
    "do_sample": None,
}


@pytest.mark.parametrize("name", MISSPELT)
def test_a_name_that_is_none_names_the_nearest(name: str) -> None:
    """In a turn, in a stream and by itself: an error of ours, not Python's."""
    runtime = steerkit.load("tiny", audit=False)
    messages = [{"role": "user", "content": "hello"}]
    asks = (
        lambda: Sampling(**{name: 1}),
        lambda: runtime.run(messages, **{name: 1}),
        lambda: next(runtime.stream(messages, **{name: 1})),
        lambda: runtime.loop(messages, **{name: 1}),  # type: ignore[misc]  # that is what is tried
    )
    for ask in asks:
        with pytest.raises((ModelError, SettingError), match=f"'{name}'.* max_new_tokens, temperature") as caught:
            ask()
        meant = MISSPELT[name]
        assert meant is None or re.search(f"did you mean '?{meant}'?\\?", str(caught.value))
    assert runtime.run(messages, max_new_tokens=2).reply_ids


def test_settings_are_still_a_value() -> None:
    """They are equal by value, and one can be made of another."""
    assert replace(Sampling(seed=3), top_k=2) == Sampling(seed=3, top_k=2) != Sampling()
