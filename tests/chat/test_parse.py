"""The parser: every case of the format, spans, bounds, streams and noise."""

from __future__ import annotations

import math
from typing import Any

import pytest

from steerkit.chat import encode_call, parse
from steerkit.errors import MessageError
from steerkit.types import Call, MalformedCall
from tests.chat.conftest import ids_of

E = "<escape>"
DEEP = "[" * 33 + "]" * 33

VALID = {
    "typed": ("f{a:1,b:-4.5,c:true,d:null}", {"a": 1, "b": -4.5, "c": True, "d": None}),
    "python null": ("f{a:None}", {"a": None}),
    "literal punctuation": (f"f{{a:{E}x, {{1}} [y]{E},b:2}}", {"a": "x, {1} [y]", "b": 2}),
    "nested": (f"f{{o:{{x:{E}v{E},y:{{z:[1,2]}}}},b:2}}", {"o": {"x": "v", "y": {"z": [1, 2]}}, "b": 2}),
    "strings stay strings": (f"f{{a:{E}true{E},b:{E}5{E}}}", {"a": "true", "b": "5"}),
    "no braces": ("f", {}),
    "empty braces": ("f{}", {}),
    "space after comma": ("f{a:1, b:2}", {"a": 1, "b": 2}),
    "space everywhere": (f" f {'{'} a : {E}x{E} , b : [ 1 , 2 ] {'}'} ", {"a": "x", "b": [1, 2]}),
    "big integer": (f"f{{a:{10**40}}}", {"a": 10**40}),
    "floats": ("f{a:1000.0,b:1e3}", {"a": 1000.0, "b": 1000.0}),
    "empty string": (f"f{{a:{E}{E}}}", {"a": ""}),
    "unicode": (f"f{{a:{E}vé 😀 日本{E}}}", {"a": "vé 😀 日本"}),
    "newline and quotes": (f'f{{a:{E}a\n"b"{E}}}', {"a": 'a\n"b"'}),
    "every kind": (
        f"f{{s:{E}v{E},i:123,x:-4.5,b:false,n:null,l:[1,{E}two{E},true,null,{{k:{E}v{E}}}],o:{{i:-678,l:[10,20]}}}}",
        {
            "s": "v",
            "i": 123,
            "x": -4.5,
            "b": False,
            "n": None,
            "l": [1, "two", True, None, {"k": "v"}],
            "o": {"i": -678, "l": [10, 20]},
        },
    ),
}

MALFORMED = {
    "duplicate key": ("call:f{a:1,a:2}", "got the key 'a' twice"),
    "duplicate nested key": ("call:f{o:{a:1,a:2}}", "got the key 'a' twice"),
    "escape in string": (f"call:f{{a:{E}x{E}y{E}}}", "expected ',' or '}'"),
    "control token in string": (
        f"call:f{{a:{E}x<start_of_turn>y{E}}}",
        "control token <start_of_turn> inside a string",
    ),
    "stray response": ("call:f{a:<end_function_response>}", "got '<end_function_response>', expected a value"),
    "half a number": ("call:f{a:1.}", "got '1.', expected <escape>"),
    "plus": ("call:f{a:+1}", "got '+1'"),
    "python true": ("call:f{a:True}", "got 'True'"),
    "not a number": ("call:f{a:NaN}", "got 'NaN'"),
    "two values": ("call:f{a:1 2}", "got '2', expected ',' or '}'"),
    "no comma": (f"call:f{{a:{E}x{E}b:1}}", "got 'b', expected ',' or '}'"),
    "no value": ("call:f{a:}", "got '}', expected a value"),
    "number in another script": ("call:f{a:\u0661}", "got '\u0661'"),
    "key in another script": ("call:f{é:1}", "got 'é', expected a key"),
    "wrong bracket": ("call:f{a:[1}}", "got '}', expected ',' or ']'"),
    "escape in a name": (f"call:f{E}x{E}{{a:1}}", "expected the end of the call"),
    "two calls in one": ("call:f{}call:g{}", "got 'c', expected the end of the call"),
    "nested call": ("call:f{a:<start_function_call>call:g{}}", "<start_function_call>"),
    "unclosed string": (f"call:f{{a:{E}x}}", "a string that is never closed"),
    "unclosed object": ("call:f{a:1", "got the end of the call, expected ',' or '}'"),
    "trailing comma": ("call:f{a:1,}", "got '}', expected a key"),
    "trailing comma in list": ("call:f{a:[1,]}", "got ']', expected a value"),
    "quote": ('call:f{a:"x"}', "got '\"x\"', expected <escape>"),
    "no key": ("call:f{1}", "expected ':'"),
    "no call": ("f{a:1}", "expected 'call:'"),
    "no name": ("call:{a:1}", "got '{', expected a tool's name"),
    "empty": ("", "got the end of the call, expected 'call:'"),
    "after the end": ("call:f{}x", "expected the end of the call"),
    "infinity": ("call:f{a:1e999}", "expected a number that a float can hold"),
    "leading zero": ("call:f{a:007}", "got '007'"),
    "bare word": ("call:f{a:yes}", "got 'yes'"),
    "too deep": (f"call:f{{a:{DEEP}}}", "more than 32 objects and lists"),
    "too many digits": (f"call:f{{a:{'1' * 1001}}}", "a number of 1001 characters"),
    "quoted key": (f"call:f{{{E}a{E}:1}}", "expected a key"),
}


def call_of(tokenizer: Any, inside: str) -> Any:
    """What stands between the call's control tokens, parsed."""
    parsed = parse(tokenizer, ids_of(tokenizer, f"<start_function_call>{inside}<end_function_call>"))
    (call,) = parsed.calls
    return call


@pytest.mark.parametrize("case", VALID)
def test_valid_calls_keep_every_value_and_type(tokenizer: Any, case: str) -> None:
    """Each case gives exactly its values, integers as integers and floats as floats."""
    written, expected = VALID[case]
    call = call_of(tokenizer, f"call:{written}")
    assert isinstance(call, Call), call
    assert (call.name, repr(dict(call.arguments))) == ("f", repr(expected))


def test_names_may_have_dots_and_dashes(tokenizer: Any) -> None:
    """`math.add-2` is a name, kept whole."""
    assert call_of(tokenizer, "call:math.add-2{}").name == "math.add-2"


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_calls_are_values_with_their_error(tokenizer: Any, case: str) -> None:
    """Nothing is repaired: the error, its token and the raw text come back, and text after it goes on."""
    inside, error = MALFORMED[case]
    text = f"<start_function_call>{inside}<end_function_call>"
    ids = ids_of(tokenizer, text)
    parsed = parse(tokenizer, [*ids, *ids_of(tokenizer, "ok")], offset=50)
    (call,) = parsed.calls
    assert isinstance(call, MalformedCall), call
    assert error in call.error
    assert 50 <= call.position <= 50 + len(ids)
    assert call.raw == text
    assert call.span == (50, 50 + len(ids))
    assert parsed.text == "ok"


def test_a_truncated_call_is_malformed(tokenizer: Any) -> None:
    """Cut off by the length or by a stop token, a call is never completed."""
    whole = ids_of(tokenizer, "<start_function_call>call:f{a:1}<end_function_call>")
    for end in range(1, len(whole)):
        assert isinstance(parse(tokenizer, whole[:end]).calls[0], MalformedCall)
    assert isinstance(parse(tokenizer, whole).calls[0], Call)
    stopped = parse(tokenizer, ids_of(tokenizer, "<start_function_call>call:f{a:1}<end_of_turn>"))
    assert "got <end_of_turn>" in stopped.calls[0].error  # type: ignore[union-attr]
    assert stopped.finish == "stop"


def test_spans_are_the_tokens_of_name_keys_and_values(tokenizer: Any) -> None:
    """Decoding each span gives back what was written there, delimiters included."""
    ids = ids_of(
        tokenizer, f"hi<start_function_call>call:get_weather{{location:{E}Paris{E},n:[1, 2]}}<end_function_call>"
    )
    (call,) = parse(tokenizer, ids, offset=10).calls
    assert isinstance(call, Call)

    def text(span: tuple[int, int]) -> str:
        return str(tokenizer.decode(ids[span[0] - 10 : span[1] - 10])).strip()

    assert text(call.name_span) == "get_weather"
    assert [text(part.key_span) for part in call.parts] == ["location", "n"]
    assert [text(part.value_span) for part in call.parts] == [f"{E}Paris{E}", "[1, 2]"]
    assert ids[call.span.start - 10] == ids_of(tokenizer, "<start_function_call>")[0]
    assert ids[call.span.end - 11] == ids_of(tokenizer, "<end_function_call>")[0]


def test_escape_typed_as_text_spoofs_nothing(tokenizer: Any) -> None:
    """The characters `<escape>` inside a string are text; the token would end it."""
    typed = tokenizer.encode(f"{E},b:2", add_special_tokens=False, split_special_tokens=True)
    ids = [
        *ids_of(tokenizer, f"<start_function_call>call:f{{a:{E}x"),
        *typed,
        *ids_of(tokenizer, f"{E}}}<end_function_call>"),
    ]
    (call,) = parse(tokenizer, ids).calls
    assert isinstance(call, Call)
    assert call.arguments == {"a": f"x{E},b:2"}


def test_parallel_calls_and_text_around_them(tokenizer: Any) -> None:
    """Adjacent calls come in order; text before and after is kept apart; the finish is what stopped the reply."""
    calls = encode_call("f", {"a": 1}) + encode_call("g", {})
    parsed = parse(tokenizer, ids_of(tokenizer, f"one{calls}two<start_function_response>ignored"))
    assert [call.name for call in parsed.calls if isinstance(call, Call)] == ["f", "g"]
    assert (parsed.text, parsed.finish) == ("onetwo", "tool_call")
    assert parse(tokenizer, ids_of(tokenizer, "hi<end_of_turn>")).finish == "stop"
    assert parse(tokenizer, ids_of(tokenizer, "hi<eos>")).finish == "stop"
    assert parse(tokenizer, ids_of(tokenizer, "hi")).finish == "length"


def test_stray_control_tokens_are_malformed_calls(tokenizer: Any) -> None:
    """Structure outside its place is seen, not swallowed into the text."""
    for token in ("<end_function_call>", "<start_of_turn>", E, "<end_function_response>"):
        parsed = parse(tokenizer, ids_of(tokenizer, f"a{token}b"))
        assert parsed.text == "ab"
        assert parsed.calls[0].error == f"got a stray {token}, expected text or <start_function_call>"  # type: ignore[union-attr]


def test_calls_are_bounded_in_length_and_number(tokenizer: Any) -> None:
    """More than 4,096 tokens in a call, or more than 63 calls, are malformed; just below, they are not."""
    one = ids_of(tokenizer, encode_call("f", {}))
    start, *body, end = one
    blank = ids_of(tokenizer, "call:f{}\n")[-1]
    fits = [start, *body, *[blank] * (4096 - len(body)), end]
    assert isinstance(parse(tokenizer, fits).calls[0], Call)
    assert "expected at most 4096" in parse(tokenizer, [*fits[:-1], blank, end]).calls[0].error  # type: ignore[union-attr]
    many = parse(tokenizer, one * 100).calls
    assert len(many) == 64
    assert all(isinstance(call, Call) for call in many[:63])
    assert "more than 63 calls" in many[63].error  # type: ignore[union-attr]


CANNOT = {
    "escape": ("f", {"a": f"x{E}"}, "holds <escape>"),
    "control token": ("f", {"a": [{"b": "x<end_function_call>"}]}, "holds <end_function_call>"),
    "name": ("f g", {}, "expected letters"),
    "key": ("f", {"a": {"b c": 1}}, "expected letters"),
    "no number": ("f", {"a": math.nan}, "got nan"),
    "infinite": ("f", {"a": [-math.inf]}, "got -inf"),
}


@pytest.mark.parametrize("case", CANNOT)
def test_what_the_wire_cannot_carry_is_not_written(case: str) -> None:
    """A value that would be read back as something else is refused; its harmless neighbour is written."""
    name, arguments, error = CANNOT[case]
    with pytest.raises(MessageError, match=error):
        encode_call(name, arguments)  # type: ignore[arg-type]
    assert encode_call("f", {"a": "x<escape"}) == f"<start_function_call>call:f{{a:{E}x<escape{E}}}<end_function_call>"


SURROUNDINGS = {
    "one turn with a result": (
        f"<start_function_call>call:get_current_weather{{location:{E}Tokyo, Japan{E}}}<end_function_call>"
        f"<start_function_response>response:get_current_weather{{temperature:15,weather:{E}sunny{E}}}",
        [("get_current_weather", {"location": "Tokyo, Japan"})],
        "",
        "tool_call",
    ),
    "prose": (
        "The current weather in Tokyo is sunny.<end_of_turn>",
        [],
        "The current weather in Tokyo is sunny.",
        "stop",
    ),
    "no arguments": (
        "<start_function_call>call:turn_off_flashlight{}<end_function_call>",
        [("turn_off_flashlight", {})],
        "",
        "length",
    ),
    "parallel": (
        f"<start_function_call>call:get_weather{{location:{E}Paris{E}}}<end_function_call>"
        f"<start_function_call>call:get_weather{{location:{E}London{E}}}<end_function_call><start_function_response>",
        [("get_weather", {"location": "Paris"}), ("get_weather", {"location": "London"})],
        "",
        "tool_call",
    ),
    "dotted name": (
        "<start_function_call>call:math.add{a:1}<end_function_call><eos>",
        [("math.add", {"a": 1})],
        "",
        "stop",
    ),
}


@pytest.mark.parametrize("case", SURROUNDINGS)
def test_worked_examples_of_the_format(tokenizer: Any, case: str) -> None:
    """Whole replies give their calls in order, the text outside them, and what stopped them."""
    reply, expected, text, finish = SURROUNDINGS[case]
    parsed = parse(tokenizer, ids_of(tokenizer, reply))
    assert [(call.name, call.arguments) for call in parsed.calls if isinstance(call, Call)] == expected
    assert (len(parsed.calls), parsed.text, parsed.finish) == (len(expected), text, finish)


def test_nothing_is_read_after_a_stop(tokenizer: Any) -> None:
    """A call after a stop token is not there; before it, it is."""
    call, stop = ids_of(tokenizer, encode_call("f", {})), ids_of(tokenizer, "<end_of_turn>")
    assert parse(tokenizer, [*stop, *call]).calls == ()
    assert len(parse(tokenizer, [*call, *stop]).calls) == 1


@pytest.mark.parametrize("count", [32, 33])
def test_the_bounds_are_where_they_are_said_to_be(tokenizer: Any, count: int) -> None:
    """Thirty-two levels of objects or lists are read, and 1,000 digits; one more is malformed."""
    fits = count == 32
    lists, objects = "[" * count + "]" * count, "{k:" * (count - 1) + "{}" + "}" * (count - 1)
    digits = "9" * (1000 if fits else 1001)
    for written in (lists, objects, digits, f"-{digits[:-1]}" if fits else f"-{digits}"):
        assert isinstance(call_of(tokenizer, f"call:f{{a:{written}}}"), Call if fits else MalformedCall), written


def test_broken_bytes_are_no_text(tokenizer: Any) -> None:
    """Half a character inside a call is malformed and outside it is the replacement character; a whole one is text."""
    whole = ids_of(tokenizer, "😀")
    opened, closed = (
        ids_of(tokenizer, f"<start_function_call>call:f{{a:{E}"),
        ids_of(tokenizer, f"{E}}}<end_function_call>"),
    )
    assert parse(tokenizer, [*opened, *whole, *closed]).calls[0].arguments == {"a": "😀"}  # type: ignore[union-attr]
    (broken,) = parse(tokenizer, [*opened, *whole[:-1], *closed]).calls
    assert isinstance(broken, MalformedCall)
    assert "bytes that are no UTF-8 inside a string" in broken.error
    assert broken.position == len(opened) + len(whole) - 2
    assert parse(tokenizer, [*whole, *whole[:-1]]).text == "😀\ufffd"


POSITIONS = {
    "trailing comma": ("call:f{a:1,", "}"),
    "duplicate": ("call:f{a:1,", "a:2}"),
    "control token": (f"call:f{{a:{E}x", f"<start_of_turn>y{E}}}"),
    "bare word": ("call:f{a:", "yes}"),
    "after the end": ("call:f{}", "x"),
}


@pytest.mark.parametrize("case", POSITIONS)
def test_the_position_is_the_token_that_is_wrong(tokenizer: Any, case: str) -> None:
    """A malformed call points at the first token of what was not expected, counted from the offset."""
    right, wrong = (ids_of(tokenizer, part) for part in POSITIONS[case])
    start, end = ids_of(tokenizer, "<start_function_call><end_function_call>")
    (call,) = parse(tokenizer, [start, *right, *wrong, end], offset=7).calls
    assert isinstance(call, MalformedCall)
    assert call.position == 7 + 1 + len(right)


def test_malformed_calls_leave_the_others_alone(tokenizer: Any) -> None:
    """Between two good calls a bad one is a value of its own, in its place."""
    reply = (
        encode_call("f", {}) + "<start_function_call>call:g{a:1,a:2}<end_function_call>" + encode_call("h", {"b": 1})
    )
    kinds = [type(call) for call in parse(tokenizer, ids_of(tokenizer, reply)).calls]
    assert kinds == [Call, MalformedCall, Call]
