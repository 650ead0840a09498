"""The order in which texts are read and tokens are trained on, in pieces whose activations fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from steerkit.lab.train.recipe import Recipe


class Chunk(NamedTuple):
    """Texts whose activations are in memory together. Runs are saved and resumed between chunks, never inside one."""

    texts: tuple[int, ...]
    """Indices into the corpus."""
    tokens: int


def epoch_chunks(lengths: Sequence[int], recipe: Recipe, seed: int, epoch: int) -> list[Chunk]:
    """The chunks of one epoch: all texts once, in an order drawn from seed and epoch.

    A chunk holds at most `recipe.buffer` tokens, or a single step of texts that is longer.
    """
    order = torch.randperm(len(lengths), generator=_generator(seed, epoch, 0)).tolist()
    unit = 1 if recipe.tokens else recipe.texts
    chunks: list[Chunk] = []
    part: list[int] = []
    size = 0
    for start in range(0, len(order), unit):
        texts = order[start : start + unit]
        tokens = sum(lengths[index] for index in texts)
        if part and size + tokens > recipe.buffer:
            chunks.append(Chunk(tuple(part), size))
            part, size = [], 0
        part += texts
        size += tokens
    return [*chunks, Chunk(tuple(part), size)]


def steps(chunk: Chunk, lengths: Sequence[int], recipe: Recipe, seed: int, epoch: int, number: int) -> Iterator[Tensor]:
    """The token numbers of each step in a chunk's activations: whole texts, or random tokens of the chunk."""
    if recipe.tokens:
        yield from torch.randperm(chunk.tokens, generator=_generator(seed, epoch, number + 1)).split(recipe.tokens)
        return
    start = 0
    for first in range(0, len(chunk.texts), recipe.texts):
        stop = start + sum(lengths[index] for index in chunk.texts[first : first + recipe.texts])
        yield torch.arange(start, stop)
        start = stop


def _generator(*numbers: int) -> torch.Generator:
    """A generator for some numbers, each below 2**20: equal for equal numbers, unrelated otherwise."""
    seed = 0
    for number in numbers:
        seed = (seed << 20) + number
    return torch.Generator().manual_seed(seed & (2**63 - 1))
