"""hermes: its control tokens, the two frames of turns it is used with, and messages as its templates take them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

from steerkit.chat.dialects.hermes.calls import CALL, MARKUP, WRITTEN, encode_call, read_call
from steerkit.chat.dialects.hermes.grammar import after_byte
from steerkit.chat.dialects.results import Result, as_system, in_order, without_ids
from steerkit.chat.dialects.syntax import Frame, Pair, Role, Syntax

_ROLES: Final[dict[str, Role]] = {"system": "developer", "user": "user", "assistant": "model"}


def prepare(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages with one tool message for each result, in the order of the calls, its content as text."""
    found: list[dict[str, Any]] = []
    for is_result, group in groupby(messages, key=lambda message: message["role"] == "tool"):
        some = list(group)
        if is_result:
            found += [{"role": "tool", "name": one.part["name"], "content": _text(one)} for one in in_order(some)]
        else:
            found += map(as_system, map(without_ids, some))
    return found


def _text(result: Result) -> str:
    return json.dumps(result.part["response"], ensure_ascii=False) if result.text is None else result.text


HERMES: Final = Syntax(
    name="hermes",
    models="hermes' (Qwen, Granite 4, SmolLM3)",
    call=CALL,
    frames=(
        Frame("<|im_start|>", "<|im_end|>", _ROLES),
        Frame("<|start_of_role|>", "<|end_of_text|>", _ROLES, end_role="<|end_of_role|>"),
    ),
    declaration=Pair("<tools>", "</tools>", "developer"),
    result=Pair("<tool_response>", "</tool_response>", "user"),
    read_call=read_call,
    encode_call=encode_call,
    after_byte=after_byte,
    prepare=prepare,
    written=WRITTEN,
    named=re.compile(r'<tool_call>\s*\{\s*"name"\s*:\s*"([\w.-]{1,128})"', re.ASCII),
    optional=MARKUP,
    thought=Pair("<think>", "</think>"),
    declares="schema",
    layout=True,
    asks_by_end=True,
    foreign=("<function=",),
)
