"""The box's chat template writes FunctionGemma's format."""

from __future__ import annotations

from typing import Any

import pytest
from jinja2 import TemplateError

from steerkit.tiny.world import render
from steerkit.tiny.world.conversations import KINDS, sample

USER = {"role": "user", "content": "What's the weather in Tokyo?"}


def call(name: str, arguments: dict[str, Any], identity: str | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return found if identity is None else {**found, "id": identity}


def asked(*calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": list(calls)}


def tool(name: str, properties: dict[str, Any] | None = None, **schema: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties or {}, **schema}
    return {"type": "function", "function": {"name": name, "description": "d", "parameters": parameters}}


@pytest.fixture
def rendered(tokenizer):
    def write(messages, tools=None, generate=False):
        return tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=generate, tokenize=False)

    return write


def test_a_turn_with_a_result_and_prose_is_one_model_turn(rendered):
    """Call, result and answer stand in the same model turn, as in the documented example."""
    text = rendered(
        [
            USER,
            asked(call("get_current_weather", {"location": "Tokyo, Japan"})),
            {
                "role": "tool",
                "content": {"name": "get_current_weather", "response": {"temperature": 15, "weather": "sunny"}},
            },
            {
                "role": "assistant",
                "content": "The current weather in Tokyo is sunny with a temperature of 15 degrees Celsius.",
            },
        ]
    )
    assert text == (
        "<bos><start_of_turn>user\nWhat's the weather in Tokyo?<end_of_turn>\n"
        "<start_of_turn>model\n<start_function_call>call:get_current_weather{location:<escape>Tokyo, Japan<escape>}"
        "<end_function_call><start_function_response>response:get_current_weather{temperature:15,"
        "weather:<escape>sunny<escape>}<end_function_response>The current weather in Tokyo is sunny with a temperature"
        " of 15 degrees Celsius.<end_of_turn>\n"
    )


def test_a_tool_without_arguments_keeps_its_parameters_object(rendered):
    """An empty declaration and an empty call have the documented bytes."""
    declared = tool("turn_off_flashlight")
    declared["function"]["description"] = "Turns the flashlight off."
    text = rendered([USER, asked(call("turn_off_flashlight", {}))], [declared])
    assert (
        "<start_of_turn>developer\n<start_function_declaration>declaration:turn_off_flashlight{description:<escape>"
        "Turns the flashlight off.<escape>,parameters:{type:<escape>OBJECT<escape>}}<end_function_declaration>"
        "<end_of_turn>\n"
    ) in text
    assert text.endswith("<start_function_call>call:turn_off_flashlight{}<end_function_call><start_function_response>")


def test_parallel_calls_and_their_results_are_adjacent(rendered):
    """Two calls follow each other without a separator, and so do their results, in call order."""
    calls = asked(call("get_weather", {"location": "Paris"}), call("get_weather", {"location": "London"}))
    results = {
        "role": "tool",
        "content": [{"name": "get_weather", "response": "sunny"}, {"name": "get_weather", "response": "rain"}],
    }
    text = rendered([USER, calls, results], generate=True)
    assert text.endswith(
        "<start_function_call>call:get_weather{location:<escape>Paris<escape>}<end_function_call>"
        "<start_function_call>call:get_weather{location:<escape>London<escape>}<end_function_call>"
        "<start_function_response>response:get_weather{value:<escape>sunny<escape>}<end_function_response>"
        "<start_function_response>response:get_weather{value:<escape>rain<escape>}<end_function_response>"
    )


def test_every_kind_of_value_has_its_form(rendered):
    """Strings, numbers, booleans, null, lists and objects are written as documented."""
    arguments = {
        "s": "v",
        "i": 123,
        "x": -4.5,
        "b": False,
        "n": None,
        "l": [1, "two", True, None, {"k": "v"}],
        "o": {"i": -678, "l": [10, 20], "o": {"k": "v"}},
    }
    expected = (
        "call:f{s:<escape>v<escape>,i:123,x:-4.5,b:false,n:null,l:[1,<escape>two<escape>,true,null,{k:<escape>v<escape>}],"
        "o:{i:-678,l:[10,20],o:{k:<escape>v<escape>}}}"
    )
    assert expected in rendered([USER, asked(call("f", arguments))])
    assert expected in render.call("f", arguments)


def test_nested_declarations_have_the_documented_form(rendered):
    """Objects and arrays in a declaration carry their properties, required keys and items."""
    nested = {"type": "object", "description": "obj", "required": ["a"]}
    nested["properties"] = {"a": {"type": "string", "description": "A"}}
    extensions = {"type": "array", "description": "e", "items": {"type": "string"}}
    text = rendered([USER], [tool("f", {"o": nested, "exts": extensions}, required=["o"])])
    assert (
        "parameters:{properties:{exts:{description:<escape>e<escape>,items:{type:<escape>STRING<escape>},"
        "type:<escape>ARRAY<escape>},o:{description:<escape>obj<escape>,properties:{a:{description:<escape>A<escape>,"
        "type:<escape>STRING<escape>}},required:[<escape>a<escape>],type:<escape>OBJECT<escape>}},"
        "required:[<escape>o<escape>],type:<escape>OBJECT<escape>}}<end_function_declaration>"
    ) in text


def test_keys_are_sorted_without_case_and_enums_stay(rendered):
    """Properties come sorted case-insensitively, and a string's enum stands before its type."""
    unit = {"type": "string", "description": "u", "enum": ["C", "F"]}
    text = rendered([USER], [tool("f", {"b": {"type": "integer"}, "A": unit})])
    assert (
        "properties:{A:{description:<escape>u<escape>,enum:[<escape>C<escape>,<escape>F<escape>],"
        "type:<escape>STRING<escape>},b:{description:<escape><escape>,type:<escape>INTEGER<escape>}}"
    ) in text


def test_a_parameter_may_have_a_keyword_for_its_name(rendered):
    """The published template loses a parameter named `type`; this one keeps it."""
    assert "type:{description:<escape>t<escape>,type:<escape>STRING<escape>}" in rendered(
        [USER], [tool("f", {"type": {"type": "string", "description": "t"}})]
    )


@pytest.mark.parametrize(
    ("response", "written"),
    [("sunny", "{value:<escape>sunny<escape>}"), ({"items": ["a"], "ok": True, "ratio": 0.5}, None)],
)
def test_results_are_splayed_or_wrapped(rendered, response, written):
    """A mapping becomes the result's own keys, anything else its `value`."""
    written = written or "{items:[<escape>a<escape>],ok:true,ratio:0.5}"
    message = {"role": "tool", "content": {"name": "f", "response": response}}
    text = rendered([USER, asked(call("f", {})), message], generate=True)
    assert text.endswith(f"<start_function_response>response:f{written}<end_function_response>")


def test_the_keys_of_a_result_are_sorted_and_those_of_a_call_are_not(rendered):
    """As the published template sorts them, without case and at every depth; a call stays as the model wrote it."""
    result = {"b": 1, "A": [{"d": 2, "c": {"f": 3, "E": 4}}]}
    text = rendered(
        [USER, asked(call("f", {"z": 1, "a": 2})), {"role": "tool", "content": {"name": "f", "response": result}}]
    )
    assert "call:f{z:1,a:2}" in text
    assert "response:f{A:[{c:{E:4,f:3},d:2}],b:1}" in text


def test_all_that_is_said_of_items_is_declared(rendered):
    """Every key of a list's items stands in the declaration, sorted, `nullable:false` too; what is null does not."""
    items = {"type": "string", "nullable": False, "minLength": 1, "enum": ["a"], "default": None}
    assert (
        "items:{enum:[<escape>a<escape>],minLength:1,nullable:false,type:<escape>STRING<escape>},type:<escape>ARRAY<escape>"
    ) in rendered([USER], [tool("f", {"l": {"type": "array", "items": items}})])


def test_a_developer_may_speak_in_between(rendered):
    """In a turn of its own, after an open one is closed."""
    text = rendered([USER, asked(call("f", {})), {"role": "system", "content": "mind"}, USER])
    assert "<end_function_call><end_of_turn>\n<start_of_turn>developer\nmind<end_of_turn>\n<start_of_turn>user" in text


@pytest.mark.parametrize("message", [{"name": "f"}, {"tool_call_id": "1"}])
def test_openai_results_find_their_tool(rendered, message):
    """A text result is wrapped, its tool named or found by the call's id; generation goes on in the same turn."""
    text = rendered(
        [USER, asked(call("f", {}, identity="1")), {"role": "tool", "content": "text", **message}], generate=True
    )
    assert text.endswith("<start_function_response>response:f{value:<escape>text<escape>}<end_function_response>")
    assert text.count("<start_of_turn>model") == 1


def test_the_developer_turn_holds_text_then_declarations(rendered):
    """The developer's text and the first declaration stand without a separator."""
    text = rendered([{"role": "developer", "content": "You are"}, USER], [tool("f")], generate=True)
    assert text.startswith("<bos><start_of_turn>developer\nYou are<start_function_declaration>declaration:f{")
    assert text.endswith("<end_of_turn>\n<start_of_turn>model\n")


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([USER, {"role": "tool", "name": "f", "content": "x"}], "follow the call"),
        ([USER, {"role": "assistant", "tool_calls": [call("f", "{}")]}], "mapping"),  # type: ignore[arg-type]
        ([USER, asked(call("f", {})), {"role": "tool", "content": "x"}], "name of its tool"),
        ([{"role": "judge", "content": "x"}], "Unknown role"),
    ],
)
def test_what_the_format_cannot_say_is_refused(rendered, messages, reason):
    """A history that the format has no place for is an error that says why."""
    with pytest.raises(TemplateError, match=reason):
        rendered(messages)


@pytest.mark.parametrize("kind", KINDS)
def test_the_fast_renderer_writes_what_the_template_writes(rendered, kind):
    """Training text is the template's text, to the character."""
    for example in sample(kind, "train", 15, seed=3):
        written = rendered(list(example.messages), list(example.tools) or None, generate=True)
        assert render.prompt(example.messages, example.tools) == written
