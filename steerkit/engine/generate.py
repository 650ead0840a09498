"""The generation loop: prefill, then one step per token, until every sequence has stopped.

Steering needs the loop to be ours: each request stops, samples and is governed on its own, a stream can be dropped in
the middle, and the prompt's length is known to the hooks.
"""

from __future__ import annotations

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
    model: PreTrainedModel, batch: Batch, sampling: Sequence[Sampling], stops: Collection[int], pad: int
) -> Generator[list[int | None]]:
    """Yield, step by step, the next token of each sequence, None once it has stopped; a stop token is the last.

    The forward pass that would only read a sequence's last token is not run.
    """
    sampler = Sampler(sampling, batch.ids.device)
    cache = DynamicCache(config=model.config)
    left = [setting.max_new_tokens for setting in sampling]
    ids, mask = batch.ids, batch.mask
    positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)
    while True:
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        chosen = sampler(logits)
        tokens: list[int | None] = [
            token if rest > 0 else None for token, rest in zip(chosen.tolist(), left, strict=True)
        ]
        yield tokens
        left = [0 if token in stops else max(0, rest - 1) for token, rest in zip(tokens, left, strict=True)]
        if not any(left):
            return
        fed = [pad if token is None else token for token in tokens]
        ids = torch.tensor(fed, device=ids.device).unsqueeze(-1)
        mask = torch.cat([mask, mask.new_ones(len(fed), 1)], dim=-1)
        positions = positions[:, -1:] + 1
