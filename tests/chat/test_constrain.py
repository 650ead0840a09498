"""Grammars of calls: one table of what they let through over all dialects, and the laws that hold for any tools."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steerkit.chat import (
    Dialect,
    Tokenizer,
    dialect_of,
    grammar_of,
    is_own,
    matcher,
    parse,
    reply_form,
    validate_arguments,
)
from steerkit.errors import SettingError
from steerkit.types import Call, Tool
from tests.chat import families

FAMILIES = ("functiongemma", "gemma4", "qwen2.5", "qwen3", "granite4")
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "to": {"type": "string", "maxLength": 3, "pattern": "^A"},
        "amount": {"type": "integer", "maximum": 500},
        "unit": {"enum": ["dollars", 'Zürich "x"', "日本"]},
        "ratio": {"type": "number"},
        "now": {"type": ["boolean", "null"]},
        "where": {
            "type": "object",
            "properties": {"lat": {"type": "number"}, "tags": {"type": "array", "items": {"type": "string"}}},
            "required": ["lat"],
        },
        "any": {},
        "counts": {"type": "object", "additionalProperties": {"type": "integer"}},
    },
    "required": ["to", "amount"],
}
TOOLS = (Tool("send", "", SCHEMA), Tool("math.add", "", {"type": "object", "properties": {}}))
GOOD: tuple[tuple[str, dict[str, Any]], ...] = (
    ("send", {"to": "Anna", "amount": 740}),
    ("send", {"amount": 5, "to": ""}),
    ("send", {"unit": "日本", "to": "{[,:]}", "amount": -3}),
    ("send", {"to": "x", "amount": 1, "unit": 'Zürich "x"', "ratio": 1e-7, "now": None}),
    ("send", {"where": {"tags": ["a", "b"], "lat": 1.5}, "to": "x\ny", "now": True, "amount": 0}),
    ("send", {"to": "x", "any": [1, {"k": ["v", None]}, -4.5], "amount": 1, "counts": {"a": 1, "b": 2}}),
    ("math.add", {}),
)
BAD: tuple[tuple[str, dict[str, Any]], ...] = (
    ("send", {"to": "Anna"}),
    ("send", {"to": "Anna", "amount": "5"}),
    ("send", {"to": 5, "amount": 5}),
    ("send", {"to": "Anna", "amount": 5, "unit": "euros"}),
    ("send", {"to": "Anna", "amount": 5, "more": 1}),
    ("send", {"to": "Anna", "amount": 5.5}),
    ("send", {"to": "Anna", "amount": 5, "where": {"tags": []}}),
    ("send", {"to": "Anna", "amount": 5, "counts": {"a": "1"}}),
    ("send", {"to": "Anna", "amount": None}),
    ("steal", {"to": "Anna", "amount": 5}),
    ("math.add", {"a": 1}),
)


def lets_through(tokenizer: Tokenizer, grammar: str, text: str) -> bool:
    """True if a grammar takes all tokens of a text."""
    found = matcher(tokenizer, grammar)
    return all(found.take(token) for token in tokenizer.encode(text, add_special_tokens=False))


def reply(dialect: Dialect, *calls: tuple[str, Mapping[str, Any]], before: str = "", ends: bool = True) -> str:
    """A reply with some calls, and the token that ends it."""
    gap = "\n" if dialect.syntax.layout else ""
    end = dialect.frame.end if ends else ""
    return before + gap.join(dialect.syntax.encode_call(name, dict(arguments)) for name, arguments in calls) + end


@pytest.fixture(params=FAMILIES)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    """One of each family."""
    return families.family(request.param)


def test_calls_of_the_tools_pass_and_no_others(tokenizer: Any) -> None:
    """One table for all dialects: structure is refused, ranges, patterns and lengths are not looked at."""
    dialect = dialect_of(tokenizer)
    for choice in ("auto", "required"):
        grammar = grammar_of(dialect, TOOLS, reply_form(TOOLS, choice))
        for call in GOOD:
            assert lets_through(tokenizer, grammar, reply(dialect, call)), (choice, call)
        for call in BAD:
            assert not lets_through(tokenizer, grammar, reply(dialect, call)), (choice, call)
        assert lets_through(tokenizer, grammar, reply(dialect, GOOD[0], GOOD[6]))


def test_keys_come_in_any_order_and_none_twice(tokenizer: Any) -> None:
    """The set of keys is kept over the call; a required one that is missing keeps the call open."""
    dialect = dialect_of(tokenizer)
    grammar = grammar_of(dialect, TOOLS, reply_form(TOOLS, "send"))
    once, twice = reply(dialect, ("send", {"to": "x", "amount": 1})), reply(dialect, ("send", {"to": "x", "amount": 1}))
    colon = dialect.syntax.written.colon
    pair = twice[twice.index("amount") : twice.index(f"1{twice[twice.index('amount') :].split('1', 1)[1][0]}") + 1]
    assert colon in pair
    doubled = twice.replace(pair, pair + dialect.syntax.written.comma + ('"' if '"amount"' in twice else "") + pair)
    assert lets_through(tokenizer, grammar, once)
    assert not lets_through(tokenizer, grammar, doubled)
    assert not lets_through(tokenizer, grammar, once.replace(dialect.syntax.call.end, ""))


SEND = {"type": "function", "function": {"name": "send"}}
CHOICES: tuple[tuple[Any, dict[str, Any], tuple[bool, ...]], ...] = (
    # what is asked for, and whether text, one call, two calls, and a call of the other tool pass
    ("auto", {}, (True, True, True, True)),
    ("required", {}, (False, True, True, True)),
    ("send", {}, (False, True, False, False)),
    ({"type": "function", "function": {"name": "send"}}, {}, (False, True, False, False)),
    ({"type": "function", "name": "send"}, {}, (False, True, False, False)),
    ("auto", {"parallel_tool_calls": False}, (True, True, False, True)),
    (None, {"parallel_tool_calls": False}, (True, True, False, True)),
    (
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "send"}]},
        {},
        (False, True, True, False),
    ),
    (
        {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "send"}}]},
        },
        {},
        (True, True, True, False),
    ),
    ("auto", {"response_format": {"type": "json_object"}}, (False, True, True, True)),
)


@pytest.mark.parametrize(("choice", "more", "passes"), CHOICES)
@pytest.mark.parametrize("family", ["functiongemma", "qwen2.5"])
def test_a_choice_says_what_a_reply_may_be(family: str, choice: Any, more: Any, passes: tuple[bool, ...]) -> None:
    """Text, one call, two calls, and a call of another tool, for each choice."""
    tokenizer = families.family(family)
    dialect = dialect_of(tokenizer)
    grammar = grammar_of(dialect, TOOLS, reply_form(TOOLS, choice, **more))
    tried = (
        reply(dialect, before="Hello."),
        reply(dialect, GOOD[0]),
        reply(dialect, GOOD[0], GOOD[1]),
        reply(dialect, GOOD[6]),
    )
    assert tuple(lets_through(tokenizer, grammar, text) for text in tried) == passes


def test_a_text_of_a_schema(tokenizer: Any) -> None:
    """A response format lets JSON of its structure through, and no other text."""
    dialect = dialect_of(tokenizer)
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 3}}, "required": ["n"]}
    form = reply_form((), None, None, {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    grammar = grammar_of(dialect, (), form)
    assert lets_through(tokenizer, grammar, reply(dialect, before='{"n": 7}'))
    for text in ('{"n": "7"}', "{}", "seven", '{"n": 7} and more'):
        assert not lets_through(tokenizer, grammar, reply(dialect, before=text)), text


def test_strict_false_leaves_the_arguments_free(tokenizer: Any) -> None:
    """Without `strict: false` the schema's structure holds."""
    dialect, call = dialect_of(tokenizer), ("send", {"other": [1]})
    for strict, passes in ((None, False), (True, False), (False, True)):
        tools = (Tool("send", "", SCHEMA, strict),)
        grammar = grammar_of(dialect, tools, reply_form(tools, "auto"))
        assert lets_through(tokenizer, grammar, reply(dialect, call)) is passes


def test_only_the_users_words(tokenizer: Any) -> None:
    """An argument that must be the user's own is whole words, or a number, of their text."""
    dialect, texts = dialect_of(tokenizer), ('Please send 1,250 to "Anna\nBerg" in Zürich', "or 20 to Bob")
    grammar = grammar_of(
        dialect, TOOLS, reply_form(TOOLS, "auto"), own={"send": frozenset({"to", "amount", "any"})}, texts=texts
    )
    good = (
        {"to": "Bob", "amount": 20},
        {"to": '"Anna\nBerg"', "amount": 1250},
        {"to": "Zürich", "amount": 20, "any": ["Anna"]},
    )
    bad = (
        {"to": "Bo", "amount": 20},
        {"to": "Eve", "amount": 20},
        {"to": "Bob", "amount": 21},
        {"to": "", "amount": 20},
    )
    for arguments, passes in (*((one, True) for one in good), *((one, False) for one in bad)):
        assert lets_through(tokenizer, grammar, reply(dialect, ("send", arguments))) is passes, arguments
        assert all(is_own(value, texts) for value in arguments.values()) is passes, arguments


NAMES = st.text("abcdefXYZ_-.09", min_size=1, max_size=6)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="<>|"), max_size=8)
NUMBERS = st.integers(-(10**20), 10**20) | st.floats(-1e300, 1e300)
SCALARS = st.sampled_from([{"type": "string"}, {"type": "integer"}, {"type": "number"}, {"type": "boolean"}, {}])
ENUMS = st.lists(TEXTS | st.integers(-9, 9) | st.booleans(), min_size=1, max_size=4).map(lambda some: {"enum": some})


def objects(inner: Any) -> Any:
    """Schemas of objects with some keys required."""
    return st.dictionaries(NAMES, inner, max_size=4).flatmap(
        lambda keys: (
            st.lists(st.sampled_from(sorted(keys)), unique=True).map(
                lambda required: {"type": "object", "properties": keys, "required": required}
            )
            if keys
            else st.just({"type": "object", "additionalProperties": False})
        )
    )


def wider(inner: Any) -> Any:
    """Schemas of lists, objects and alternatives of others."""
    lists = inner.map(lambda one: {"type": "array", "items": one})
    nullable = inner.map(lambda one: {"anyOf": [one, {"type": "null"}]})
    return lists | objects(inner) | nullable


SCHEMAS = objects(st.recursive(SCALARS | ENUMS, wider, max_leaves=6))


def values(schema: Mapping[str, Any]) -> Any:
    """Values that fit a schema."""
    if "anyOf" in schema:
        return st.one_of([values(one) for one in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema.get("type"):
        case "string":
            return TEXTS
        case "integer":
            return st.integers(-(10**20), 10**20)
        case "number":
            return NUMBERS
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case "array":
            return st.lists(values(schema["items"]), max_size=3)
        case "object":
            keys = schema.get("properties", {})
            required = {key: values(one) for key, one in keys.items() if key in schema.get("required", ())}
            optional = {key: values(one) for key, one in keys.items() if key not in required}
            return st.fixed_dictionaries(required, optional=optional).flatmap(
                lambda made: st.permutations(sorted(made)).map(lambda order: {key: made[key] for key in order})
            )
    return TEXTS | NUMBERS | st.none()


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.parametrize("family", ["functiongemma", "gemma4", "qwen2.5"])
def test_every_call_that_fits_is_let_through(family: str, data: st.DataObject) -> None:
    """A call of arguments that fit the schema, as the dialect writes it, passes the tool's grammar, and parses."""
    tokenizer = families.family(family)
    dialect, schema = dialect_of(tokenizer), data.draw(SCHEMAS)
    tool, arguments = Tool("f", "", schema), data.draw(values(schema))
    text = reply(dialect, ("f", arguments))
    (call,) = parse(tokenizer, tokenizer.encode(text, add_special_tokens=False)).calls
    assert isinstance(call, Call)
    assert validate_arguments(tool, call.arguments) is None
    grammar = grammar_of(dialect, [tool], reply_form([tool], "required"))
    assert lets_through(tokenizer, grammar, text), (json.dumps(schema), text, grammar)


def test_settings_are_refused_by_name() -> None:
    """What is none of the forms is an error that begins with the setting."""
    wrong: tuple[tuple[str, dict[str, Any]], ...] = (
        ("tool_choice", {"tool_choice": "steal"}),
        ("tool_choice", {"tool_choice": {"type": "custom"}}),
        ("tool_choice", {"tool_choice": {"type": "function"}}),
        ("tool_choice.allowed_tools", {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}),
        ("parallel_tool_calls", {"parallel_tool_calls": "no"}),
        ("response_format", {"response_format": {"type": "xml"}}),
        ("response_format.json_schema.schema", {"response_format": {"type": "json_schema", "json_schema": {}}}),
        ("stop", {"stop": [""]}),
        ("stop", {"stop": ["x"] * 17}),
    )
    for setting, given_settings in wrong:
        with pytest.raises(SettingError, match=rf"^{setting}: got"):
            reply_form(TOOLS, **given_settings)
    with pytest.raises(SettingError, match="required and no tools"):
        reply_form((), "required")
