"""The parser: every case of the format, spans, bounds, streams and noise."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerkit.chat import CallClosed, CallOpened, Parsed, Parser, TextDelta, encode_call, parse
from steerkit.errors import MessageError
from steerkit.types import Call, MalformedCall
from tests.chat.conftest import TOKENIZERS, ids_of

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


names = st.from_regex(r"[A-Za-z0-9_.-]{1,8}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(
    lambda text: "<" not in text and "▁" not in text
)
leaves = st.none() | st.booleans() | st.integers() | st.integers(-(10**30), 10**30) | texts
leaves |= st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=8
)
calls = st.tuples(names, st.dictionaries(names, values, max_size=4))


def same(left: Any, right: Any) -> bool:
    """Equal, and of equal types: True is not 1 and 1 is not 1.0."""
    return repr(left) == repr(right) and (
        not isinstance(left, float) or math.copysign(1, left) == math.copysign(1, right)
    )


@pytest.mark.parametrize("kind", list(TOKENIZERS))
@given(call=calls)
@settings(deadline=None, max_examples=120)
def test_parsing_a_rendered_call_gives_the_call(kind: str, call: tuple[str, dict[str, Any]]) -> None:
    """parse(render(call)) == call, over nested values, unicode, big integers and empty strings."""
    name, arguments = call
    (found,) = parse(TOKENIZERS[kind], ids_of(TOKENIZERS[kind], encode_call(name, arguments))).calls
    assert isinstance(found, Call), found
    assert (found.name, same(dict(found.arguments), arguments)) == (name, True)


@pytest.mark.parametrize("kind", list(TOKENIZERS))
@given(pieces=st.lists(calls | texts, max_size=4), cuts=st.lists(st.integers(0, 200), max_size=8))
@settings(deadline=None, max_examples=80)
def test_any_chunking_of_a_stream_parses_the_same(kind: str, pieces: list[Any], cuts: list[int]) -> None:
    """Tokens fed in any chunks give the same text, calls and finish, and the events add up to them."""
    tokenizer = TOKENIZERS[kind]
    ids = ids_of(tokenizer, "".join(p if isinstance(p, str) else encode_call(*p) for p in pieces) + "<end_of_turn>")
    parser, events = Parser(tokenizer), []
    edges = sorted({0, len(ids), *(cut for cut in cuts if cut < len(ids))})
    for start, end in pairwise(edges):
        events += parser.feed(ids[start:end])
    parsed = parser.finish()
    assert parsed == parse(tokenizer, ids)
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == parsed.text
    assert tuple(event.call for event in events if isinstance(event, CallClosed)) == parsed.calls
    assert [e.position for e in events if isinstance(e, CallOpened)] == [call.span.start for call in parsed.calls]


@pytest.mark.parametrize("kind", list(TOKENIZERS))
@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_noise_never_raises(kind: str, data: st.DataObject) -> None:
    """Any token ids at all parse to a value; ids outside the vocabulary too."""
    tokenizer = TOKENIZERS[kind]
    control = sorted(tokenizer.get_added_vocab().values())
    token = st.sampled_from(control) | st.integers(0, len(tokenizer) + 3)
    assert isinstance(parse(tokenizer, data.draw(st.lists(token, max_size=60))), Parsed)


def test_a_string_with_escape_cannot_be_rendered() -> None:
    """The wire format has no way to carry it, and says so; a name outside the alphabet likewise."""
    with pytest.raises(MessageError, match="holds <escape>"):
        encode_call("f", {"a": f"x{E}"})
    with pytest.raises(MessageError, match="expected letters"):
        encode_call("f g", {})
