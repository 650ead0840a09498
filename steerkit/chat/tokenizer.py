"""The part of a tokenizer that chat uses, and the bytes that each of its tokens stands for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Protocol

_BYTE: Final = re.compile("<0x([0-9A-Fa-f]{2})>")


class Tokenizer(Protocol):
    """The part of transformers' tokenizers that is used here."""

    def __hash__(self) -> int:
        """Identity: tables are built once per tokenizer."""

    @property
    def all_special_tokens(self) -> list[str]:
        """Beginning of sequence, padding and the like."""

    @property
    def eos_token(self) -> Any:
        """The end of a sequence, if it has one."""

    @property
    def pad_token_id(self) -> Any:
        """Id that sequences are padded with, if it has one."""

    def get_vocab(self) -> Mapping[str, int]:
        """Every token and its id."""

    def get_added_vocab(self) -> Mapping[str, int]:
        """The added tokens among them, control tokens included."""

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]:
        """The added tokens by id, each with its `content` and whether it is `special`."""

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """The prompt's text, with `tokenize=False`."""

    def encode(self, text: str, **options: Any) -> list[int]:
        """Token ids of a text."""

    def decode(self, token_ids: Any) -> Any:
        """Text of token ids."""


@lru_cache(maxsize=8)
def token_bytes(tokenizer: Tokenizer) -> TokenBytes:
    """The table of a tokenizer's bytes, built once, as a vocabulary may hold 262,144 tokens."""
    return TokenBytes(tokenizer.get_vocab(), tokenizer.get_added_vocab())


class TokenBytes:
    """UTF-8 bytes by token id, so that a character spread over tokens is put together right.

    Knows byte-level BPE, where every character of a token stands for a byte, and SentencePiece with byte fallback,
    where `▁` is a space and `<0xE2>` a byte. Added tokens stand for their own text (Gemma adds runs of `▁`, which are
    spaces as everywhere).
    """

    def __init__(self, vocabulary: Mapping[str, int], added: Mapping[str, int]) -> None:
        self._token = {number: token for token, number in vocabulary.items()}
        self._added = set(added.values())
        if "<0x0A>" in vocabulary:
            self._decode = _sentencepiece
        elif "Ġ" in vocabulary:
            self._decode = _byte_level
        else:
            self._decode = _as_it_stands
        self._cache: dict[int, bytes] = {}

    def __call__(self, token: int) -> bytes:
        """Bytes of a token; none for an id outside the vocabulary."""
        if token not in self._cache:
            text = self._token.get(token, "")
            own = token in self._added and self._decode is _byte_level
            self._cache[token] = text.encode() if own else self._decode(text)
        return self._cache[token]

    def text(self, tokens: Sequence[int]) -> str:
        """Text of some tokens, control tokens as they are written."""
        return b"".join(map(self, tokens)).decode("utf-8", "replace")


def _as_it_stands(token: str) -> bytes:
    return token.encode()


def _sentencepiece(token: str) -> bytes:
    if byte := _BYTE.fullmatch(token):
        return bytes([int(byte[1], 16)])
    return token.replace("▁", " ").encode()


def _byte_level(token: str) -> bytes:
    return b"".join(bytes([_BYTES[char]]) if char in _BYTES else char.encode() for char in token)


def _byte_characters() -> dict[str, int]:
    """The alphabet of byte-level BPE: printable Latin-1 stands for itself, the rest is moved to U+0100 and on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in printable]
    return {**{chr(byte): byte for byte in printable}, **{chr(256 + n): byte for n, byte in enumerate(moved)}}


_BYTES = _byte_characters()
