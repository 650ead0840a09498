"""Where the places of a conversation stand in token positions."""

from __future__ import annotations

from typing import Any

import pytest

from steerkit.chat import encode_call, parse, positions
from steerkit.types import Call, Span
from tests.chat.conftest import ids_of

CALL = Call("f", {}, Span(10, 20), Span(13, 15))


def at(place: Any, call: Call | None = CALL) -> list[int]:
    return list(positions(place, prompt_length=10, length=22, call=call))


def test_places_are_steps_that_produce_their_tokens() -> None:
    """A step at t produces token t + 1: the reply begins at the prompt's last position, a name one before its token."""
    assert at("any") == list(range(21))
    assert at("prompt") == list(range(10))
    assert at("reply") == list(range(9, 21))
    assert at("reply.start") == [9]
    assert at("call") == list(range(9, 19))
    assert at("call.open") == [12]
    assert at("call.name") == [12, 13]
    assert at("call.arguments") == list(range(14, 18))


@pytest.mark.parametrize("place", ["call", "call.open", "call.name", "call.arguments"])
def test_places_of_a_call_are_empty_without_one(place: Any) -> None:
    """Without a call there is nothing to read at; the other places do not need one."""
    assert at(place, None) == []
    assert at("reply", None) == at("reply")
    assert at(place) != []


def test_every_place_of_a_call_lies_in_the_call_in_the_reply_in_the_conversation() -> None:
    """Each place is part of the one around it, and a call's parts do not overlap."""
    assert set(at("call.open")) < set(at("call.name")) < set(at("call")) < set(at("reply")) < set(at("any"))
    assert set(at("call.arguments")) < set(at("call"))
    assert not set(at("call.arguments")) & set(at("call.name"))
    assert set(at("prompt")) & set(at("reply")) == set(at("reply.start"))


def test_an_unknown_place_is_an_error() -> None:
    """A place that is none is never silently empty."""
    with pytest.raises(ValueError, match="unknown place 'elsewhere'"):
        at("elsewhere")


def test_a_parsed_calls_places_are_its_tokens(tokenizer: Any) -> None:
    """The tokens that the steps of a place produce are those that were written there."""
    prompt, reply = ids_of(tokenizer, "hello"), ids_of(tokenizer, encode_call("get", {"a": "x", "b": [1, 2]}))
    ids = [*prompt, *reply]
    (call,) = parse(tokenizer, reply, offset=len(prompt)).calls
    assert isinstance(call, Call)

    def produced(place: Any) -> list[int]:
        steps = positions(place, prompt_length=len(prompt), length=len(ids), call=call)
        return [ids[step + 1] for step in steps]

    assert produced("reply") == produced("call") == reply
    assert produced("reply.start") == reply[:1]
    assert tokenizer.decode(produced("call.name")) == "get"
    assert produced("call.open") == produced("call.name")[:1]
    assert tokenizer.decode(produced("call.arguments")) == "{a:<escape>x<escape>,b:[1,2]}"
