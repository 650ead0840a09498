"""Rows that come and go in one cache: each says what reading its sequence anew says."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from steerkit.engine import Batch, Lease, cache_name
from steerkit.engine.hf import rows_cache
from steerkit.engine.hf.passes import Passes
from steerkit.engine.hf.rows_cache import RowsCache, RowsLayer
from tests.engine.test_growing_cache import KINDS, model_of


class Rows:
    """Sequences of random tokens in a cache."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.cache = model, RowsCache(model)
        self.sequences: list[list[int]] = []
        self.furthest = 0.0

    def join(self, length: int) -> None:
        """A sequence begins."""
        ids = [1 + (31 * length + 7 * place) % 1000 for place in range(length)]
        passes = Passes(self.model, Batch.of([ids], 0, torch.device("cpu")))
        passes.prompt(split=False)
        self.cache.join(passes.cache)
        self.sequences.append(ids)

    def leave(self, row: int) -> None:
        """A sequence ends."""
        self.cache.leave(row)
        self.sequences[row] = self.sequences[-1]
        self.sequences.pop()

    def step(self, tokens: list[list[int]]) -> None:
        """All go on by some tokens; notes how far the logits are from those of each sequence read anew."""
        inputs: dict[str, Any] = self.cache.step(torch.tensor(tokens))
        found = self.model(**inputs, use_cache=True, **{cache_name(self.model): self.cache}).logits
        for row, (ids, new) in enumerate(zip(self.sequences, tokens, strict=True)):
            ids += new
            expected: Tensor = self.model(torch.tensor([ids]), use_cache=False).logits[0, -len(new) :]
            self.furthest = max(self.furthest, float((found[row] - expected).abs().max()))


@torch.inference_mode()
def at_random(model: PreTrainedModel, seed: int) -> float:
    """Forty random joins, ends and steps of one or several tokens; how far off the logits were at most."""
    draw, rows = random.Random(seed), Rows(model)
    for _ in range(40):
        if not rows.sequences or (len(rows.sequences) < 6 and draw.random() < 0.4):
            rows.join(draw.choice([1, 3, 12, 15, 16, 17, 40]))
        elif draw.random() < 0.25:
            rows.leave(draw.randrange(len(rows.sequences)))
        if rows.sequences:
            count = draw.choice([1, 1, 1, 2, 5, 20])
            rows.step([[draw.randrange(1, 1000) for _ in range(count)] for _ in rows.sequences])
    return rows.furthest


@pytest.mark.parametrize("kind", [*KINDS, "llama", "mistral"])
def test_rows_come_and_go(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter and longer than the window, over its edge by one token or by many, in buffers that grow on the way."""
    monkeypatch.setattr(rows_cache, "_COLUMNS", 8)
    model = model_of(kind)
    assert max(at_random(model, seed) for seed in range(3)) < 2e-5


def test_a_row_in_the_wrong_place_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a row that takes a free place without its keys."""
    monkeypatch.setattr(RowsLayer, "move", lambda layer, source, target: None)
    assert at_random(model_of("mixed"), 0) > 1e-3


def test_whoever_waits_for_the_model_has_it_first() -> None:
    """A thread that gives way returns once another had the model; without that it would take it again at once."""
    lease, order = Lease(), list[str]()
    lease.take()

    def other() -> None:
        lease.take()
        order.append("other")
        lease.give_back()

    thread = threading.Thread(target=other)
    thread.start()
    while not lease.is_wanted:
        pass
    lease.give_back()
    lease.give_way()
    lease.take()
    order.append("first")
    lease.give_back()
    thread.join()
    assert order == ["other", "first"]
    assert not lease.is_wanted
