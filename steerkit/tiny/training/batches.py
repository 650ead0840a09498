"""Training batches, made in a process of their own so that the trainer never waits."""

from __future__ import annotations

import itertools
import multiprocessing
import random
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from steerkit.tiny.world import render
from steerkit.tiny.world.conversations import Example, training_example

CHUNK: Final = 2048
"""Examples that are made, sorted by length and cut into batches together."""

TOKENS: Final = 4096
"""Tokens in a batch, padding included."""

PROMPT_WEIGHT: Final = 0.1
"""Weight of a prompt token's loss; a token of the reply has 1."""


@dataclass(frozen=True)
class Batch:
    """Right-padded token ids `(rows, length)` and the weight of each as a target."""

    ids: Tensor
    weights: Tensor


Encoded = tuple[list[int], int]
"""The tokens of one example and how many of them are its prompt."""


def encode(examples: list[Example], tokenizer: PreTrainedTokenizerFast) -> list[Encoded]:
    """Each example's prompt and target as tokens, with the prompt's length."""
    prompts = [render.prompt(example.messages, example.tools) for example in examples]
    replies = [render.completion(*example.target) for example in examples]
    # Prompts end in a newline or a control token, where no merge reaches over.
    before = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    after = tokenizer(replies, add_special_tokens=False)["input_ids"]
    return [(left + right, len(left)) for left, right in zip(before, after, strict=True)]


def collate(rows: list[Encoded], pad: int) -> Batch:
    """Rows of one batch, padded on the right: causal attention then needs no mask."""
    length = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), length), pad)
    weights = torch.zeros((len(rows), length))
    for row, (tokens, prompt) in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        weights[row, :prompt] = PROMPT_WEIGHT
        weights[row, prompt : len(tokens)] = 1.0
    return Batch(ids, weights)


def chunk(tokenizer: PreTrainedTokenizerFast, seed: int, number: int, most_tools: int) -> list[Batch]:
    """The batches of the `number`-th chunk, rows of like length together, in random order."""
    examples = [training_example(seed, number * CHUNK + index, most_tools) for index in range(CHUNK)]
    rows = sorted(encode(examples, tokenizer), key=lambda row: len(row[0]))
    batches, start = [], 0
    while start < len(rows):
        stop = start + 1
        while stop < len(rows) and len(rows[stop][0]) * (stop + 1 - start) <= TOKENS:
            stop += 1
        batches.append(collate(rows[start:stop], int(tokenizer.pad_token_id)))
        start = stop
    random.Random(f"{seed}/{number}").shuffle(batches)
    return batches


_worker: dict[str, PreTrainedTokenizerFast] = {}


def _start(folder: str) -> None:
    torch.set_num_threads(1)
    _worker["tokenizer"] = PreTrainedTokenizerFast.from_pretrained(folder, trust_remote_code=False)


def _work(seed: int, number: int, most_tools: int) -> list[Batch]:
    return chunk(_worker["tokenizer"], seed, number, most_tools)


@contextmanager
def stream(folder: str, seed: int, few_chunks: int) -> Iterator[Iterator[Batch]]:
    """Batches without end, the same for the same seed; the first `few_chunks` chunks declare two or three tools.

    `folder` holds the tokenizer. The process that makes the batches ends with the block.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_start, initargs=(folder,)) as pool:

        def ahead() -> Iterator[Batch]:
            waiting: deque[Future[list[Batch]]] = deque()
            for number in itertools.count():
                waiting.append(pool.submit(_work, seed, number, 3 if number < few_chunks else 5))
                if len(waiting) == 3:
                    yield from waiting.popleft().result()

        yield ahead()
        pool.shutdown(cancel_futures=True)
