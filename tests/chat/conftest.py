"""Two kinds of real tokenizers with FunctionGemma's control tokens: byte-level, and with byte fallback."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from steerkit.chat.dialects.functiongemma import CONTROL
from steerkit.engine import box_folder

_WORDS = ("call", "▁the", "get", "_weather", "location", "true", "false", "null", "None", "12", "Paris", "▁of")


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """A small tokenizer that works as Gemma's does: `▁` for spaces, `<0xNN>` for bytes it has no token for."""
    letters = [chr(code) for code in range(33, 127)] + ["▁", "\n", "é"]
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *CONTROL, *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    merges: list[tuple[str, str]] = []
    for word in _WORDS:
        for end in range(2, len(word) + 1):
            if word[:end] not in tokens:
                tokens.append(word[:end])
                merges.append((word[: end - 1], word[end - 1]))
    vocabulary = {token: number for number, token in enumerate(tokens)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    core.normalizer = normalizers.Replace(" ", "▁")
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    core.add_special_tokens(["<pad>", "<eos>", "<bos>", *CONTROL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )
    tokenizer.chat_template = byte_level().chat_template
    return tokenizer


def byte_level() -> Any:
    """The tokenizer of the model in the box."""
    return AutoTokenizer.from_pretrained(box_folder("tiny"))


TOKENIZERS = {"byte-level": byte_level(), "sentencepiece": sentencepiece_like()}


@pytest.fixture(params=list(TOKENIZERS))
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return TOKENIZERS[request.param]


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """Tokens of a text in which control tokens are control tokens."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids
