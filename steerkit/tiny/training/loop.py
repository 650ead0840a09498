"""The training loop: Muon for the matrices, AdamW for the rest, a fixed number of steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import AdamW, Muon, Optimizer
from transformers import Gemma3ForCausalLM

from steerkit.tiny.training.batches import Batch


@dataclass(frozen=True)
class Recipe:
    """The choices of one training run."""

    steps: int = 6_500
    """Optimizer steps of about 4,000 tokens each."""
    warmup: int = 200
    """Steps over which the rates rise from 0."""
    few_chunks: int = 20
    """Chunks of 2,048 examples that declare at most three tools."""
    matrix_rate: float = 0.02
    """Muon's learning rate, for the matrices of the layers."""
    other_rate: float = 3e-3
    """AdamW's learning rate, for the embedding and the norms."""
    decay: float = 0.01
    """Weight decay of the matrices."""
    compiled: bool = True
    """Compile the model first: a step then takes two thirds of the time, and needs a C++ compiler."""


Report = Callable[[int, float], None]
"""Called after each step with the step's number, from 1, and its loss."""


def rate(step: int, recipe: Recipe) -> float:
    """The share of the full learning rate at a step: linear up, then a cosine down to 0."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def loss_of(model: Gemma3ForCausalLM, batch: Batch) -> Tensor:
    """Mean cross-entropy of the next token, weighted as the batch says, a float32 scalar."""
    hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state[:, :-1]
    logits = hidden @ model.model.embed_tokens.weight.to(hidden.dtype).T
    targets, weights = batch.ids[:, 1:], batch.weights[:, 1:]
    each = functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
    return (each * weights.flatten()).sum() / weights.sum()


def optimizers(model: Gemma3ForCausalLM, recipe: Recipe) -> list[Optimizer]:
    """Muon for the two-dimensional weights of the layers, AdamW for everything else."""
    matrices = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    chosen = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in chosen]
    return [
        Muon(matrices, lr=recipe.matrix_rate, weight_decay=recipe.decay),
        AdamW(others, lr=recipe.other_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def train(model: Gemma3ForCausalLM, batches: Iterator[Batch], recipe: Recipe, report: Report) -> None:
    """Train in place for `recipe.steps` steps."""
    chosen = optimizers(model, recipe)
    full = [group["lr"] for optimizer in chosen for group in optimizer.param_groups]
    model.train()
    plain = model.model.forward
    if recipe.compiled:
        model.model.forward = torch.compile(plain, dynamic=True)
    for step in range(recipe.steps):
        batch = next(batches)
        loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in chosen:
            for group in optimizer.param_groups:
                group["lr"] = full[chosen.index(optimizer)] * rate(step, recipe)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        report(step + 1, float(loss.detach()))
    model.model.forward = plain
    model.eval()
