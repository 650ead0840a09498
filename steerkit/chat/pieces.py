"""Cuts a prompt at the ends of messages, the same way for every conversation that begins with it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final

from steerkit.chat.tokenizer import Tokenizer
from steerkit.chat.wire import control_tokens

LEAST: Final = 64
"""Tokens of a piece at least: a model reads 64 at a time about as fast as all at once, and fewer more slowly."""

_BEGIN: Final = ("<start_of_turn>", "<start_function_response>")
"""Tokens that begin a message; what they begin is never in the piece before them."""


def piece_ends(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[int, ...]:
    """Where the pieces of a prompt end, each before a turn or a tool's result and none at the prompt's own end.

    Whether a piece ends at a token is decided by the tokens up to there alone. So what goes on from a prompt is cut
    where that was, and the turn that declares the tools is a piece of its own unless it is short.
    """
    control = control_tokens(tokenizer)
    return tuple(_ends(ids, {control[name] for name in _BEGIN}))


def _ends(ids: Sequence[int], begin: Collection[int]) -> Iterator[int]:
    start = 0
    for position, token in enumerate(ids):
        if token in begin and position - start >= LEAST:
            yield position
            start = position
