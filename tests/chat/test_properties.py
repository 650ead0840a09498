"""Laws of the parser that must hold for every call, every chunking of a stream and any noise."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerkit.chat import CallClosed, CallOpened, Parsed, Parser, TextDelta, encode_call, parse
from steerkit.types import Call
from tests.chat.conftest import TOKENIZERS, ids_of

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


@pytest.mark.parametrize("kind", list(TOKENIZERS))
@given(data=st.data())
@settings(deadline=None, max_examples=80)
def test_noise_parses_the_same_in_any_chunks(kind: str, data: st.DataObject) -> None:
    """One token at a time gives what the whole reply gives; only what the end itself decides comes without an event."""
    tokenizer = TOKENIZERS[kind]
    control = sorted(tokenizer.get_added_vocab().values())
    ids = data.draw(st.lists(st.sampled_from(control) | st.integers(0, len(tokenizer) + 3), max_size=60))
    parser = Parser(tokenizer, offset=5)
    events = [event for token in ids for event in parser.feed([token])]
    parsed = parser.finish()
    assert parsed == parse(tokenizer, ids, offset=5)
    said = "".join(event.text for event in events if isinstance(event, TextDelta))
    closed = tuple(event.call for event in events if isinstance(event, CallClosed))
    assert parsed.text in (said, f"{said}\ufffd")
    assert parsed.calls[: len(closed)] == closed
    assert len(parsed.calls) <= len(closed) + 1
    assert all(5 <= call.span.start <= call.span.end <= 5 + len(ids) for call in parsed.calls)


@pytest.mark.parametrize("kind", list(TOKENIZERS))
@given(call=calls, data=st.data())
@settings(deadline=None, max_examples=80)
def test_a_call_with_a_hole_is_never_another_call_by_repair(kind: str, call: Any, data: st.DataObject) -> None:
    """Without one of its tokens a call reads as what is still written there, or is malformed: never completed."""
    tokenizer = TOKENIZERS[kind]
    ids = ids_of(tokenizer, encode_call(*call))
    hole = data.draw(st.integers(1, len(ids) - 2))
    (found,) = parse(tokenizer, [*ids[:hole], *ids[hole + 1 :]]).calls
    if isinstance(found, Call):
        left = tokenizer.decode([*ids[:hole], *ids[hole + 1 :]])
        assert found.name in left
        assert all(part.name in left for part in found.parts)
        assert len(found.parts) <= len(call[1])


@pytest.mark.parametrize("kind", list(TOKENIZERS))
@given(call=calls, offset=st.integers(0, 1000))
@settings(deadline=None, max_examples=80)
def test_spans_hold_what_was_written(kind: str, call: Any, offset: int) -> None:
    """The tokens of a value's span parse to that value alone; spans stand in order inside the call's."""
    tokenizer = TOKENIZERS[kind]
    ids = ids_of(tokenizer, encode_call(*call))
    (found,) = parse(tokenizer, ids, offset=offset).calls
    assert isinstance(found, Call)
    assert found.span == (offset, offset + len(ids))
    edges = [found.name_span, *(span for part in found.parts for span in (part.key_span, part.value_span))]
    assert found.span.start < edges[0].start
    assert edges[-1].end < found.span.end
    assert all(span.start < span.end for span in edges)
    assert all(left.start <= right.start and left.end <= right.end for left, right in pairwise(edges))
    opened, (end,) = ids_of(tokenizer, "<start_function_call>call:f{v:"), ids_of(tokenizer, "<end_function_call>")
    for part in found.parts:
        written = ids[part.value_span.start - offset : part.value_span.end - offset]
        if tokenizer.decode(written)[-1:] in ",}" and not isinstance(part.value, dict):
            continue  # a token that holds the value's last character and the next mark
        (alone,) = parse(tokenizer, [*opened, *written, *ids_of(tokenizer, "}"), end]).calls
        assert isinstance(alone, Call), alone
        assert same(alone.arguments["v"], part.value)
