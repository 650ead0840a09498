"""Writing calls: what can be written can be read, and what cannot be read is not written."""

from __future__ import annotations

from typing import Any

import pytest

from steerkit.chat import dialect_of, encode_call, parse
from steerkit.chat.dialects.functiongemma import CONTROL
from steerkit.errors import MessageError
from steerkit.types import Call
from tests.chat.conftest import ids_of

LARGE = 10**1000 - 1


def lists(depth: int, inside: str) -> str:
    """A call whose argument is lists inside each other."""
    return f"<start_function_call>call:f{{a:{'[' * depth}{inside}{']' * depth}}}<end_function_call>"


@pytest.mark.parametrize("number", [LARGE, -LARGE, 2**53 + 1, -0.0, 5e-324, 1.7976931348623157e308])
def test_numbers_at_their_bounds_come_back(tokenizer: Any, number: float) -> None:
    """The largest integers and the smallest floats keep value, type and sign."""
    (call,) = parse(tokenizer, ids_of(tokenizer, encode_call("f", {"a": number}))).calls
    assert isinstance(call, Call)
    assert repr(call.arguments["a"]) == repr(number)


UNWRITABLE = {
    "not a number": (float("nan"), "expected a finite number"),
    "infinity": ([float("-inf")], "expected a finite number"),
    "too many digits": (LARGE + 1, "more than 1000 digits"),
    "past Python's own bound": (-(10**5000), "more than 1000 digits"),
    "nested key": ({"a b": 1}, "got the name 'a b'"),
    **{token: (f"x{token}", f"which holds {token}") for token in CONTROL},
}


@pytest.mark.parametrize("case", UNWRITABLE)
def test_what_cannot_be_read_is_not_written(case: str) -> None:
    """A value that the parser would refuse is refused with its reason, before it is on the wire."""
    value, error = UNWRITABLE[case]
    with pytest.raises(MessageError, match=error):
        encode_call("f", {"a": value})


def test_depth_counts_objects_and_lists_alone(tokenizer: Any) -> None:
    """Thirty-two levels below the arguments are read, empty or not; one more is refused."""
    for inside in ("", "1"):
        assert isinstance(parse(tokenizer, ids_of(tokenizer, lists(32, inside))).calls[0], Call)
        assert "more than 32" in parse(tokenizer, ids_of(tokenizer, lists(33, inside))).calls[0].error  # type: ignore[union-attr]


def test_stops_are_looked_up_by_name(tokenizer: Any) -> None:
    """The reply ends at the turn's end, where a result is awaited, and at eos."""
    stops = {tokenizer.convert_tokens_to_ids(name) for name in ("<end_of_turn>", "<start_function_response>", "<eos>")}
    assert dialect_of(tokenizer).stops == stops
