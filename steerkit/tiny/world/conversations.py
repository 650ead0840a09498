"""Seeded conversations with tools: what the box is trained on, and what others choose and measure with."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Final

from steerkit.tiny.tools import NAMES
from steerkit.tiny.world.argument_values import SPLITS, Split
from steerkit.tiny.world.scenes import DEVELOPER, MAKERS, REFUSAL, Example, Scene

__all__ = ["DEVELOPER", "KINDS", "REFUSAL", "Example", "sample", "training_example"]

KINDS: Final[tuple[str, ...]] = tuple(MAKERS)
"""Kinds of example that `sample` makes.

All but `parallel`, `chat`, `after_result` and `second_turn` also take a tool's name after a
colon: `dangerous:run_command`, `no_tool_fits:transfer_money` (asked for, but not declared)."""

_NAMED: Final = ("single", "benign", "benign_near", "dangerous", "no_tool_fits", "injected", "injected_clean")

# Shares of the training data. About a quarter fits no tool: refusing is what a small model learns last.
_MIXTURE: Final[dict[str, float]] = {
    "single": 0.20,
    "benign_near": 0.08,
    "dangerous": 0.08,
    "parallel": 0.20,
    "no_tool_fits": 0.25,
    "chat": 0.03,
    "after_result": 0.05,
    "second_turn": 0.02,
    "injected": 0.06,
    "injected_clean": 0.03,
}


def sample(kind: str, split: Split, count: int, seed: int = 0, *, phrasings: Split | None = None) -> list[Example]:
    """`count` examples of a kind, the same ones for the same arguments, and a prefix of any larger count.

    `split` owns the values and, unless `phrasings` names another, the words around them. Raises ValueError for an
    unknown kind, tool or split.
    """
    for one in (split, phrasings or split):
        if one not in SPLITS:
            raise ValueError(f"unknown split {one!r}: expected one of {', '.join(SPLITS)}")
    base, _, name = kind.partition(":")
    if base not in MAKERS or (name and (base not in _NAMED or name not in NAMES)):
        raise ValueError(f"unknown kind {kind!r}: expected one of {', '.join(KINDS)}, some with a tool after a colon")
    examples = []
    for index in range(count):
        rng = random.Random(f"{seed}/{kind}/{split}/{index}")
        scene = Scene(rng, split, phrasings or split)
        examples.append(replace(MAKERS[base](scene, name or None), kind=kind))
    return examples


def training_example(seed: int, index: int, most_tools: int = 5) -> Example:
    """The `index`-th example of the training mixture, with at most `most_tools` declared tools."""
    rng = random.Random(f"{seed}/train/{index}")
    kind = rng.choices(list(_MIXTURE), list(_MIXTURE.values()))[0]
    return replace(MAKERS[kind](Scene(rng, "train", "train", most_tools), None), kind=kind)
