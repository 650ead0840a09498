"""The box's tokenizer: exact round trips, clean boundaries and a response template that reads calls."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from steerkit.tiny.tools import NAMES
from steerkit.tiny.training.evaluate import BOX
from steerkit.tiny.training.tokenizer import CONTROL
from steerkit.tiny.world import render
from steerkit.tiny.world.conversations import sample


@cache
def _tokenizer():
    return AutoTokenizer.from_pretrained(BOX)


def test_control_tokens_have_one_id_each(tokenizer):
    """Every control token is one special token, in the stated order."""
    assert [tokenizer.convert_tokens_to_ids(token) for token in CONTROL] == list(range(len(CONTROL)))
    assert set(CONTROL) <= set(tokenizer.all_special_tokens)
    assert len(tokenizer) == 1024


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_any_text_round_trips(text):
    """Byte-level pieces represent every string, and decoding gives it back."""
    tokenizer = _tokenizer()
    if any(token in text for token in CONTROL):
        return
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_call_marks_are_tokens_of_their_own(tokenizer):
    """The token before a tool's name is exactly a colon, and brackets and commas never merge."""
    ids = tokenizer(render.call("send_email", {"a": [1, 23], "to": "x, {y}"}), add_special_tokens=False)["input_ids"]
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert tokens[:4] == ["<start_function_call>", "call", ":", "send_email"]
    for token in tokens:
        assert len(token) == 1 or not set(token) & set(":{}[],0123456789")


def test_tool_names_are_single_tokens(tokenizer):
    """Every tool of the world is one token."""
    assert all(len(tokenizer(name, add_special_tokens=False)["input_ids"]) == 1 for name in NAMES)


def test_a_value_has_the_same_tokens_in_request_and_call(tokenizer):
    """After a space and after <escape> a word is cut alike, so copying it is copying tokens."""
    for word in ("Mara", "budget_may.txt", "blue lamp", "Velmora"):
        alone = tokenizer(word, add_special_tokens=False)["input_ids"]
        for around in (f"to {word}", f"<escape>{word}<escape>", f"\n{word}."):
            ids = tokenizer(around, add_special_tokens=False)["input_ids"]
            assert any(ids[start : start + len(alone)] == alone for start in range(len(ids)))


@pytest.mark.parametrize("as_ids", [False, True])
def test_parse_response_reads_calls_after_a_round_trip(tokenizer, tmp_path, as_ids):
    """A saved and reloaded tokenizer parses parallel calls of every value kind from text and from ids."""
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    calls = [("f", {"s": "a, {b}: [c]", "i": 12, "x": -4.5, "l": [1, {"k": True}], "n": None}), ("get_time", {})]
    text = "".join(render.call(name, arguments) for name, arguments in calls) + "<start_function_response>"
    reply = again(text, add_special_tokens=False)["input_ids"] if as_ids else text
    parsed = again.parse_response(reply, prefix="<start_of_turn>model\n")
    assert parsed["role"] == "assistant"
    assert [(one["function"]["name"], one["function"]["arguments"]) for one in parsed["tool_calls"]] == calls


def test_parse_response_reads_plain_text(tokenizer):
    """A refusal is content and makes no calls."""
    parsed = tokenizer.parse_response("Sorry, no.<end_of_turn>", prefix="<start_of_turn>model\n")
    assert parsed == {"role": "assistant", "content": "Sorry, no."}


def test_parse_response_starts_after_the_last_result(tokenizer):
    """A reply that goes on after a tool's result does not repeat the calls before it."""
    (example,) = sample("after_result", "train", 1, seed=0)
    prefix = render.prompt(example.messages, example.tools)
    assert "<start_function_call>" in prefix
    parsed = tokenizer.parse_response("All done.<end_of_turn>", prefix=prefix)
    assert parsed == {"role": "assistant", "content": "All done."}
