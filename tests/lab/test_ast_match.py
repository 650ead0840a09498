"""Each rule of BFCL's AST match, with the case beside it that must go the other way."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.lab.prove.suites.ast_match import Answer, answer_of, mismatch, standard
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
        ({"days": "next_week"}, {"days": ["next_week"]}, True),  # a variable: exactly
        ({"days": "next week"}, {"days": ["next_week"]}, False),
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


DEEP = Tool(
    "deep",
    parameters={
        "properties": {
            "text": {"type": "string"},
            "flags": {"type": "array", "items": {"type": "boolean"}},
            "ints": {"type": "array", "items": {"type": "integer"}},
            "floats": {"type": "array", "items": {"type": "number"}},
            "texts": {"type": "array", "items": {"type": "string"}},
            "lists": {"type": "array", "items": {"type": "array"}},
            "objects": {"type": "array", "items": {"type": "object"}},
            "any": {"type": "array"},
            "object": {"type": "object"},
            "number": {"type": "number"},
            "union": {"type": ["integer", "null"]},
            "untyped": {},
        }
    },
)
OWN_CHECKER_SAYS: list[tuple[str, Any, Any, bool]] = [
    ("floats", [1.0, 2.5], [[1.0, 2.5]], True),  # an integer is no item of a list of floats
    ("floats", [1, 2.5], [[1.0, 2.5]], False),
    ("floats", [1, 2.5], [[1, 2.5]], True),  # but where the accepted ones are integers
    ("floats", [1, 2], [[1.0, 2.0], [1, 2]], True),
    ("ints", [1.0], [[1]], False),
    ("ints", [True], [[1]], False),
    ("flags", [1], [[True]], False),
    ("texts", ["A b"], [["a_B"]], True),
    ("texts", ["a", 1], [["a", 1]], False),
    ("texts", [], [["a"]], False),
    ("texts", [], [["a"], ""], True),  # nothing, for what may be left out
    ("objects", [], [""], True),
    ("texts", [""], [""], False),
    ("object", {}, [""], False),
    ("text", [], ["a", ""], False),
    ("lists", [["A"]], [[["a"]]], False),  # a text in a list in a list is compared exactly
    ("lists", [["a"]], [[["a"]]], True),
    ("object", {"k": "A b"}, [{"k": ["ab"]}], True),
    ("object", {"k": ["A"]}, [{"k": [["a"]]}], False),
    ("object", {"k": ["a"]}, [{"k": [["a"]]}], True),
    ("object", {"k": {"x": "A"}}, [{"k": [{"x": "a"}]}], False),
    ("object", {"k": {"x": 1, "y": 50}}, [{"k": [{"x": 1.0, "y": 50}]}], True),  # bare values, as they stand
    ("object", {"k": {"x": 1}}, [{"k": [{"x": [1]}]}], False),
    ("object", {"k": {"x": 1, "z": 1}}, [{"k": [{"x": 1}]}], False),
    ("object", {"k": {}}, [{"k": [{"x": 1}]}], False),
    ("object", {"k": True}, [{"k": [1]}], True),  # a bool passes for an integer in an object
    ("object", {"k": 2}, [{"k": [True]}], False),
    ("object", {"k": 1}, [{"k": [1.0]}], True),
    ("object", {"k": None}, [{"k": [None]}], True),
    ("object", {}, [{"k": [1, ""]}], True),
    ("object", {}, [{"k": [1]}], False),
    ("object", {"k": 1}, ["", {"k": [1]}], True),
    ("objects", [{"k": "A"}], [[{"k": ["a"]}]], True),
    ("objects", [{"k": "A"}, {"k": "A"}], [[{"k": ["a"]}]], False),
    ("objects", [{"k": "b"}], [[{"k": ["a"]}], [{"k": ["b"]}]], True),
    ("objects", [1], [[{"k": ["a"]}]], False),
    ("text", "x_1", [1, "x_1"], True),  # the first accepted value is no text: exactly
    ("text", "X1", [1, "x_1"], False),
    ("object", "config", ["config"], True),
    ("object", "Config", ["config"], False),
    ("number", 3, [3.0], True),
    ("number", "3", [3.0], False),
]
HERE_ALONE: list[tuple[str, Any, Any, bool]] = [  # what the published data does not hold, or breaks its own checker
    ("object", {"k": 5}, [{"k": 5}], True),  # one accepted value, not in a list
    ("object", {"k": 6}, [{"k": 5}], False),
    ("object", {"k": "abc"}, [{"k": "abc"}], True),
    ("object", {"k": "a"}, [{"k": "abc"}], False),
    ("object", {}, [{"k": "abc"}], False),
    ("object", {"k": {"x": 1}}, [{"k": {"x": 1}}], True),
    ("object", {"k": 1}, [1], False),
    ("objects", [{"k": 1}], [[1]], False),
    ("number", 3, 3.0, True),
    ("text", "abc", "abc", True),
    ("text", "a", "abc", False),
    ("number", 10**400, [10**400], True),
    ("any", [{"k": "A"}, {}], [[{"k": ["a"]}, {}]], True),
    ("any", ["A"], [["a"]], True),
    ("union", None, [None, 3], True),
    ("union", 3, [None, 3], True),
    ("untyped", 1, [True], False),
    ("untyped", {"k": "A"}, [{"k": ["a"]}], True),
]


@pytest.mark.parametrize(("name", "value", "accepted", "expected"), [*OWN_CHECKER_SAYS, *HERE_ALONE])
def test_values_at_depth(name: str, value: Any, accepted: Any, expected: bool) -> None:
    """Items, objects, variables and what may be left out, as BFCL's own checker has them; the rest has one answer."""
    found = mismatch([Call("deep", {name: value})], [Answer("deep", {name: accepted})], [DEEP])
    assert (found is None) is expected, found


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


@pytest.mark.parametrize(
    ("name", "value", "others"),
    [
        ("text", "", [None, "a"]),  # an empty text is a text, not the mark of what may be left out
        ("floats", [2.5, 1], [[2.5], [1, 2.5]]),
        ("floats", [], [[0.0]]),
        ("object", {"k": ""}, [{}, {"k": "a"}]),
        ("object", {"k": [1]}, [{"k": 1}, {"k": [2]}]),
        ("objects", [{"k": ""}], [[{}], []]),
    ],
)
def test_an_answer_made_of_a_call_takes_nothing_else(name: str, value: Any, others: list[Any]) -> None:
    """Whatever the schema says, the same call fits; one that leaves the argument out, or has another, does not."""
    answer = answer_of("deep", {name: value})
    assert mismatch([Call("deep", {name: value})], [answer], [DEEP]) is None
    assert mismatch([Call("deep", {})], [answer], [DEEP]) == f"{name}: missing"
    for other in others:
        assert mismatch([Call("deep", {name: other})], [answer], [DEEP]) is not None


@given(st.text())
def test_a_standard_text_is_its_own_standard(text: str) -> None:
    """Making it standard twice is making it standard once."""
    assert standard(standard(text)) == standard(text)
