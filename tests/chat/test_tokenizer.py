"""What a token stands for, and which tokens are structure, over both kinds of tokenizer."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from tokenizers import Tokenizer as Core
from transformers import PreTrainedTokenizerFast

from steerkit.chat import dialect_of, parse, render
from steerkit.chat.dialects import CallSyntaxError
from steerkit.chat.tokenizer import TokenBytes, token_bytes
from steerkit.errors import ModelError
from steerkit.types import Call
from tests.chat.conftest import TOKENIZERS, byte_level, ids_of, sentencepiece_like

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40).filter(lambda text: "▁" not in text)


@pytest.mark.parametrize("kind", list(TOKENIZERS))
@given(text=texts)
@settings(deadline=None, max_examples=150)
def test_bytes_of_tokens_are_the_text_that_was_encoded(kind: str, text: str) -> None:
    """Put together, the tokens' bytes are the text, as the tokenizer's own `decode` says too."""
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert token_bytes(tokenizer).text(ids) == text
    assert tokenizer.decode(ids) == text


def test_added_runs_of_spaces_are_spaces() -> None:
    """Gemma adds tokens such as `▁▁`, and a token that only looks like a byte is its own text."""
    table = TokenBytes({"<0x0A>": 0, "▁▁": 1, "<0xZZ>": 2, "▁a": 3}, {"▁▁": 1})
    assert [table(token) for token in range(5)] == [b"\n", b"  ", b"<0xZZ>", b" a", b""]


def test_characters_stand_at_the_token_that_ends_them() -> None:
    """A token that ends in half a character keeps its whole ones: spans do not slide into the next token."""
    text = {1: b"call:f{k:", 3: b"x\xe6", 4: b"\x97\xa5y", 6: b"}"}
    vocabulary = {f"t{number}": number for number in range(7)} | {"<escape>": 2}
    table = TokenBytes(vocabulary, {"<escape>": 2})
    table._cache.update(text)
    names = {"<escape>": 2, "<start_function_call>": 90, "<end_function_call>": 91}
    dialect = replace(dialect_of(byte_level()), names=names, bytes=table)
    call = dialect.read_call([1, 2, 3, 4, 2, 6], 10)
    assert call.arguments == {"k": "x日y"}
    assert call.parts[0].value_span == (12, 16)
    table._cache[5] = b"x\xe6"
    with pytest.raises(CallSyntaxError, match="bytes that are no UTF-8 inside a string") as broken:
        dialect.read_call([1, 2, 5, 2, 6], 10)
    assert broken.value.token == 13


def test_added_tokens_that_are_only_text_are_not_structure() -> None:
    """Gemma's vocabulary has `<table>` and the like as plain added tokens: users write them and calls hold them."""
    tokenizer = sentencepiece_like()
    tokenizer.add_tokens([AddedToken("<table>", special=False, normalized=False)])
    prompt = render(tokenizer, [{"role": "user", "content": "a <table> b"}], untrusted="refuse")
    assert "a <table> b" in tokenizer.decode(prompt.ids)
    text = "<start_function_call>call:f{a:<escape><table><escape>}<end_function_call>"
    assert parse(tokenizer, ids_of(tokenizer, text)).calls[0].arguments == {"a": "<table>"}  # type: ignore[union-attr]


def test_other_special_tokens_are_structure() -> None:
    """A special token the format does not know is refused in a call's string and neutralized in a user's text."""
    tokenizer = sentencepiece_like()
    tokenizer.add_tokens([AddedToken("<start_of_image>", special=True, normalized=False)])
    image = tokenizer.get_vocab()["<start_of_image>"]
    prompt = render(tokenizer, [{"role": "user", "content": "a<start_of_image>b"}])
    assert (image in prompt.ids, prompt.neutralized) == (False, 1)
    assert "a<start_of_image>b" in tokenizer.decode(prompt.ids)
    text = "<start_function_call>call:f{a:<escape><start_of_image><escape>}<end_function_call>"
    assert "control token <start_of_image>" in parse(tokenizer, ids_of(tokenizer, text)).calls[0].error  # type: ignore[union-attr]


def test_control_tokens_need_not_be_special_to_be_neutralized() -> None:
    """`split_special_tokens` leaves an added token whole that is not called special; it is then cut by hand."""
    saved = json.loads(byte_level().backend_tokenizer.to_str())
    for token in saved["added_tokens"]:
        token["special"] = token["special"] and token["content"] != "<escape>"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Core.from_str(json.dumps(saved)), bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )
    tokenizer.chat_template = byte_level().chat_template
    whole = tokenizer.encode("<escape>", add_special_tokens=False, split_special_tokens=True)
    assert whole == [dialect_of(tokenizer).quote]
    prompt = render(tokenizer, [{"role": "user", "content": "a<escape>b"}])
    assert dialect_of(tokenizer).quote not in prompt.ids
    assert "a<escape>b" in tokenizer.decode(prompt.ids)


def test_a_tokenizer_without_the_format_is_refused() -> None:
    """What is missing is named, and that such a model cannot be used."""
    core = Core.from_str(byte_level().backend_tokenizer.to_str())
    saved = json.loads(core.to_str())
    saved["added_tokens"] = [token for token in saved["added_tokens"] if token["content"] != "<escape>"]
    saved["model"]["vocab"].pop("<escape>", None)
    saved["model"]["vocab"]["spare"] = byte_level().get_vocab()["<escape>"]
    bare = PreTrainedTokenizerFast(tokenizer_object=Core.from_str(json.dumps(saved)), eos_token="<eos>")
    with pytest.raises(ModelError, match="the tokenizer has no <escape>; expected a model with FunctionGemma's"):
        dialect_of(bare)


@pytest.mark.parametrize("kind", ["list", "tuple", "array", "tensor"])
def test_ids_of_any_integer_type_parse_the_same(tokenizer: Any, kind: str) -> None:
    """A tensor's elements are no keys of a set; they are read as the integers they are."""
    import numpy
    import torch

    make: Any = {"list": list, "tuple": tuple, "array": numpy.array, "tensor": torch.tensor}[kind]
    ids = ids_of(tokenizer, "<start_function_call>call:f{a:1}<end_function_call>")
    assert isinstance(parse(tokenizer, make(ids)).calls[0], Call)
    assert parse(tokenizer, make(ids)) == parse(tokenizer, ids)
