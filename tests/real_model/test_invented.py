"""Invented functions and values made anew: a request says what its call holds, and nothing that it does not hold."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from steerkit.chat import as_tools
from steerkit.chat.arguments import undeclared_arguments, validate_arguments
from steerkit.engine import tool_from_function
from steerkit.lab.prove.suites import read_bfcl
from tests.real_model.bfcl_folder import function, write_bfcl

NUMBERS = {
    word: n
    for n, word in enumerate(
        ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"], 2
    )
}


@pytest.fixture(scope="module")
def invented() -> list[dict[str, Any]]:
    import dataset
    from conversations import INVENTED, Writer, of_invented

    return dataset._some(Writer(3, "tune").groups(INVENTED, of_invented, 4), 400)


def entry(type: str, kind: str, fragment: str, ask: str = "find {noun} in {place}") -> Any:
    """A function with one parameter beside the place, said by one fragment."""
    import invented as made
    from catalogue import Entry, Parameter

    slot = made.Slot(["x"], type, ["The x."], kind, [fragment])
    asks = [made._with(ask, [("x", slot)], "shops", random.Random(0))]
    kinds = {
        "place": Parameter("string", "Where.", "place", False),
        "x": Parameter(type.rstrip("?"), "The x.", kind, type[-1] == "?"),
    }
    return Entry(["f"], ["Finds."], kinds, asks, held=0)


@pytest.mark.parametrize(
    ("type", "kind", "fragment", "value", "said", "text"),
    [
        ("boolean?", "mostly", "{x?including tax:without tax}", True, "yes", "find shops in Riga including tax"),
        ("boolean?", "mostly", "{x?including tax:without tax}", False, "no", "find shops in Riga without tax"),
        ("boolean?", "yes", "that are open", True, "yes", "find shops in Riga that are open"),
        ("boolean?", "mostly", "{x?, prices included:, no prices}", True, "yes", "find shops in Riga, prices included"),
        ("number", "percentage", "at {x}", 0.05, "5%", "find shops in Riga at 5%"),
        ("integer?", "few", "<{x}", 3, "three", "find three shops in Riga"),
        ("array:string", "phrases", "with {x}", ["oak ax"], "oak ax", "find shops in Riga with oak ax"),
        ("array:string", "phrases", "with {x}", ["ax", "tin"], "ax and tin", "find shops in Riga with ax and tin"),
        ("integer", "dollars", "under ${x}", 12000, "12,000", "find shops in Riga under $12,000"),
    ],
)  # fmt: skip
def test_a_request_says_the_value(type: str, kind: str, fragment: str, value: Any, said: str, text: str) -> None:
    """The wording's text and the call's value, for each kind of parameter."""
    from catalogue import request_of
    from values import Value

    one = entry(type, kind, fragment)
    (wording,) = one.wordings("tune")
    assert ("[" in wording) is type.endswith("?")
    drawn = {"place": Value("Riga", "Riga"), "x": Value(value, said)}
    request = request_of(one, wording.replace("[", "").replace("]", ""), wording, drawn)
    assert request.text == text
    assert {key: one.value for key, one in request.values.items()} == {"place": "Riga", "x": value}


@pytest.mark.parametrize(
    "kind", ["few", "many", "dollars", "millions", "percentage", "decimal", "signed_any", "mixed", "phrases"]
)
def test_what_people_say_is_the_value(kind: str) -> None:
    """Read back by rules of this test: `10,000`, `three`, `5 million`, `5%`, `a, b and c`, `['a', 'b']`."""
    from values import Values

    values = Values(random.Random(kind), "tune")
    for _ in range(300):
        value, said = values.draw(kind)
        items = re.split(r", | and ", re.sub(r"[\[\]'\"]", "", said)) if isinstance(value, list) else [said]
        read = [_read(item) for item in items]
        assert (read if isinstance(value, list) else read[0]) == value, said


def _read(said: str) -> float | str:
    if said in NUMBERS:
        return NUMBERS[said]
    found = re.fullmatch(r"(-?[\d,.]+)(%| percent| million| thousand)?", said)
    if not found:
        return said
    number = float(found[1].replace(",", ""))
    return round(number * {"%": 0.01, " percent": 0.01, " million": 1e6, " thousand": 1e3, None: 1}[found[2]], 6)


def test_calls_fit_their_schemas_and_their_requests(invented: list[dict[str, Any]]) -> None:
    """Required arguments are there, types and enums hold, and every text that is copied stands in the request."""
    calls = 0
    for row in invented:
        tools = {tool.name: tool for tool in as_tools(row["tools"], from_function=tool_from_function)}
        asked = row["messages"][-2]["content"]
        for call in row["messages"][-1].get("tool_calls", ()):
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            assert validate_arguments(tools[name], arguments) is None
            assert undeclared_arguments(tools[name], arguments) is None
            calls += 1
            for value in arguments.values():
                for text in value if isinstance(value, list) else [value]:
                    if isinstance(text, str) and not re.fullmatch(r"\d{4}-\d\d-\d\d", text):
                        assert text in asked or text.replace("_", " ") in asked
    assert calls > 250


def test_an_optional_argument_is_there_if_it_is_mentioned() -> None:
    """Its fragment's own words are in the request if and only if the call has it; every wording may mention each."""
    import invented as made
    from catalogue import Tool
    from values import Values

    rng = random.Random(8)
    seen: Counter[bool] = Counter()
    for _ in range(120):
        for one in made.family(rng):
            tool, values = Tool(one, rng), Values(rng, "tune")
            request = tool.ask(values)
            assert all(re.search(rf"\{{{key}[?}}]", request.wording) for key in one.parameters), request.wording
            marked = set(re.findall(r"\[[^\]]*?\{(\w+)[?}][^\]]*\]", request.wording))
            for key in marked:
                (bracket,) = re.findall(rf"\[([^\]]*?\{{{key}[?}}][^\]]*)\]", request.wording)
                words = [part for part in re.split(r"\{\w+\?|:|\}|\{\w+\}", bracket) if len(part.strip()) > 8]
                mentioned = any(part.strip() in request.text for part in words)
                seen[key in request.values] += 1
                assert not words or mentioned == (key in request.values), (request.wording, request.text)
            assert {key for key, p in one.parameters.items() if not p.optional} <= set(request.values)
    assert min(seen.values()) > 50


def test_values_are_not_drawn_from_short_lists() -> None:
    """300 draws have more than 200 different values in the tuning; in reports they are those of the list alone."""
    from values import Values, listed

    for kind in ("account", "product", "title", "query", "site", "command", "restaurant", "city"):
        made = {str(Values(random.Random(n), "tune").draw(kind).value) for n in range(300)}
        assert len(made) > 150, kind
        for split in ("choose", "report"):
            reported = {Values(random.Random(n), split).draw(kind).value for n in range(300)}  # type: ignore[arg-type]
            assert reported == set(listed(kind, split)), kind  # type: ignore[arg-type]


def test_refusals_are_of_tools_that_are_not_declared(invented: list[dict[str, Any]]) -> None:
    """A function near to the declared ones is asked for, and refused."""
    near = 0
    for row in invented:
        if "tool_calls" in row["messages"][-1]:
            continue
        asked = row["messages"][-2]["content"].lower()
        for tool in row["tools"]:
            said = tool["function"]["description"].lower()
            near += bool(set(re.findall(r"\w{5,}", said)) & set(re.findall(r"\w{5,}", asked)))
    assert near > 5


def test_nothing_of_the_scored_tests_is_kept(tmp_path: Path, invented: list[dict[str, Any]]) -> None:
    """A made conversation with a scored test's function, question or value is dropped. Control: the others stay."""
    import dataset

    calling = [row for row in invented if row["messages"][-1].get("tool_calls")]
    texts = [
        (row, value)
        for row in calling
        for value in row["messages"][-1]["tool_calls"][0]["function"]["arguments"].values()
        if isinstance(value, str) and " " in value
    ]
    one, other, (third, value) = calling[0], calling[20], texts[-1]
    name, asked = one["tools"][0]["function"]["name"], other["messages"][-2]["content"]
    folder = write_bfcl(tmp_path)
    test = {"question": [[{"role": "user", "content": asked.upper()}]], "function": [function(name, x="string")]}
    for path, row in (("", test), ("possible_answer/", {"ground_truth": [{name: {"x": [value]}}]})):
        row = {"id": "simple_python_0", **row}
        (folder / f"{path}BFCL_v4_simple_python.json").write_text(json.dumps(row) + "\n", encoding="utf-8")
    kept = dataset.without_tested(invented, read_bfcl(folder))
    assert not [row for row in (one, other, third) if row in kept]
    assert len(kept) > len(invented) - 40
