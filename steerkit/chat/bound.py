"""Bounds what a tool's result adds to a prompt in tokens: a character may take four of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from steerkit.chat.render import render
from steerkit.chat.tokenizer import Tokenizer
from steerkit.types import Json, Message

_FRAME: Final = 32
"""Tokens for what stands around a text: the key `value`, its delimiters, and a note that it was cut."""


def within_tokens(tokenizer: Tokenizer, result: Mapping[str, Json], most: int) -> dict[str, Json]:
    """A tool's result of about `most` tokens at most; a longer one is cut, its text under `value`, with a note.

    Raises:
        MessageError: no prompt can carry it.
    """
    nothing = _length(tokenizer, {})
    tokens = _length(tokenizer, result) - nothing
    if tokens <= most + _FRAME:
        return dict(result)
    alone = result.get("value") if len(result) == 1 else None
    text = alone if isinstance(alone, str) else json.dumps(result, ensure_ascii=False)
    while tokens > most + _FRAME and text:
        text = text[: min(len(text) - 1, len(text) * most // tokens)]
        tokens = _length(tokenizer, {"value": text}) - nothing
    return {"value": f"{text} [cut after {most} tokens]"}


def _length(tokenizer: Tokenizer, result: Mapping[str, Json]) -> int:
    call = {"role": "assistant", "tool_calls": [{"id": "0", "function": {"name": "f", "arguments": {}}}]}
    told: list[Message] = [
        {"role": "user", "content": "-"},
        call,
        {"role": "tool", "tool_call_id": "0", "content": dict(result)},
    ]
    return len(render(tokenizer, told).ids)
