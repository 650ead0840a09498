"""The generation loop: prefill, then one step per token, until every sequence has stopped.

Steering needs the loop to be ours: each request stops, samples and is governed on its own, a stream can be dropped in
the middle, and the prompt's length is known to the hooks.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from contextlib import closing
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache

from steerkit.engine.api import Decided, Sampling
from steerkit.engine.hf.batch import Batch
from steerkit.engine.hf.constraints import Constraints
from steerkit.engine.hf.cuda_graphs import GraphDecoder, Graphs
from steerkit.engine.hf.growing_cache import DecodeCache, why_not
from steerkit.engine.hf.prefix_cache import Reuse
from steerkit.engine.hf.sampler import Sampler
from steerkit.engine.hf.unembedding import Unembedding
from steerkit.steer import PrefillState, cache_name, find_sites


class Decoded(NamedTuple):
    """One token of every sequence."""

    tokens: list[int | None]
    """None once it has stopped; a stop token is the last."""
    decided: list[Decided]
    """Who decided; empty where no sequence has a grammar."""
    ahead: int = 0
    """Tokens that the model has read beyond those that it would have read had they come one by one."""


class Ended(NamedTuple):
    """End of a generation."""

    decoding: str | None
    """Way of decoding, where prepared steps were given."""
    cached: int
    """Tokens of the prompt that the prefix cache knew."""


def generate(
    model: PreTrainedModel, batch: Batch, sampling: Sequence[Sampling], stops: Collection[int], pad: int, **how: Any
) -> Generator[list[int | None], Collection[int] | None, str | None]:
    """Yield the tokens alone of `decode`, which has the same arguments."""
    with closing(decode(model, batch, sampling, stops, pad, **how)) as steps:
        cut: Collection[int] | None = None
        while True:
            try:
                step = steps.send(cut)
            except StopIteration as done:
                ended: Ended = done.value
                return ended.decoding
            cut = yield step.tokens


@torch.inference_mode()
def decode(
    model: PreTrainedModel,
    batch: Batch,
    sampling: Sequence[Sampling],
    stops: Collection[int],
    pad: int,
    *,
    split_prompt: bool = False,
    ends: Sequence[int] = (),
    reuse: Reuse | None = None,
    graphs: Graphs | None = None,
    prefill_state: PrefillState | None = None,
    constraints: Constraints | None = None,
) -> Generator[Decoded, Collection[int] | None, Ended]:
    """Yield, step by step, the next token of each sequence, None once it has stopped; a stop token is the last.

    The forward pass of a sequence's last token is not run. Sequences whose numbers are sent into the generator are cut:
    the token just yielded is their last.

    Args:
        model: the model.
        batch: the prompts.
        sampling: of each sequence.
        stops: tokens that end a sequence.
        pad: what is fed in place of tokens of sequences that have stopped.
        split_prompt: feed the prompts' last tokens by themselves, for gates that act from the next token on.
        ends: columns at which the prompt is cut into blocks that are fed one after the other; of one prompt only.
        reuse: what was read of the prompts before.
        graphs: prepared steps to decode with, together with the `prefill_state` of the steering that is attached.
        constraints: the grammars of the sequences. Tokens without a choice are fed in one pass, but one by one where
            `split_prompt` says that gates act from the next token on.

    Raises:
        ModelError: a prompt leaves no room in the model's context; a reply ends where that does.
    """
    sampling = batch.within_context(model, sampling)
    sampler = Sampler(sampling, batch.ids.device)
    passes = _Passes(model, batch, one_by_one=split_prompt)
    left = [setting.max_new_tokens for setting in sampling]
    logits = passes.prompt(split_prompt, ends, reuse)
    decoding = None
    if graphs is not None and prefill_state is not None and max(left) > 1:
        decoding = passes.decode_with(graphs, prefill_state, max(left) - 1)
    try:
        yield from _decode(passes, sampler, logits, left, stops, pad, constraints or Constraints((), stops))
    finally:
        passes.close()
    return Ended(decoding, passes.cached)


def _decode(
    passes: _Passes,
    sampler: Sampler,
    logits: Tensor,
    left: list[int],
    stops: Collection[int],
    pad: int,
    constraints: Constraints,
) -> Generator[Decoded, Collection[int] | None]:
    """The tokens from the first on, of which each sequence may have so many."""
    while True:
        chosen, decided = constraints.choose(sampler, logits, left)
        tokens = _shown(chosen, left)
        left = _left(tokens, left, stops, (yield Decoded(tokens, decided)) or ())
        if not any(left):
            return
        forced = constraints.forced(left)
        columns = [tokens, *(_shown(column, left) for column in forced)]
        logits = passes.steps([[pad if token is None else token for token in column] for column in columns])
        for number, column in enumerate(forced):
            tokens = _shown(column, left)
            decided = ["forced"] * len(tokens)
            left = _left(tokens, left, stops, (yield Decoded(tokens, decided, len(forced) - number)) or ())
            if not any(left):
                return


def _shown(tokens: Sequence[int], left: Sequence[int]) -> list[int | None]:
    """The tokens of the sequences that go on."""
    return [token if rest > 0 else None for token, rest in zip(tokens, left, strict=True)]


def _left(tokens: Sequence[int | None], left: Sequence[int], stops: Collection[int], cut: Collection[int]) -> list[int]:
    """How many tokens each sequence may have after these."""
    return [
        0 if token in stops or row in cut else max(0, rest - 1)
        for row, (token, rest) in enumerate(zip(tokens, left, strict=True))
    ]


@torch.inference_mode()
def read_along(
    model: PreTrainedModel, batch: Batch, reply: Sequence[int], *, split_prompt: bool = False
) -> Generator[Tensor]:
    """Yield the logits `(B, vocabulary)` after the prompts, and after each token of one reply that all are made to say.

    They are those that `generate` chooses from, before temperature.
    """
    passes = _Passes(model, batch)
    yield passes.prompt(split_prompt).clone()
    for token in reply:
        yield passes.step([token] * len(batch.ids)).clone()


@torch.inference_mode()
def logits_after(model: PreTrainedModel, ids: Sequence[int]) -> Tensor:
    """Logits `(vocabulary,)` after a sequence, which is read in one pass."""
    return _Passes(model, Batch.of([ids], 0, model.device)).prompt(split=False)[0].clone()


class Prefilled(NamedTuple):
    """Prompts that the model has read."""

    cache: DynamicCache
    logits: Tensor
    """`(B, vocabulary)` after them."""
    cached: int
    """Tokens of the prompt that the prefix cache knew."""


@torch.inference_mode()
def prefill(
    model: PreTrainedModel,
    batch: Batch,
    *,
    split_prompt: bool = False,
    ends: Sequence[int] = (),
    reuse: Reuse | None = None,
) -> Prefilled:
    """The prompts as `decode` would read them, which has the same arguments, for a decode loop of another kind."""
    passes = _Passes(model, batch)
    logits = passes.prompt(split_prompt, ends, reuse)
    return Prefilled(passes.cache, logits, passes.cached)


class _Passes:
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
