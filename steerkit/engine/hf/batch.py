"""Left-padded prompts of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from steerkit.engine.api import Sampling
from steerkit.errors import ModelError
from steerkit.steer import context_of


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

    def within_context(self, model: nn.Module, sampling: Sequence[Sampling]) -> list[Sampling]:
        """The settings with no more new tokens than the model's context holds.

        Raises:
            ModelError: a prompt leaves no room for any.
        """
        context = context_of(model)
        if context is None or self.ids.shape[1] + max(setting.max_new_tokens for setting in sampling) <= context:
            return list(sampling)
        found = []
        for row, (setting, length) in enumerate(zip(sampling, self.mask.sum(dim=-1).tolist(), strict=True), start=1):
            if length >= context:
                which = f"request {row} of {len(sampling)}: " if len(sampling) > 1 else ""
                raise ModelError(
                    f"{which}the prompt has {length:,} tokens, but the model's context is {context:,}, which leaves no "
                    f"room for a reply; shorten the conversation"
                )
            found.append(replace(setting, max_new_tokens=min(setting.max_new_tokens, context - length)))
        return found
