"""The next tokens of a batch, drawn from its logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from steerkit.engine.api import Sampling

_NO_IDS = torch.empty(1, 0, dtype=torch.long)
"""The warpers used here do not look at the tokens so far."""


class Sampler:
    """Chooses tokens for a batch."""

    def __init__(self, settings: Sequence[Sampling], device: torch.device) -> None:
        self._settings = settings
        self._warpers = [_warpers(setting) for setting in settings]
        self.generators = [torch.Generator(device).manual_seed(setting.seed) for setting in settings]
        """What each row draws from."""
        self._greedy = all(setting.temperature == 0 for setting in settings)

    def __call__(self, logits: Tensor) -> Tensor:
        """Next tokens `(B,)` from logits `(B, vocabulary)`."""
        best = logits.max(dim=-1).indices  # of equals the first, as `argmax`, which takes six times as long in bfloat16
        if self._greedy:
            return best
        for row, (setting, warpers) in enumerate(zip(self._settings, self._warpers, strict=True)):
            if setting.temperature > 0:
                scores = _scores(warpers, logits[row : row + 1].float())
                best[row] = torch.multinomial(scores.softmax(dim=-1), 1, generator=self.generators[row])[0, 0]
        return best

    def among(self, row: int, logits: Tensor, ids: Tensor) -> int:
        """Another token of a row from its logits `(vocabulary,)`, drawn among some `(n,)` in ascending order.

        Where top-k and top-p leave none of them, they are applied to those alone.
        """
        setting, warpers = self._settings[row], self._warpers[row]
        if setting.temperature == 0:
            return int(ids[logits[ids].argmax()])
        every = logits.unsqueeze(0).float()
        chances = _scores(warpers, every).softmax(dim=-1)[0, ids]
        if not bool(chances.any()):
            chances = _scores(warpers, every[:, ids]).softmax(dim=-1)[0]
        return int(ids[torch.multinomial(chances, 1, generator=self.generators[row])[0]])


def _scores(warpers: LogitsProcessorList, logits: Tensor) -> Tensor:
    scores: Tensor = warpers(_NO_IDS, logits)  # type: ignore[arg-type]  # any ids will do
    return scores


def _warpers(setting: Sampling) -> LogitsProcessorList:
    warpers = LogitsProcessorList()
    if setting.temperature > 0:
        warpers.append(TemperatureLogitsWarper(float(setting.temperature)))
    if setting.top_k:
        warpers.append(TopKLogitsWarper(setting.top_k))
    if setting.top_p < 1:
        warpers.append(TopPLogitsWarper(float(setting.top_p)))
    return warpers
