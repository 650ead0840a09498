"""Greedy replies to prompts, batch by batch, with something in the model's way or nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from steerkit.chat import dialect_of
from steerkit.engine import Batch, LoadedModel, Sampling, generate

_ROWS: Final = 16

Way = Callable[[], AbstractContextManager[Any]]
"""Opens what stands in the model's way during one generation."""


def replies(
    loaded: LoadedModel, prompts: Sequence[Sequence[int]], max_new_tokens: int, way: Way = nullcontext
) -> list[list[int]]:
    """The tokens that the model writes after each prompt, the stop token included."""
    if loaded.serving is not None and way is nullcontext:
        return loaded.serving.replies(prompts, max_new_tokens)
    dialect = dialect_of(loaded.tokenizer)
    found: list[list[int]] = []
    for start in range(0, len(prompts), _ROWS):
        part = prompts[start : start + _ROWS]
        batch = Batch.of(part, dialect.pad, loaded.device)
        written: list[list[int]] = [[] for _ in part]
        with loaded.alone(), way():
            for tokens in generate(
                loaded.model, batch, [Sampling(max_new_tokens)] * len(part), dialect.stops, dialect.pad
            ):
                for reply, token in zip(written, tokens, strict=True):
                    reply += [] if token is None else [token]
        found += written
    return found
