"""The generation loop: prefill, then one step per token, until every sequence has stopped.

Steering needs the loop to be ours: each request stops, samples and is governed on its own, a stream can be dropped in
the middle, and the prompt's length is known to the hooks.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from steerkit.engine.sampling import Sampler, Sampling


@dataclass(frozen=True, slots=True)
class Batch:
    """Left-padded prompts."""

    ids: Tensor
    """`(B, P)` tokens."""
    mask: Tensor
    """`(B, P)` 1 at tokens, 0 at padding."""

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], pad: int, device: torch.device) -> Batch:
        """Pad `prompts` on the left to the length of the longest."""
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), pad)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        return cls(ids.to(device), mask.to(device))


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    batch: Batch,
    sampling: Sequence[Sampling],
    stops: Collection[int],
    pad: int,
    *,
    split_prompt: bool = False,
) -> Generator[list[int | None], Collection[int] | None]:
    """Yield, step by step, the next token of each sequence, None once it has stopped; a stop token is the last.

    The forward pass that would only read a sequence's last token is not run. Sequences whose numbers are sent into the
    generator are cut: the token just yielded is their last.

    Args:
        model: the model.
        batch: the prompts.
        sampling: of each sequence.
        stops: tokens that end a sequence.
        pad: what is fed in place of tokens of sequences that have stopped.
        split_prompt: feed the prompts' last tokens by themselves, for gates that act from the next token on.
    """
    sampler = Sampler(sampling, batch.ids.device)
    cache = DynamicCache(config=model.config)
    left = [setting.max_new_tokens for setting in sampling]
    ids, mask = batch.ids, batch.mask
    positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)
    if split_prompt and ids.shape[1] > 1:
        _logits(model, ids[:, :-1], mask[:, :-1], positions[:, :-1], cache)
        ids, positions = ids[:, -1:], positions[:, -1:]
    while True:
        chosen = sampler(_logits(model, ids, mask, positions, cache))
        tokens: list[int | None] = [
            token if rest > 0 else None for token, rest in zip(chosen.tolist(), left, strict=True)
        ]
        cut = (yield tokens) or ()
        left = [
            0 if token in stops or row in cut else max(0, rest - 1)
            for row, (token, rest) in enumerate(zip(tokens, left, strict=True))
        ]
        if not any(left):
            return
        fed = [pad if token is None else token for token in tokens]
        ids = torch.tensor(fed, device=ids.device).unsqueeze(-1)
        mask = torch.cat([mask, mask.new_ones(len(fed), 1)], dim=-1)
        positions = positions[:, -1:] + 1


def cache_name(model: PreTrainedModel) -> str:
    """What the model's forward calls its cache of keys and values: `cache` from transformers 5.24 on."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def _logits(model: PreTrainedModel, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
    """Logits `(B, vocabulary)` after the last of the tokens `(B, T)`; the cache takes their keys and values."""
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        use_cache=True,
        logits_to_keep=1,
        **{cache_name(model): cache},
    )
    return output.logits[:, -1]  # type: ignore[no-any-return]  # transformers' outputs are not typed
