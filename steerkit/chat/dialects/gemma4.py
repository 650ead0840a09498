"""Gemma 4: FunctionGemma's call grammar with other control tokens, sorted keys and a channel for thoughts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import Any, Final

from steerkit.chat.dialects.functiongemma import WRITTEN, Marks, after_byte, after_quote, encode_call, read_call
from steerkit.chat.dialects.results import as_system, in_order, without_ids
from steerkit.chat.dialects.syntax import Frame, Pair, Syntax

_CALL: Final = Pair("<|tool_call>", "<tool_call|>")
_DECLARATION: Final = Pair("<|tool>", "<tool|>")
_RESULT: Final = Pair("<|tool_response>", "<tool_response|>")
_THOUGHT: Final = Pair("<|channel>", "<channel|>")
_QUOTE: Final = '<|"|>'
_REQUIRED: Final = ("<|turn>", "<turn|>", *_CALL[:2], *_DECLARATION[:2], *_RESULT[:2], *_THOUGHT[:2], _QUOTE)
_OPTIONAL: Final = ("<|think|>",)
_MARKS: Final = Marks(_CALL.begin, _CALL.end, _QUOTE, (*_REQUIRED, *_OPTIONAL), sort_keys=True)


def prepare(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages with the results of calls as `tool_responses` of the message that made them, in the calls' order.

    Published templates drop tool messages or take them as text alone; this form keeps a result an object.
    """
    found: list[dict[str, Any]] = []
    for is_result, group in groupby(messages, key=lambda message: message["role"] == "tool"):
        some = list(group)
        if is_result:
            found[-1] = {**found[-1], "tool_responses": [result.part for result in in_order(some)]}
        else:
            found += map(as_system, map(without_ids, some))
    return found


GEMMA4: Final = Syntax(
    name="gemma4",
    models="Gemma 4's",
    call=_CALL,
    frames=(
        Frame(
            "<|turn>",
            "<turn|>",
            {"system": "developer", "developer": "developer", "user": "user", "model": "model"},
        ),
    ),
    declaration=_DECLARATION,
    result=_RESULT,
    read_call=partial(read_call, _MARKS),
    encode_call=partial(encode_call, _MARKS),
    after_byte=after_byte,
    after_quote=after_quote,
    prepare=prepare,
    written=WRITTEN,
    named=re.compile(r"<\|tool_call>\s*call:\s*([\w.-]{1,128})[^\w.-]", re.ASCII),
    required=_REQUIRED,
    optional=_OPTIONAL,
    quote=_QUOTE,
    thought=_THOUGHT,
)
