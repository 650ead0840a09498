"""Blocks of a prompt for the prefix cache, cut the same way for every conversation that begins with it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final

from steerkit.chat.dialects import dialect_of
from steerkit.chat.tokenizer import Tokenizer

LEAST: Final = 64
"""Tokens of a block at least: a prefill of 64 at a time is about as fast as one of all at once, and of fewer slower."""


def block_ends(tokenizer: Tokenizer, ids: Sequence[int], most: int | None = None) -> tuple[int, ...]:
    """Ends of the blocks of a prompt, each before a turn or a tool's result, and none at the prompt's own end; of at
    most so many tokens.

    A block's end is decided by the tokens before it alone. So a prompt that continues another is cut at the same ones,
    and the turn that declares the tools is a block of its own unless it is short.
    """
    dialect = dialect_of(tokenizer)
    begin = {dialect.turn} if dialect.waits is None else {dialect.turn, dialect.waits}
    return tuple(_ends(ids, begin, most or len(ids)))


def _ends(ids: Sequence[int], begin: Collection[int], most: int) -> Iterator[int]:
    start = 0
    for position, token in enumerate(ids):
        if position - start >= (LEAST if token in begin else most):
            yield position
            start = position
