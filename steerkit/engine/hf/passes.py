"""Forward passes of a batch: prompts block by block, then the next tokens of every sequence."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache

from steerkit.engine.hf.batch import Batch
from steerkit.engine.hf.cuda_graphs import GraphDecoder, Graphs
from steerkit.engine.hf.growing_cache import DecodeCache, why_not
from steerkit.engine.hf.prefix_cache import Reuse
from steerkit.engine.hf.unembedding import Unembedding
from steerkit.steer import PrefillState, cache_name, find_sites


class Prefilled(NamedTuple):
    """Prompts that the model has read."""

    cache: DynamicCache
    logits: Tensor
    """`(B, vocabulary)` after them."""
    cached: int
    """Tokens of the prompt that the prefix cache knew."""


def prefill(
    model: PreTrainedModel,
    batch: Batch,
    *,
    split_prompt: bool = False,
    ends: Sequence[int] = (),
    reuse: Reuse | None = None,
) -> Generator[int, None, Prefilled]:
    """Prefill prompts as `decode` would, which has the same arguments, for a decode loop of another kind: yields the
    tokens of each block once it is read, but for the last."""
    passes = Passes(model, batch)
    logits = yield from passes.blocks(split_prompt, ends, reuse)
    return Prefilled(passes.cache, logits, passes.cached)


@torch.inference_mode()
def logits_after(model: PreTrainedModel, ids: Sequence[int]) -> Tensor:
    """Logits `(vocabulary,)` after a sequence, which is read in one pass."""
    return Passes(model, Batch.of([ids], 0, model.device)).prompt(split=False)[0].clone()


class Passes:
    """Forward passes of a batch: the prefill, then a token of each sequence at a time.

    Logits are those of the last token, until the next step.
    """

    def __init__(self, model: PreTrainedModel, batch: Batch, *, one_by_one: bool = False) -> None:
        self._model, self._batch, self._mask = model, batch, batch.mask
        self.cache = DynamicCache(config=model.config)
        self._unembedding = Unembedding(model)
        self._positions = (batch.mask.cumsum(dim=-1) - 1).clamp(min=0)
        self._cache_name = cache_name(model)
        self._decode: DecodeCache | None = None
        self._decodes = why_not(model) is None
        self._graph: GraphDecoder | None = None
        self._one_by_one = one_by_one
        self.cached = 0
        """Tokens of the prompt that the prefix cache knew."""

    def prompt(self, split: bool, ends: Sequence[int] = (), reuse: Reuse | None = None) -> Tensor:
        """Logits after the prompts; `split` feeds their last tokens by themselves, `ends` cuts what is before them."""
        blocks = self.blocks(split, ends, reuse)
        while True:
            try:
                next(blocks)
            except StopIteration as done:
                logits: Tensor = done.value
                return logits

    def blocks(self, split: bool, ends: Sequence[int], reuse: Reuse | None) -> Generator[int, None, Tensor]:
        """The same, block by block: yields the tokens of each but the last."""
        ids, mask, positions = self._batch.ids, self._mask, self._positions
        last = ids.shape[1] - 1
        known = None if reuse is None else reuse(self.cache, self._batch, ends)
        start = self.cached = 0 if known is None else known.resume()
        for end in sorted({*ends, *((last,) if split and last else ())}):
            if end <= start:
                continue
            self._prefill(ids[:, start:end], mask[:, :end], positions[:, start:end])
            if known is not None and end in ends:
                known.keep(start, end)
            yield end - start
            start = end
        self._positions = positions[:, start:]
        where = {"input_ids": ids[:, start:], "attention_mask": mask, "position_ids": self._positions}
        return self._next_logits(self.cache, **where)

    @cached_property
    def _reader(self) -> nn.Module:
        """The decoder without the head, where it is all that the model has; else the model."""
        body = find_sites(self._model).body
        return body if body is self._model.base_model else self._model

    def _prefill(self, ids: Tensor, mask: Tensor, positions: Tensor) -> None:
        """Prefill tokens `(B, T)` whose logits are not needed."""
        where = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        # Without a head there are no logits to keep; with one, a single row of them costs the least.
        few = {"logits_to_keep": last_logits(ids)} if self._reader is self._model else {}
        self._reader(**where, **few, use_cache=True, **{cache_name(self._reader): self.cache})

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Logits after one more token of each sequence."""
        if self._graph is not None:
            return self._graph.step(tokens)
        return self._pass(torch.tensor(tokens, device=self._mask.device).unsqueeze(-1))

    def _pass(self, ids: Tensor) -> Tensor:
        """Logits after the tokens `(B, T)` that come next."""
        if self._decode is None and self._decodes:
            self._decode = DecodeCache(self._model, self.cache, self._mask, self._positions[:, -1:])
        if self._decode is not None:
            return self._next_logits(self._decode, **self._decode.step(ids))
        self._mask = torch.cat([self._mask, self._mask.new_ones(ids.shape)], dim=-1)
        self._positions = self._positions[:, -1:] + torch.arange(1, ids.shape[1] + 1, device=ids.device)
        where = {"input_ids": ids, "attention_mask": self._mask, "position_ids": self._positions}
        return self._next_logits(self.cache, **where)

    def steps(self, columns: Sequence[Sequence[int]]) -> Tensor:
        """Logits after several known tokens of each sequence, fed in one pass where that is what steering sees too."""
        if len(columns) == 1 or self._graph is not None or self._one_by_one:
            return [self.step(tokens) for tokens in columns][-1]
        return self._pass(torch.tensor(columns, device=self._mask.device).T)

    def decode_with(self, graphs: Graphs, prefill_state: PrefillState, tokens: int) -> str:
        """Decode with prepared steps from here on where the plan fits; how it is done then."""
        self._graph, how = graphs.resume(prefill_state, self.cache, self._mask, self._positions[:, -1:], tokens)
        if self._graph is not None:
            self.cache = DynamicCache(config=self._model.config)  # it was copied
        return how

    def _next_logits(self, cache: Cache, *, input_ids: Tensor, **where: Any) -> Tensor:
        """Logits `(B, vocabulary)` after the last of the tokens `(B, T)`; the cache takes their keys and values."""
        keep = {"use_cache": True, "logits_to_keep": last_logits(input_ids), self._cache_name: cache}
        with self._unembedding.in_place():
            output = self._model(input_ids=input_ids, **where, **keep)
        return output.logits[:, -1]  # type: ignore[no-any-return]  # transformers' outputs are not typed

    def close(self) -> None:
        """Leave on the recorder what prepared steps have done."""
        if self._graph is not None:
            self._graph.close()


def last_logits(ids: Tensor) -> int | Tensor:
    """Index of the logits to keep of tokens `(B, T)`, the last: `logits_to_keep` of a model of transformers.

    Cut out of longer rows, the last hidden states would be multiplied by a batched product, for which torch copies the
    whole unembedding, in bfloat16 on a CPU for seconds; picked by their index they are rows of their own.
    """
    length = ids.shape[1]
    return 1 if length == 1 else torch.tensor([length - 1])
