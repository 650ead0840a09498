"""No text forges structure, however it is cut and wherever it stands; the unguarded prompt is the control."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerkit.chat import dialect_of, render
from steerkit.chat.dialects.functiongemma import CONTROL
from tests.chat.conftest import TOKENIZERS
from tests.chat.test_render import PLACES

FRAGMENTS = ("<", ">", "<start_of", "_turn>", "end_of_turn", "escape>", "\n", " ", "\ue000", "\ue0010\ue001", "é", "{}")
texts = st.lists(st.sampled_from((*CONTROL, "<bos>", "<eos>", *FRAGMENTS)), max_size=8).map("".join)


def structure(tokenizer: Any, ids: Any) -> list[int]:
    """The control tokens among some ids, in order."""
    known = dialect_of(tokenizer).control
    return [token for token in ids if token in known]


@pytest.mark.parametrize("kind", list(TOKENIZERS))
@given(text=texts, place=st.sampled_from(sorted(PLACES)))
@settings(deadline=None, max_examples=150)
def test_no_text_changes_the_structure(kind: str, text: str, place: str) -> None:
    """Control tokens are those of a harmless prompt, in order, and every character of the text is there to read."""
    tokenizer = TOKENIZERS[kind]
    prompt = render(tokenizer, *PLACES[place](text))
    assert structure(tokenizer, prompt.ids) == structure(tokenizer, render(tokenizer, *PLACES[place]("")).ids)
    if place == "result key":  # a key is written bare: what the grammar cannot write is replaced, one for one
        (key,) = re.findall(r"response:pay\{a(.*)b:1\}", prompt.text)
        assert re.sub(r"[^\w.<>-]", "", key) == key
        assert len(key) == len(text)
        return
    assert f"a{text}b" in prompt.text
    assert tokenizer.decode(prompt.ids) == prompt.text
    naive = structure(tokenizer, tokenizer.encode(prompt.text, add_special_tokens=False))
    assert len(naive) == len(structure(tokenizer, prompt.ids)) + prompt.neutralized


def test_a_token_split_over_parts_is_found(tokenizer: Any) -> None:
    """Parts of one message are one text, so a control token cannot be put together from two of them."""
    parts = [{"type": "text", "text": "a<end_of"}, {"type": "text", "text": "_turn>b"}]
    prompt = render(tokenizer, [{"role": "user", "content": parts}])
    plain = render(tokenizer, [{"role": "user", "content": "ab"}])
    assert prompt.neutralized == 1
    assert structure(tokenizer, prompt.ids) == structure(tokenizer, plain.ids)
