"""The generation loop: prefill, then one step per token, until every sequence has stopped.

Steering needs the loop to be ours: each request stops, samples and is governed on its own, a stream can be dropped in
the middle, and the prompt's length is known to the hooks.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from steerkit.engine.api import Decided, Sampling
from steerkit.engine.hf.batch import Batch
from steerkit.engine.hf.constraints import Constraints
from steerkit.engine.hf.cuda_graphs import Graphs
from steerkit.engine.hf.passes import Passes
from steerkit.engine.hf.prefix_cache import Reuse
from steerkit.engine.hf.sampler import Sampler
from steerkit.steer import PrefillState


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
    passes = Passes(model, batch, one_by_one=split_prompt)
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
    passes: Passes,
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
    passes = Passes(model, batch)
    yield passes.prompt(split_prompt).clone()
    for token in reply:
        yield passes.step([token] * len(batch.ids)).clone()
