"""Each rule of BFCL's AST match, with the case beside it that must go the other way."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.lab.ast_match import Answer, answer_of, mismatch, standard
from steerkit.types import Call, MalformedCall, Tool

PROPERTIES = {
    "place": {"type": "string"},
    "days": {"type": "integer"},
    "share": {"type": "number"},
    "deep": {"type": "boolean"},
    "names": {"type": "array", "items": {"type": "string"}},
    "where": {"type": "object"},
}
TOOL = Tool("look", parameters={"type": "object", "properties": PROPERTIES, "required": ["place"]})


def fits(arguments: dict[str, Any], accepted: dict[str, list[Any]], name: str = "look") -> bool:
    answer = Answer("look", {"place": ["Oslo"], **accepted})
    return mismatch([Call(name, {"place": "Oslo", **arguments})], [answer], [TOOL]) is None


@pytest.mark.parametrize(
    ("arguments", "accepted", "expected"),
    [
        ({}, {}, True),
        ({"days": 3}, {"days": [3, 4]}, True),
        ({"days": 5}, {"days": [3, 4]}, False),
        ({}, {"days": [3]}, False),
        ({}, {"days": [3, ""]}, True),
        ({"days": 3}, {}, False),
        ({"elsewhere": 3}, {"elsewhere": [3]}, False),
        ({"days": 3.0}, {"days": [3]}, False),
        ({"days": "3"}, {"days": [3]}, False),
        ({"days": True}, {"days": [1]}, False),
        ({"share": 2}, {"share": [2.0]}, True),
        ({"share": True}, {"share": [1.0]}, False),
        ({"deep": True}, {"deep": [True]}, True),
        ({"deep": 1}, {"deep": [True]}, False),
        ({"days": "next week"}, {"days": ["next_week"]}, True),
        ({"names": ["Ann", "Bo"]}, {"names": [["ann", "bo"]]}, True),
        ({"names": ["Bo", "Ann"]}, {"names": [["ann", "bo"]]}, False),
        ({"names": ["Ann", 3]}, {"names": [["ann", "3"]]}, False),
        ({"where": {"x": "A", "y": 1}}, {"where": [{"x": ["a"], "y": [1, 2]}]}, True),
        ({"where": {"x": "A"}}, {"where": [{"x": ["a"], "y": [1, ""]}]}, True),
        ({"where": {"x": "A"}}, {"where": [{"x": ["a"], "y": [1]}]}, False),
        ({"where": {"x": "A", "z": 1}}, {"where": [{"x": ["a"]}]}, False),
    ],
)
def test_values_types_and_parameters(arguments: dict[str, Any], accepted: dict[str, list[Any]], expected: bool) -> None:
    """Values are accepted ones of exact type; what is left out, and what is too much, counts."""
    assert fits(arguments, accepted) is expected


@pytest.mark.parametrize(
    ("written", "wanted", "expected"),
    [
        ("April 1, 2024", "april 1 2024", True),
        ("a-b_c*d^e/f.g", "ABCDEFG", True),
        ("it's", 'it"s', True),
        ("it;s", "its", False),
        ("Oslo", "Bergen", False),
    ],
)
def test_texts_are_compared_without_case_and_some_marks(written: str, wanted: str, expected: bool) -> None:
    """The marks ` ,./-_*^` do not count, others do."""
    call, answer = Call("look", {"place": written}), Answer("look", {"place": [wanted]})
    assert (mismatch([call], [answer], [TOOL]) is None) is expected


def test_a_required_parameter_must_be_there_whatever_the_answer_says() -> None:
    """The schema's requirement stands beside an answer that would let the parameter be left out."""
    answer = Answer("look", {"place": ["Oslo", ""]})
    assert mismatch([Call("look", {})], [answer], [TOOL]) == "place: missing, though required"
    free = Tool("look", parameters={"type": "object", "properties": PROPERTIES})
    assert mismatch([Call("look", {})], [answer], [free]) is None


def test_names_and_counts_are_exact() -> None:
    """Another name, a call too many, one too few and a malformed one are errors."""
    assert fits({}, {})
    assert not fits({}, {}, name="Look")
    call, answer = Call("look", {"place": "Oslo"}), Answer("look", {"place": ["Oslo"]})
    assert mismatch([call, call], [answer], [TOOL]) == "got 2 calls, expected 1"
    assert mismatch([], [answer], [TOOL]) == "got 0 calls, expected 1"
    assert "malformed" in str(mismatch([MalformedCall("cut off", 3, "look{")], [answer], [TOOL]))


def test_several_calls_match_in_any_order_and_each_once() -> None:
    """Two answers take two calls in either order; one call cannot stand for both."""
    calls = [Call("look", {"place": "Oslo"}), Call("look", {"place": "Bergen"})]
    answers = [Answer("look", {"place": ["Bergen"]}), Answer("look", {"place": ["Oslo"]})]
    assert mismatch(calls, answers, [TOOL]) is None
    assert mismatch([calls[0], calls[0]], answers, [TOOL]) is not None


values = st.recursive(
    st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)


@given(st.dictionaries(st.text(min_size=1, max_size=5), values, max_size=3))
def test_a_call_fits_the_answer_made_of_it(arguments: dict[str, Any]) -> None:
    """Every call fits its own answer, without a schema; with one argument more it does not."""
    answer = answer_of("any", arguments)
    assert mismatch([Call("any", arguments)], [answer], []) is None
    assert mismatch([Call("any", {**arguments, "longer name": 1})], [answer], []) is not None


@given(st.text())
def test_a_standard_text_is_its_own_standard(text: str) -> None:
    """Making it standard twice is making it standard once."""
    assert standard(standard(text)) == standard(text)
