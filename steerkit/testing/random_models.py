"""Models with random weights, for tests of shape, memory and speed. They show no behaviour."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedModel

FUNCTIONGEMMA: dict[str, Any] = {
    "vocab_size": 262_144,
    "hidden_size": 640,
    "intermediate_size": 2048,
    "num_hidden_layers": 18,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "sliding_window": 512,
    "max_position_embeddings": 32_768,
    "tie_word_embeddings": True,
}
"""The architecture of google/functiongemma-270m-it."""

SMALL: dict[str, Any] = {
    "vocab_size": 1024,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "sliding_window": 16,
    "max_position_embeddings": 2048,
}
"""Runs a step in about a millisecond."""


def random_model(config: dict[str, Any], *, seed: int = 0, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A Gemma-3 text model of this architecture, its weights drawn from `seed`, in eval mode on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = Gemma3ForCausalLM(Gemma3TextConfig(**config, dtype=dtype))
    model.to(dtype).train(False)  # type: ignore[arg-type]  # transformers wraps it without its types
    return model.requires_grad_(False)
