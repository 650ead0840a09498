"""A small random model and planted SAEs, shared by the tests of steering."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from steerkit.policy import Policy
from steerkit.sae import SaeSet
from steerkit.sites import Site
from steerkit.testing import planted_policy, planted_saes, small_model

PROMPTS = ([5, 17, 301, 44, 9, 120, 77], [8, 33, 2, 900], [64, 1, 7, 7, 512, 230, 11, 80, 3])


@pytest.fixture(scope="package")
def model() -> nn.Module:
    return small_model()


@pytest.fixture(scope="package")
def saes(model: nn.Module) -> SaeSet:
    return planted_saes(model)


def clamp(
    value: float, *, layer: Site | int = 1, index: int = 3, where: str = "any", name: str = "planted", **rule: Any
) -> Policy:
    """A policy that clamps one feature at a place."""
    steer = [{"name": "clamp", "where": where, "edit": {"f": {"clamp": value}}, **rule}]
    return planted_policy(name, {"f": (layer, index)}, steer=steer)


def left_padded(prompts: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` as a tokenizer with left padding makes them."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return {"input_ids": ids, "attention_mask": mask}


def logits_of(model: nn.Module, ids: Sequence[int]) -> torch.Tensor:
    """`(T, vocabulary)` logits of one sequence."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([list(ids)])).logits[0]


def hooks_on(model: nn.Module) -> int:
    """How many hooks are registered anywhere on the model."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
