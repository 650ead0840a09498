"""FunctionGemma: its control tokens, and messages as its published template takes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import Any, Final

from steerkit.chat.dialects.functiongemma.calls import WRITTEN, Marks, encode_call, read_call
from steerkit.chat.dialects.functiongemma.grammar import after_byte, after_quote
from steerkit.chat.dialects.results import in_order, without_ids
from steerkit.chat.dialects.syntax import Frame, Pair, Syntax

CONTROL: Final = (
    "<start_of_turn>",
    "<end_of_turn>",
    "<start_function_declaration>",
    "<end_function_declaration>",
    "<start_function_call>",
    "<end_function_call>",
    "<start_function_response>",
    "<end_function_response>",
    "<escape>",
)
"""Every control token of the format."""

_CALL: Final = Pair("<start_function_call>", "<end_function_call>")
_MARKS: Final = Marks(_CALL.begin, _CALL.end, "<escape>", CONTROL)


def prepare(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages with adjacent tool results in the order of the calls they answer, and the model's turn closed before
    anybody else's message.

    A result has no id in the prompt: the model pairs calls and results by their order. And a result stands in the
    model's turn, which published templates leave open after it, whoever speaks next.
    """
    found: list[dict[str, Any]] = []
    for is_result, group in groupby(messages, key=lambda message: message["role"] == "tool"):
        some = list(group)
        if is_result:
            found += [{"role": "tool", "content": [result.part]} for result in in_order(some)]
        else:
            if found and some[0]["role"] != "assistant":
                found.append({"role": "assistant", "content": ""})  # closes the model's turn
            found += map(without_ids, some)
    return found


FUNCTIONGEMMA: Final = Syntax(
    name="functiongemma",
    models="FunctionGemma's",
    call=_CALL,
    frames=(Frame("<start_of_turn>", "<end_of_turn>", {"developer": "developer", "user": "user", "model": "model"}),),
    declaration=Pair("<start_function_declaration>", "<end_function_declaration>"),
    result=Pair("<start_function_response>", "<end_function_response>"),
    read_call=partial(read_call, _MARKS),
    encode_call=partial(encode_call, _MARKS),
    after_byte=after_byte,
    after_quote=after_quote,
    prepare=prepare,
    written=WRITTEN,
    named=re.compile(r"<start_function_call>\s*call:\s*([\w.-]{1,128})[^\w.-]", re.ASCII),
    required=CONTROL,
    quote="<escape>",
)
