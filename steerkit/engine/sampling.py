"""How the next token is chosen from the logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any, Final, Self

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

    def __new__(cls, *args: object, **given: object) -> Self:
        """Refuse names that are none of its fields, with the one that was probably meant.

        Raises:
            ModelError: there is such a name.
        """
        for name in given:
            if name not in _RANGES:
                close = get_close_matches(name, _RANGES, n=1)
                meant = f"; did you mean {close[0]}?" if close else ""
                raise ModelError(f"sampling: got {name!r}, expected {', '.join(_RANGES)}{meant}")
        return object.__new__(cls)  # with slots the class is made anew, and `super()` would be of the old one

    def __post_init__(self) -> None:
        for name, (kind, fine, expected) in _RANGES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kind) or not fine(value):
                raise ModelError(f"sampling.{name}: got {value!r}, expected {expected}")
            if not isinstance(value, (int, float)):  # of numpy's, which records cannot hold
                number: Any = value
                object.__setattr__(self, name, int(number) if kind is Integral else float(number))


_RANGES: Final[Mapping[str, tuple[type, Callable[[Any], bool], str]]] = {
    "max_new_tokens": (Integral, lambda value: value >= 1, "a whole number, at least 1"),
    "temperature": (Real, lambda value: 0 <= value < math.inf, "a number, at least 0"),
    "top_k": (Integral, lambda value: value >= 0, "a whole number, at least 0"),
    "top_p": (Real, lambda value: 0 < value <= 1, "a number, more than 0 and at most 1"),
    "seed": (Integral, lambda value: -(2**63) <= value < 2**64, "a whole number of 64 bits"),
}
"""By field, what its values are, which are fine, and both in words."""


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
