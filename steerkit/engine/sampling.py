"""How the next token is chosen from the logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from steerkit.errors import ModelError


@dataclass(frozen=True, slots=True)
class Sampling:
    """Settings of a generation; the default is greedy."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    """0 takes the most likely token; above 0 the logits are divided by it and sampled."""
    top_k: int = 0
    """Sample among this many most likely tokens; 0 for all."""
    top_p: float = 1.0
    """Sample among the most likely tokens that together reach this probability."""
    seed: int = 0
    """Each request draws from a generator of its own with this seed, so a batch draws what single runs draw."""

    def __post_init__(self) -> None:
        checks = {
            "max_new_tokens": (self.max_new_tokens >= 1, "at least 1"),
            "temperature": (self.temperature >= 0, "at least 0"),
            "top_k": (self.top_k >= 0, "at least 0"),
            "top_p": (0 < self.top_p <= 1, "more than 0 and at most 1"),
        }
        for field, (fine, expected) in checks.items():
            if not fine:
                raise ModelError(f"sampling.{field}: got {getattr(self, field)}, expected {expected}")


_NO_IDS = torch.empty(1, 0, dtype=torch.long)
"""The warpers used here do not look at the tokens so far."""


class Sampler:
    """Chooses tokens for a batch."""

    def __init__(self, settings: Sequence[Sampling], device: torch.device) -> None:
        self._settings = settings
        self._warpers = [_warpers(setting) for setting in settings]
        self._generators = [torch.Generator(device).manual_seed(setting.seed) for setting in settings]
        self._greedy = all(setting.temperature == 0 for setting in settings)

    def __call__(self, logits: Tensor) -> Tensor:
        """Next tokens `(B,)` from logits `(B, vocabulary)`."""
        best = logits.max(dim=-1).indices  # of equals the first, as `argmax`, which takes six times as long in bfloat16
        if self._greedy:
            return best
        for row, (setting, warpers) in enumerate(zip(self._settings, self._warpers, strict=True)):
            if setting.temperature > 0:
                scores: Tensor = warpers(_NO_IDS, logits[row : row + 1].float())  # type: ignore[arg-type]  # any will do
                best[row] = torch.multinomial(scores.softmax(dim=-1), 1, generator=self._generators[row])[0, 0]
        return best


def _warpers(setting: Sampling) -> LogitsProcessorList:
    warpers = LogitsProcessorList()
    if setting.temperature > 0:
        warpers.append(TemperatureLogitsWarper(float(setting.temperature)))
    if setting.top_k:
        warpers.append(TopKLogitsWarper(setting.top_k))
    if setting.top_p < 1:
        warpers.append(TopPLogitsWarper(float(setting.top_p)))
    return warpers
